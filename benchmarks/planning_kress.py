"""Kress et al. (arXiv:2406.19913): six networks on a slow and a fast accelerator behind 1 Gbit/s Ethernet.

    python -m benchmarks.planning_kress --png results/kress.png

The published figures come from CNNParted, which simulates each layer with Timeloop. Here there is no such simulator, so
the costs are a table made of three published figures of each network and one assumption:

* A layer's share of a platform's time is its share of the network's multiply-adds. So both platforms alone have their
  published throughput by construction, and the time of a part is modelled. Timeloop's times aren't proportional to
  multiply-adds (depthwise layers use an array badly), so other cuts balance the two platforms.
* Words on the link have 16 bits; a transfer takes CNNParted's Ethernet frames: max(n, 46) + 26 ceil(n / 1500) bytes and
  5 m of cable at 6 ns/m. It costs 0.6 W while it lasts.
* Power of simba_like: the published energy of a frame without the link's, over its time. Power of eyeriss_like: what
  the published best split of EfficientNet-B0 leaves for it (91.5 mJ in all, of 207.7 ms and 172.8 ms on the two).

The input arises beside eyeriss_like, the order of the platforms is fixed, and the answer isn't sent back, as there.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.ending import ended
from benchmarks.planning_rows import Options, Row
from runner.front_plot import front_figure
from runner.plots import to_png
from testbed.model.costs import analyse
from testbed.model.costs import chain as chain_costs
from testbed.model.graph import ModelGraph
from testbed.model.program import TensorSpec
from testbed.model.signature import Input
from testbed.model.zoo import load_model
from testbed.planning.adapter import chain_from
from testbed.planning.evaluate import evaluate
from testbed.planning.pareto import ParetoFront, front
from testbed.planning.plan import Assignment, Plan
from testbed.planning.problem import Path as Link
from testbed.planning.problem import Problem, Worker
from testbed.planning.strategies import solve
from testbed.planning.tradeoff import figures

SECTION = "kress"
WORD_BITS, FLOAT_BITS = 16, 32
LINE_BPS, LINK_W = 1e9, 0.6
CABLE_S = 5 * 6e-9
EYERISS_W = (91.5e-3 - 0.678 * 86.2e-3 - 0.4e-3) / 0.1728
"""Published best split of EfficientNet-B0: 67.8 % of the work is on simba_like, whose whole takes 86.2 mJ."""

AIMS = ("latency", "throughput", "energy", "traffic", "memory")


@dataclass(frozen=True, slots=True)
class Published:
    """Of CNNParted's results (itiv-kit/cnn-parted 372bf92, ``examples/results``).

    Attributes:
        name: The network in the zoo.
        simba_fps, simba_ms, simba_mj: All of it on simba_like, the raw input sent there.
        eyeriss_fps: All of it on eyeriss_like.
        split_fps: The best split.
    """

    name: str
    simba_fps: float
    simba_ms: float
    simba_mj: float
    eyeriss_fps: float
    split_fps: float

    @property
    def gain_pct(self) -> float:
        """Throughput of the best split over that of simba_like alone."""
        return 100 * (self.split_fps / self.simba_fps - 1)


NETWORKS = (
    Published("efficientnet_b0", 3.263, 308.9, 87.6, 1.82, 4.814),
    Published("googlenet", 33.14, 32.6, 9.39, 17.3, 50.30),
    Published("regnet_x_400mf", 26.00, 41.0, 11.7, 9.90, 36.42),
    Published("resnet50", 12.41, 83.0, 23.6, 4.83, 16.01),
    Published("squeezenet1_1", 129.6, 10.2, 3.70, 59.0, 176.5),
    Published("vgg16", 3.330, 302.8, 84.3, 1.30, 4.108),
)
HEADLINE = "efficientnet_b0"
TOLERANCE_PCT = 20.0
"""How far the headline's gain may be off the published one, relative to it."""


def ethernet_bits(spec: TensorSpec) -> float:
    """Bits on the wire of a tensor in 16-bit words, in frames as CNNParted counts them."""
    size = math.ceil(8 * spec.bytes / FLOAT_BITS * WORD_BITS / 8)
    return 8.0 * (max(size, 46) + 26 * math.ceil(size / 1500))


@cache
def problem(network: Published) -> Problem:
    """A network on the two platforms; every position of its operations is a cut, whatever crosses it."""
    inputs = (Input((1, 3, 224, 224)),)
    graph = ModelGraph.trace(load_model(name=network.name, input_shape=inputs, seed=0, run=False), inputs)
    flops = [cost.flops for cost in analyse(graph)]
    whole_s = 1 / network.simba_fps
    costs = chain_costs(
        graph, [whole_s * share / sum(flops) for share in flops], max_cut_tensors=None, encoded_bits=ethernet_bits
    )
    chain = chain_from(costs)
    link = Link(LINE_BPS, CABLE_S, LINK_W / LINE_BPS)
    local = Link(math.inf, 0.0, 0.0)
    input_mj = 1e3 * chain.boundary_bits[0] * LINK_W / LINE_BPS
    return Problem(
        chain,
        (
            Worker("eyeriss_like", network.eyeriss_fps / network.simba_fps, power_w=EYERISS_W),
            Worker("simba_like", 1.0, power_w=(network.simba_mj - input_mj) / 1e3 / whole_s),
        ),
        "sensor",
        {
            ("sensor", "eyeriss_like"): local,
            ("sensor", "simba_like"): link,
            ("eyeriss_like", "simba_like"): link,
            ("eyeriss_like", "sensor"): local,
            ("simba_like", "sensor"): local,
        },
    )


def alone(network: Published, platform: str) -> Plan:
    """All of a network on one platform."""
    at = problem(network)
    return evaluate(at, (Assignment(platform, 0, at.chain.segments),), "single", None, 0.0)


def rows(options: Options) -> Iterator[Row]:
    """The six networks; with ``options.quick`` the headline's alone."""
    for network in NETWORKS[:1] if options.quick else NETWORKS:
        yield from _rows(network)


def _rows(network: Published) -> Iterator[Row]:
    case, at = network.name, problem(network)
    simba, eyeriss, split = alone(network, "simba_like"), alone(network, "eyeriss_like"), solve(at, "exact")
    headline = case == HEADLINE
    yield Row(
        SECTION,
        case,
        "all on simba_like, ms",
        1e3 * simba.latency_s,
        *_within(network.simba_ms, 1.0),
        network.simba_ms,
        "throughput is the published one by construction, latency adds the raw input's transfer",
    )
    yield Row(
        SECTION,
        case,
        "all on simba_like, mJ",
        1e3 * simba.energy_j,
        *_within(network.simba_mj, 1.0),
        network.simba_mj,
    )
    yield Row(
        SECTION, case, "all on eyeriss_like, 1/s", eyeriss.throughput_rps, *_within(network.eyeriss_fps, 1.0),
        network.eyeriss_fps,
    )  # fmt: skip
    gain_pct = 100 * (split.throughput_rps / simba.throughput_rps - 1)
    bar = _within(network.gain_pct, TOLERANCE_PCT) if headline else (0.0, math.inf)
    most = 100 * network.eyeriss_fps / network.simba_fps
    yield Row(
        SECTION, case, "throughput gain of the best split, %", gain_pct, *bar, network.gain_pct,
        f"with one ratio of speeds for all layers no split gains more than {most:.1f} %",
    )  # fmt: skip
    yield Row(SECTION, case, "gap of the best split (0: proven)", split.gap or 0.0, 0.0, 0.0)
    if headline:
        yield Row(SECTION, case, "best split, ms", 1e3 * split.latency_s, *_within(381.2, 10.0), 381.2)
        yield Row(SECTION, case, "best split, mJ", 1e3 * split.energy_j, *_within(91.5, 10.0), 91.5)
        found = front(at, AIMS)
        yield Row(SECTION, case, "plans on the front", len(found.plans), 3, note="by five aims, " + _kind(found))
        yield Row(
            SECTION, case, "the best split is on the front", float(_on(found, at, split)), 1.0, 1.0,
            note="and so is all on one platform: nothing sent, or least energy",
        )  # fmt: skip


def _within(reference: float, per_cent: float) -> tuple[float, float]:
    return reference * (1 - per_cent / 100), reference * (1 + per_cent / 100)


def _kind(found: ParetoFront) -> str:
    return "complete" if found.complete else "by NSGA-II"


def _on(found: ParetoFront, at: Problem, plan: Plan) -> bool:
    """Whether a plan's throughput is the best of the front's."""
    column = found.aims.index("throughput")
    return figures(at, plan)["throughput"] <= min(values[column] for values in found.values) * (1 + 1e-9)


def picture(network: Published) -> bytes:
    """The front of a network, latency against bottleneck, energy as colour, with what was published of the headline."""
    at = problem(network)
    aims = ("latency", "throughput", "energy")
    marked = [(f"all {name}", [figures(at, alone(network, name))[aim] for aim in aims])
              for name in ("eyeriss_like", "simba_like")]  # fmt: skip
    if network.name == HEADLINE:
        marked.append(("published best split", [0.3812, 1 / network.split_fps, 0.0915]))
    return to_png(front_figure(front(at, aims), f"{network.name} on two accelerators", marked))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the rows and draw the headline's front."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{HEADLINE} alone")
    parser.add_argument("--png", type=Path, metavar="FILE", help=f"draw the Pareto front of {HEADLINE} here")
    given = parser.parse_args(arguments)
    over = 0
    for row in rows(Options(given.quick, None)):
        reference = "" if math.isnan(row.reference) else f"{row.reference:.4g}"
        verdict = ("ok" if row.ok else "OVER") if row.has_bar else ""
        print(f"{row.case:18}{row.measure:38}{row.value:>10.4g}{reference:>10} {verdict:5}{row.note}".rstrip())
        over += not row.ok
    if given.png is not None:
        given.png.write_bytes(picture(NETWORKS[0]))
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(ended(main))

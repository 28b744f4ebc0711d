"""DNNSplit (IEEE Access 12:80047, 2024): how few cuts are candidates, and that they suffice.

    python -m benchmarks.planning_dnnsplit --paper ../shared/paper

Published: a network of 517 layers has 5 candidates. On the Keras layer graphs in ``--paper`` the rule is counted twice:
by the sizes of single layers' outputs, as published, and by all that crosses a position, which is what a cut sends.
Then random tiers of hosts that meet the preconditions: the best split at the candidates against the best at all cuts.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.ending import ended
from benchmarks.planning_rows import Options, Row
from testbed.planning.dnnsplit import TIERS, Splitter, best_split, broken_preconditions, candidates
from testbed.planning.evaluate import evaluate
from testbed.planning.problem import Chain, Problem, Worker
from testbed.planning.problem import Path as Link
from testbed.planning.published import LayerGraph, load_layer_graphs

SECTION = "dnnsplit"
FLOAT32_BITS = 32
PUBLISHED = {"ResNet152": (517, 5), "VGG16": (23, 4)}
"""Layers and candidates; of VGG16 as the rule gives them (notes/papers.md)."""

SETTINGS, QUICK_SETTINGS = 1000, 150


def crossing(graph: LayerGraph) -> list[int]:
    """Values that cross the position behind each layer: outputs so far that a later layer reads, each once."""
    last = graph.last_use()
    sizes, live = [], 0
    ending: dict[int, int] = {}
    for index, layer in enumerate(graph.layers):
        live += layer.elements
        ending[last[index]] = ending.get(last[index], 0) + layer.elements
        # The network's output is read by whoever asked.
        gone = ending.get(index, 0) if index < len(graph.layers) - 1 else 0
        live -= gone
        sizes.append(live if index < len(graph.layers) - 1 else layer.elements)
    return sizes


def chain(graph: LayerGraph, rng: np.random.Generator) -> Chain:
    """A segment a layer behind the input; compute drawn, for the claim holds whatever it is."""
    sizes = crossing(graph)
    count = len(sizes) - 1
    return Chain(
        tuple(range(count + 1)),
        tuple(float(FLOAT32_BITS * size) for size in sizes),
        tuple(4 * layer.params for layer in graph.layers[1:]),
        (0,) * count,
        tuple(rng.lognormal(math.log(0.2 / count), 1.0, count).tolist()),
    )


def tiers(model: Chain, rng: np.random.Generator) -> Problem:
    """Hosts on a line from a device, where inputs arise, to a cloud: upwards faster, and cheaper for the same work."""
    count = int(rng.integers(2, len(TIERS) + 1))
    speeds = np.sort(np.exp(rng.uniform(np.log(0.05), np.log(20), count)))
    prices = np.sort(rng.uniform(0.1, 5, count))[::-1] * speeds
    rates = np.exp(rng.uniform(np.log(1e6), np.log(1e9), count))
    rates[0] = 1e12  # the device's own camera
    delays, money = rng.uniform(0, 0.02, count), rng.uniform(0, 1e-9, count)
    workers = tuple(
        Worker(name, float(speed), price_per_s=float(price), tier=tier)
        for tier, (name, speed, price) in enumerate(zip(TIERS[:count], speeds, prices, strict=True))
    )
    names = ["camera", *TIERS[:count]]
    paths = {}
    for row, source in enumerate(names):
        for column, target in enumerate(names):
            if row != column:
                between = slice(min(row, column), max(row, column))
                paths[source, target] = Link(
                    float(rates[between].min()), float(delays[between].sum()), None, float(money[between].sum())
                )
    return Problem(model, workers, "camera", paths, objective=str(rng.choice(["latency", "cost"])))


def rows(options: Options) -> Iterator[Row]:
    """Counts on the layer graphs, and settings where the restricted optimum was compared with the full one."""
    file = None if options.paper is None else options.paper / "layer_graphs.json"
    if file is None or not file.is_file():
        yield Row(SECTION, "layer graphs", "models", 0.0, note="not measured: layer_graphs.json is not in --paper")
        return
    graphs = load_layer_graphs(file)
    for name, graph in graphs.items():
        layers, points = PUBLISHED.get(name, (math.nan, math.nan))
        found = len(candidates([layer.elements for layer in graph.layers])) - 1
        true = len(candidates(crossing(graph))) - 1
        bar = (points, points) if name in PUBLISHED else (-math.inf, math.inf)
        if name in PUBLISHED:
            yield Row(SECTION, name, "layers", len(graph.layers), layers, layers, layers)
        yield Row(SECTION, name, "candidates by layers' outputs", found, *bar, points)
        yield Row(SECTION, name, "candidates by all that crosses", true, note="what dnnsplit uses")
    yield from _optima(graphs, options)


def _optima(graphs: Mapping[str, LayerGraph], options: Options) -> Iterator[Row]:
    rng = np.random.default_rng(options.seed)
    settings = QUICK_SETTINGS if options.quick else SETTINGS
    names = sorted(graphs)
    worst = broken = 0.0
    few_s = all_s = 0.0
    for index in range(settings):
        problem = tiers(chain(graphs[names[index % len(names)]], rng), rng)
        broken += bool(broken_preconditions(problem))
        costs: list[float] = []
        for boundaries in (Splitter.of(problem).cuts, range(problem.chain.segments + 1)):
            started_s = time.perf_counter()
            split = best_split(problem, boundaries)
            elapsed_s = time.perf_counter() - started_s
            few_s, all_s = (few_s + elapsed_s, all_s) if not costs else (few_s, all_s + elapsed_s)
            assert split is not None
            plan = evaluate(problem, split, "dnnsplit", None, 0.0)
            costs.append(plan.cost if problem.objective == "cost" else plan.latency_s)
        worst = max(worst, costs[0] / costs[1] - 1)
    case = f"{settings} settings of tiers"
    yield Row(SECTION, case, "preconditions broken in", broken, 0.0, 0.0)
    yield Row(SECTION, case, "worst excess over the full optimum", worst, -1e-9, 1e-9, note="latency or cost, relative")
    yield Row(SECTION, case, "time of a decision, all cuts / few", all_s / few_s, note=f"{few_s / settings:.2g} s")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paper", type=Path, metavar="DIR", required=True, help="folder with layer_graphs.json")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SETTINGS} settings, not {SETTINGS}")
    given = parser.parse_args(arguments)
    over = 0
    for row in rows(Options(given.quick, given.paper)):
        reference = "" if math.isnan(row.reference) else f"{row.reference:.4g}"
        verdict = ("ok" if row.ok else "OVER") if row.has_bar else ""
        print(f"{row.case:28}{row.measure:38}{row.value:>10.4g}{reference:>8} {verdict:5}{row.note}".rstrip())
        over += not row.ok
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(ended(main))

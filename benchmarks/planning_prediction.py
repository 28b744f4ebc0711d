"""Does a plan give what it promises? Needs root: each plan runs on the emulated cluster.

    sudo python -m benchmarks.planning --sections prediction

Four clusters in which different things bound a pipeline, three strategies on each. A prediction is what the planner
says before anything runs, from the experiment's file and the times of the model's operations alone; nothing in it is
fitted to what a run then gives. What is compared with it is the steady rate of answers, from two seconds after the
first one to the last.

Compute is calibrated where links are in question, so that a busy machine doesn't blur them, and real in the cluster
where computing is. No plan counts what receiving and sending take of a host's core, about 0.75 ms for an image of 602
kB; a real host's quota has room for that (:mod:`runner.quota_fit`), and where it hasn't the run is not valid. A run
that the testbed itself calls invalid is made again, and its row says so; with ``--quick`` it isn't, and links aren't
measured before and after a run.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import os
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.compute_fidelity import throughput_rps
from benchmarks.planning_rows import Options as Given
from benchmarks.planning_rows import Row
from runner.comparison import Measurement, compare_all, measure
from runner.experiment import Options, Result, run
from runner.link_sample import MOST_LINKS
from runner.preparation import Modelled, Prepared, Progress, model_of, planned
from testbed.emulation.machine import capabilities
from testbed.planning.comparison import Contender
from testbed.spec import Experiment
from testbed.spec.hosts import ComputeSpec, HostSpec
from testbed.spec.inference import ModelSpec, PlacementSpec
from testbed.spec.links import LinkSpec
from testbed.spec.recovery import RecoverySpec
from testbed.spec.workload import ClosedWorkload

SECTION = "prediction"
MOST_ERROR_PCT = 5.0
LEAST_TAU = 0.9
ALIKE = 0.03
"""Throughputs that differ by less, relative to the larger, are a tie: two runs of one plan differ by as much."""
ATTEMPTS = 3
QUICK_S, FULL_S = 8.0, 30.0
IMAGE = (1, 3, 224, 224)
MBIT = 1_000_000

asked_once = functools.cache(capabilities)
"""What this machine can do, for all runs."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A cluster, and the strategies to try on it.

    Attributes:
        whole_s: What the whole model takes on each worker. Shares of a core follow from this machine's speed, so that
            the same things bound a pipeline on every machine.
        links: Mbit/s between two ends.
        mode: How computing is emulated.
        strategies: Three whose plans differ.
    """

    name: str
    whole_s: Mapping[str, float]
    links: Mapping[tuple[str, str], float]
    mode: str
    strategies: tuple[str, str, str]

    def experiment(self, core_s: float, duration_s: float) -> Experiment:
        """As a file would declare it, on a machine where the whole model takes ``core_s`` on one core."""
        ends = {end for link in self.links for end in link}
        shares = {"dispatcher": 0.4, **{host: round(core_s / whole_s, 4) for host, whole_s in self.whole_s.items()}}
        return Experiment(
            name=self.name,
            seed=1,
            hosts={host: HostSpec(cpu=share) for host, share in shares.items()},
            switches=tuple(sorted(ends - shares.keys())),
            links=tuple(
                LinkSpec(between=between, rate_bps=round(rate * MBIT), delay_s=0.002)
                for between, rate in self.links.items()
            ),
            model=ModelSpec(name="mobilenet_v2", input=IMAGE),
            placement=PlacementSpec(deploy="prestaged"),
            compute=ComputeSpec(mode="real" if self.mode == "real" else "calibrated"),
            workload=ClosedWorkload(in_flight=6, duration_s=duration_s, distinct=4),
            # A busy machine must not make a host seem dead: what is measured is the first plan.
            recovery=RecoverySpec(heartbeat_s=1.0, misses=10),
        )


def star(rates: Mapping[str, float]) -> dict[tuple[str, str], float]:
    """Links around one switch."""
    return {(host, "s1"): rate for host, rate in rates.items()}


def complete(rates: Sequence[float], hosts: Sequence[str]) -> dict[tuple[str, str], float]:
    """A link for each pair, rates in the order of the pairs."""
    return dict(zip(itertools.combinations(hosts, 2), rates, strict=True))


THREE = ("node1", "node2", "node3")
FOUR = (*THREE, "node4")
SETTINGS = (
    Setting(
        "slow-star",
        dict.fromkeys(THREE, 0.2),
        star({"dispatcher": 100, "node1": 20, "node2": 30, "node3": 60}),
        "calibrated",
        ("exact", "k-path", "even"),
    ),
    Setting(
        "unequal-hosts",
        {"node1": 0.54, "node2": 0.22, "node3": 0.135},
        star(dict.fromkeys(("dispatcher", *THREE), 100.0)),
        "calibrated",
        ("exact", "single", "even"),
    ),
    Setting(
        "unequal-pairs",
        dict.fromkeys(FOUR, 0.2),
        complete((30, 60, 40, 25, 8, 35, 10, 6, 40, 14), ("dispatcher", *FOUR)),
        "calibrated",
        ("exact", "random", "even"),
    ),
    Setting(
        "slow-hosts",
        {"node1": 0.22, "node2": 0.145, "node3": 0.11},
        star(dict.fromkeys(("dispatcher", *THREE), 400.0)),
        "real",
        ("exact", "even", "single"),
    ),
)


def concordance(predicted: Sequence[float], measured: Sequence[float]) -> tuple[int, int, int, int]:
    """How pairs of two rankings agree: concordant, discordant, not tied in the first, not tied in the second."""
    agree = differ = first = second = 0
    for (a, c), (b, d) in itertools.combinations(zip(predicted, measured, strict=True), 2):
        before, after = _order(a, b), _order(c, d)
        agree += before * after > 0
        differ += before * after < 0
        first += before != 0
        second += after != 0
    return agree, differ, first, second


def _order(first: float, second: float) -> int:
    if abs(first - second) <= ALIKE * max(first, second):
        return 0
    return 1 if first > second else -1


def tau_b(counts: Sequence[tuple[int, int, int, int]]) -> float:
    """Kendall's tau-b (Biometrika 33:239, 1945) over the pairs of several rankings; NaN where all are ties."""
    agree, differ, first, second = (sum(column) for column in zip(*counts, strict=True))
    return (agree - differ) / math.sqrt(first * second) if first and second else math.nan


@dataclass(frozen=True, slots=True)
class Compared:
    """A plan's promise and what its run gave, both in requests a second."""

    contender: Contender
    promise: Measurement
    measured_rps: float

    @property
    def error_pct(self) -> float:
        """Of the prediction, relative to the measurement; above 0 is too hopeful."""
        return 100 * (self.promise.predicted_rps / self.measured_rps - 1)


def compared(setting: Setting, modelled: Modelled, folder: Path, *, quick: bool) -> list[Compared]:
    """Run each plan of a setting; unless ``quick`` measure its links as well, and run it again if it is invalid."""
    attempts, most_links = (1, 0) if quick else (ATTEMPTS, MOST_LINKS)
    steady: list[float] = []

    def prepare(declared: Experiment, progress: Progress) -> Prepared:
        return planned(declared, declared, modelled.graph, modelled.samples, modelled.op_seconds)

    def valid(experiment: Experiment, options: Options) -> Result:
        for attempt in range(1, attempts + 1):
            result = run(experiment, options)
            if result.ruling.outcome != "passed":
                raise SystemExit(f"{experiment.name}: {'; '.join(result.ruling.reasons)}")
            if result.verdict.level != "invalid" or attempt == attempts:
                break
        steady.append(throughput_rps(result))
        return result

    tried = compare_all(modelled, setting.strategies)
    options = Options(folder, prepare=prepare, machine=asked_once, most_links=most_links, report=False)
    found = measure(modelled.experiment, tried, options, valid)
    ran = [contender for contender in tried if contender.strategy in found]
    return [
        Compared(contender, found[contender.strategy], rate_rps)
        for contender, rate_rps in zip(ran, steady, strict=True)
    ]


def rows(options: Given) -> Iterator[Row]:
    """A row a plan, then the bars."""
    if os.geteuid():
        yield Row(SECTION, "clusters", "plans run", 0.0, note="not measured: needs root")
        return
    errors: list[float] = []
    counts = []
    duration_s = QUICK_S if options.quick else FULL_S
    # Any share will do to load and time the model.
    first = model_of(SETTINGS[0].experiment(0.01, duration_s))
    for setting in SETTINGS:
        experiment = setting.experiment(math.fsum(first.op_seconds), duration_s)
        modelled = dataclasses.replace(first, declared=experiment, experiment=experiment)
        with tempfile.TemporaryDirectory() as folder:
            found = compared(setting, modelled, Path(folder), quick=options.quick)
        for item in found:
            errors.append(item.error_pct)
            yield Row(SECTION, f"{setting.name}, {item.contender.strategy}", "error of the prediction, %",
                      item.error_pct, note=_told(item))  # fmt: skip
        pairs = concordance([item.promise.predicted_rps for item in found], [item.measured_rps for item in found])
        counts.append(pairs)
        yield Row(SECTION, setting.name, "Kendall tau-b of the ranking", tau_b([pairs]), reference=1.0)
    case = f"{len(errors)} plans on {len(SETTINGS)} clusters"
    yield Row(SECTION, case, "plans run", len(errors), 3 * len(SETTINGS))
    worst = max(map(abs, errors))
    yield Row(SECTION, case, "median error, %", statistics.median(map(abs, errors)), high=MOST_ERROR_PCT,
              note=f"largest: {worst:.1f} %")  # fmt: skip
    yield Row(SECTION, case, "Kendall tau-b of strategies", tau_b(counts), low=LEAST_TAU, note="pairs within a cluster")


def _told(item: Compared) -> str:
    plan, verdict = item.contender.plan, item.promise.verdict
    bound = "" if plan is None else f"; {len(plan.stages)} stages, bound by {plan.bottleneck}"
    return f"{item.promise.predicted_rps:.4g} promised, {item.measured_rps:.4g} given, {verdict}{bound}"

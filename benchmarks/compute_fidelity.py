"""Does an emulated CPU take the time that it should? Needs root.

a. A stage's service time against its share (5, 10, 25 %), in both modes: mean, and 90th percentile over median.
b. An oracle: N balanced stages whose times the benchmark itself sets must give a throughput of one over a stage's time
   and a latency of their sum.
c. The same experiment at time scale 1 and 8 must give the same figures in virtual units.

    sudo python -m benchmarks.compute_fidelity [--quick] [--only service oracle dilation] [--csv FILE]

Exits with 1 if a row is over its bar. Run it on an idle machine: real compute is only as exact as the machine is free.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.fidelity_rows import Parts, Row, measure
from runner.experiment import Options, Result, run
from runner.preparation import Prepared, answer, planned
from testbed.model.costs import profile
from testbed.model.graph import ModelGraph
from testbed.planning.evaluate import evaluate
from testbed.planning.plan import Assignment
from testbed.serving.allocator import keep_freed_memory
from testbed.serving.events import RequestCompleted, StageExecuted
from testbed.spec import Experiment
from testbed.spec.hosts import ComputeSpec, HostSpec
from testbed.spec.inference import ModelSpec
from testbed.spec.links import LinkSpec
from testbed.spec.recovery import RecoverySpec
from testbed.spec.workload import ClosedWorkload

SHARES = {"node5": 0.05, "node10": 0.10, "node25": 0.25}
BLOCKS = {"node5": 4, "node10": 8, "node25": 20}
"""In proportion to the shares, so that all stages take equally long and none waits for another; long enough for ten
periods of a quota."""

STAGE_S = 0.05
SETTLED_S = 2.0


class Block(torch.nn.Module):
    """Convolutions of about 6 ms on a core of 2024; its output has the shape of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Conv2d(128, 128, 3, padding=1) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Residual, so that values neither vanish nor grow without bounds."""
        for layer in self.layers:
            x = torch.relu(x + 0.1 * layer(x))
        return x


def convolutions(blocks: int) -> tuple[torch.nn.Module, tuple[int, ...]]:
    """Real work, in equal blocks."""
    torch.manual_seed(0)
    return torch.nn.Sequential(*(Block() for _ in range(blocks))).eval(), (1, 128, 28, 28)


def layers(count: int, width: int = 256) -> tuple[torch.nn.Module, tuple[int, ...]]:
    """Next to no work, in equal layers: their times come from the benchmark's table."""
    torch.manual_seed(0)
    return torch.nn.Sequential(*(torch.nn.Linear(width, width) for _ in range(count))).eval(), (1, width)


def experiment(
    name: str,
    hosts: Mapping[str, float],
    in_flight: int,
    duration_s: float,
    shape: tuple[int, ...],
    *,
    rate_bps: int | None = None,
    delay_s: float = 0.0,
    **compute: Any,
) -> Experiment:
    """Workers around one switch, and a dispatcher that is fast enough not to matter."""
    return Experiment(
        name=name,
        hosts={"dispatcher": HostSpec(cpu=0.6), **{host: HostSpec(cpu=share) for host, share in hosts.items()}},
        switches=("s1",),
        links=tuple(
            LinkSpec(between=(host, "s1"), rate_bps=rate_bps, delay_s=delay_s) for host in ("dispatcher", *hosts)
        ),
        model=ModelSpec(module="benchmarks.compute_fidelity:unused", input=shape),
        compute=ComputeSpec(**compute),
        workload=ClosedWorkload(in_flight=in_flight, duration_s=duration_s, distinct=4),
        # A busy machine must not make a host seem dead: what is measured is the first plan.
        recovery=RecoverySpec(heartbeat_s=1.0, misses=10),
    )


def prepared_as(
    module: torch.nn.Module,
    shape: tuple[int, ...],
    op_seconds: Callable[[ModelGraph, torch.Tensor], Sequence[float]],
    work: Mapping[str, int],
) -> Callable[[Experiment, Callable[[str], None]], Prepared]:
    """A preparation with a given model, given times and a given placement.

    Args:
        module: The model: blocks of equal work.
        shape: Of its input.
        op_seconds: Seconds of each operation.
        work: How many of the model's blocks each host computes, in order.
    """

    def prepare(declared: Experiment, progress: Callable[[str], None]) -> Prepared:
        torch.set_num_threads(1)
        keep_freed_memory()
        inputs = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
        graph = ModelGraph.trace(module, shape)
        seconds = op_seconds(graph, inputs[0])
        found = planned(declared, declared, graph, answer(module, inputs), seconds)
        plan = evaluate(found.problem, _shared_out(found.problem.chain.compute_s, work), "exact", None, 0.0)
        return dataclasses.replace(found, plan=plan)

    return prepare


def _shared_out(segment_s: Sequence[float], work: Mapping[str, int]) -> tuple[Assignment, ...]:
    """Runs of segments whose times are in proportion to the blocks of each host, as nearly as segments allow."""
    total_s, blocks = sum(segment_s), sum(work.values())
    assigned, first, done, passed_s = [], 0, 0, 0.0
    last = 0
    for host, count in work.items():
        done += count
        while last < len(segment_s) and passed_s + segment_s[last] / 2 < total_s * done / blocks:
            passed_s += segment_s[last]
            last += 1
        assigned.append(Assignment(host, first, last))
        first = last
    return tuple(assigned)


def equal_seconds(stages: int, stage_core_s: float) -> Callable[[ModelGraph, torch.Tensor], list[float]]:
    """A table in which each of so many equal runs of operations takes so long on a core."""

    def table(graph: ModelGraph, _: torch.Tensor) -> list[float]:
        return [stages * stage_core_s / len(graph.ops)] * len(graph.ops)

    return table


def measured_seconds(graph: ModelGraph, example: torch.Tensor) -> Sequence[float]:
    """What the operations take here."""
    import time

    return profile(graph, [example], 9, clock=time.thread_time)


def execute(declared: Experiment, prepare: Callable[[Experiment, Callable[[str], None]], Prepared]) -> Result:
    """Run it and insist that all answers were right."""
    with tempfile.TemporaryDirectory() as folder:
        result = run(declared, Options(Path(folder), prepare=prepare))
    if result.ruling.outcome != "passed":
        raise SystemExit(f"{declared.name}: {'; '.join(result.ruling.reasons)}")
    if result.verdict.level != "valid":
        print(f"  {declared.name}: {result.verdict.level}: {'; '.join(result.verdict.reasons[:3])}", file=sys.stderr)
    return result


def throughput_rps(result: Result) -> float:
    """Answers a second once the pipeline is full."""
    times = sorted(event.t_s for event in result.events if isinstance(event, RequestCompleted))
    steady = [t_s for t_s in times if t_s >= times[0] + SETTLED_S]
    return (len(steady) - 1) / (steady[-1] - steady[0])


def latency_s(result: Result) -> float:
    """Mean latency, without the first requests, whose stages are computed for the first time."""
    found = sorted((e for e in result.events if isinstance(e, RequestCompleted)), key=lambda e: e.t_s)[4:]
    return statistics.fmean(event.t_s - event.submitted_s for event in found)


def service(quick: bool) -> Iterator[Row]:
    """Part a."""
    module, shape = convolutions(sum(BLOCKS.values()))
    for mode in ("calibrated", "real"):
        kept: list[Prepared] = []
        prepare = prepared_as(module, shape, measured_seconds, BLOCKS)

        def keep(declared: Experiment, progress: Callable[[str], None]) -> Prepared:
            kept.append(prepare(declared, progress))  # noqa: B023 - called within this turn of the loop
            return kept[-1]  # noqa: B023

        declared = experiment(f"service-{mode}", SHARES, 6, 12 if quick else 40, shape, mode=mode)
        result = execute(declared, keep)
        for stage in kept[0].plan.stages:
            ran = [e for e in result.events if isinstance(e, StageExecuted) and (e.host, e.epoch) == (stage.host, 1)]
            ran = ran[4:]
            if len(ran) < 5:
                raise SystemExit(f"{stage.host} ran its stage {len(ran)} times only: the machine is too busy")
            times_s = sorted(event.finished_s - event.started_s for event in ran)
            expected = sum(kept[0].op_seconds[stage.first_op : stage.last_op]) / SHARES[stage.host]
            mean, p50, p90 = statistics.fmean(times_s), statistics.median(times_s), times_s[int(0.9 * len(times_s))]
            subject = f"{mode}, {SHARES[stage.host]:.0%}, n={len(times_s)}"
            yield Row("service time, mean ms", subject, expected * 1e3, mean * 1e3, (mean / expected - 1) * 100, 3, "%")
            yield Row("service time, p90/p50 - 1 (%)", subject, 1, p90 / p50, (p90 / p50 - 1) * 100, 10, "%")


def oracle(quick: bool) -> Iterator[Row]:
    """Part b."""
    for stages in (2, 16) if quick else (2, 4, 8, 16):
        module, shape = layers(stages)
        hosts = {f"node{number}": 0.1 for number in range(1, stages + 1)}
        prepare = prepared_as(module, shape, equal_seconds(stages, STAGE_S * 0.1), dict.fromkeys(hosts, 1))
        duration_s = 8.0 if quick else 20.0
        full = execute(experiment(f"oracle-{stages}", hosts, 4 * stages, duration_s, shape, mode="calibrated"), prepare)
        rate = throughput_rps(full)
        yield Row("throughput 1/s", f"{stages} stages", 1 / STAGE_S, rate, (rate * STAGE_S - 1) * 100, 3, "%")
        alone = execute(experiment(f"oracle-{stages}", hosts, 1, duration_s, shape, mode="calibrated"), prepare)
        took = latency_s(alone)
        expected = stages * STAGE_S
        yield Row("latency ms", f"{stages} stages", expected * 1e3, took * 1e3, (took / expected - 1) * 100, 5, "%")


def dilation(quick: bool) -> Iterator[Row]:
    """Part c."""
    stages, width = 3, 8192  # 32 kB between stages: 13 ms at 20 Mbit/s
    torch.manual_seed(0)
    module = torch.nn.Sequential(*(_Scale(width) for _ in range(stages))).eval()
    hosts = {f"node{number}": 0.1 for number in range(1, stages + 1)}
    prepare = prepared_as(module, (1, width), equal_seconds(stages, STAGE_S * 0.1), dict.fromkeys(hosts, 1))
    figures: dict[tuple[int, int], Result] = {}
    for k in (1, 8):
        for in_flight in (8, 1):
            declared = experiment(
                f"dilation-{k}",
                hosts,
                in_flight,
                6.0 if quick else 12.0,
                (1, width),
                rate_bps=20_000_000,
                delay_s=0.005,
                mode="calibrated",
                time_scale=float(k),
            )
            figures[k, in_flight] = execute(declared, prepare)
    for what, figure_of, in_flight in (("throughput 1/s", throughput_rps, 8), ("latency s", latency_s, 1)):
        one, eight = figure_of(figures[1, in_flight]), figure_of(figures[8, in_flight])
        yield Row(what, "time scale 8 against 1", one, eight, (eight / one - 1) * 100, 5, "%")


class _Scale(torch.nn.Module):
    """One cheap operation with weights, whatever the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Differs from input to input, and stays bounded."""
        return torch.tanh(x * self.weight)


PARTS: Parts = {"service": service, "oracle": oracle, "dilation": dilation}


if __name__ == "__main__":
    sys.exit(measure(__doc__, PARTS, "fewer sizes, shorter runs: about five minutes", "compute_fidelity.csv"))

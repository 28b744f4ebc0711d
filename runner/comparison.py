"""Strategies side by side on one experiment: what each plans, and on request what its plan does on the cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runner.csvfile import Cell, Row
from runner.experiment import Options, Result, run
from runner.preparation import Modelled
from testbed.planning.comparison import Contender, compare
from testbed.planning.pareto import ParetoFront
from testbed.planning.plan import Plan
from testbed.planning.problem import Problem
from testbed.planning.strategies import ACROSS_BRANCHES
from testbed.planning.tradeoff import AIMS, figures
from testbed.spec.experiment import Experiment
from testbed.spec.workload import ClosedWorkload, WorkloadSpec

NA = "NA"
"""Stands where there is no plan, or no measurement: never a number."""

PLANNED = ("strategy", "stages", "hosts", "bottleneck_s", "latency_s", "gap", "energy_j", "planning_s", "reason")
MEASURED = ("predicted_rps", "measured_rps", "error_pct", "measured_latency_s", "outcome", "verdict", "results")
FRONT = ("plan", "stages", "hosts", "cuts", *AIMS.values(), "throughput_rps")


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a run of a plan gave.

    Attributes:
        predicted_rps: Requests a second that the plan promised for the workload.
        measured_rps: What its first epoch gave; None without a right answer.
        latency_s: Median latency of right answers under the workload; None without one.
        outcome, verdict, results: Of the run: how it ended, whether to trust it, its folder.
    """

    predicted_rps: float
    measured_rps: float | None
    latency_s: float | None
    outcome: str
    verdict: str
    results: str

    @property
    def error_pct(self) -> float | None:
        """How far the prediction is off the measurement, in per cent of the latter; above 0 is too hopeful."""
        return None if not self.measured_rps else 100 * (self.predicted_rps / self.measured_rps - 1)


def with_strategy(experiment: Experiment, strategy: str) -> Experiment:
    """The experiment with another strategy, without the settings that only its own strategy knows."""
    placement = experiment.placement
    changes: dict[str, object] = {"strategy": strategy}
    if strategy != "pareto":
        changes |= {"weights": None, "accuracy": None}
    if strategy != "dnnsplit":
        changes["objective"] = "throughput"
    if strategy != "even":
        changes["balance"] = "compute"
    return experiment.model_copy(update={"placement": placement.model_copy(update=changes)})


def compare_all(modelled: Modelled, strategies: Sequence[str]) -> tuple[Contender, ...]:
    """What each strategy plans for a model, cut where that strategy cuts it.

    Raises:
        UsageError: If there is no strategy of some name, or one can't be used for the experiment.
    """
    own = {name: modelled.problem(name) for name in strategies if name in ACROSS_BRANCHES}
    return compare(modelled.problem(), strategies, own)


def promised_rps(throughput_rps: float, latency_s: float, workload: WorkloadSpec) -> float:
    """Answers a second to expect: no more than a plan can give, than are asked for, than are on their way at a time."""
    if isinstance(workload, ClosedWorkload):
        return min(throughput_rps, workload.in_flight / latency_s)
    return min(throughput_rps, workload.rate_rps)


def measure(
    experiment: Experiment,
    contenders: Sequence[Contender],
    options: Options,
    runs: Callable[[Experiment, Options], Result] = run,
) -> dict[str, Measurement]:
    """Run each strategy's plan on the emulated cluster, one after the other; needs root.

    Strategies without a plan are left out. Each run profiles and plans anew, so its own prediction is what counts.

    Raises:
        TestbedError: If a run can't be made. One that fails is a measurement.
    """
    found = {}
    for contender in contenders:
        if contender.plan is None:
            continue
        options.progress(f"running {contender.strategy}")
        result = runs(with_strategy(experiment, contender.strategy), options)
        found[contender.strategy] = _measurement(contender.plan, experiment.workload, result)
    return found


def _measurement(plan: Plan, workload: WorkloadSpec, result: Result) -> Measurement:
    summary = result.summary
    first = summary.epochs[0] if summary.epochs else None
    # The plan that ran was made anew, from times measured just before the run.
    promised = (
        promised_rps(plan.throughput_rps, plan.latency_s, workload)
        if first is None
        else promised_rps(first.predicted_rps, first.predicted_latency_ms / 1e3, workload)
    )
    return Measurement(
        predicted_rps=promised,
        measured_rps=None if first is None else first.measured_rps,
        latency_s=None if summary.latency is None else summary.latency.p50_ms / 1e3,
        outcome=result.ruling.outcome,
        verdict=result.verdict.level,
        results=str(result.folder),
    )


def comparison_rows(contenders: Sequence[Contender], measured: dict[str, Measurement] | None) -> list[Row]:
    """A row a strategy with the columns ``PLANNED``, and ``MEASURED`` unless nothing was run."""
    rows: list[Row] = []
    for contender in contenders:
        plan = contender.plan
        row: dict[str, Cell] = {
            "strategy": contender.strategy,
            "stages": NA if plan is None else len(plan.stages),
            "hosts": NA if plan is None else " ".join(stage.host for stage in plan.stages),
            "bottleneck_s": NA if plan is None else plan.bottleneck_s,
            "latency_s": NA if plan is None else plan.latency_s,
            "gap": _or_na(contender.gap),
            "energy_j": NA if plan is None else plan.energy_j,
            "planning_s": NA if plan is None else plan.planning_s,
            "reason": contender.reason,
        }
        if measured is not None:
            run_of = measured.get(contender.strategy)
            row |= dict.fromkeys(MEASURED, NA) if run_of is None else _measured_cells(run_of)
        rows.append(row)
    return rows


def front_rows(problem: Problem, front: ParetoFront) -> list[Row]:
    """A row a plan with the columns ``FRONT``; ``cuts`` are the operations that all stages but the first begin with."""
    rows: list[Row] = []
    for index, plan in enumerate(front.plans):
        found = figures(problem, plan)
        row: dict[str, Cell] = {
            "plan": index,
            "stages": len(plan.stages),
            "hosts": " ".join(stage.host for stage in plan.stages),
            "cuts": " ".join(str(stage.first_op) for stage in plan.stages[1:]),
            "throughput_rps": plan.throughput_rps,
        }
        rows.append(row | {column: found[aim] for aim, column in AIMS.items()})
    return rows


def _measured_cells(measurement: Measurement) -> dict[str, Cell]:
    return {
        "predicted_rps": measurement.predicted_rps,
        "measured_rps": _or_na(measurement.measured_rps),
        "error_pct": _or_na(measurement.error_pct),
        "measured_latency_s": _or_na(measurement.latency_s),
        "outcome": measurement.outcome,
        "verdict": measurement.verdict,
        "results": measurement.results,
    }


def _or_na(value: float | None) -> Cell:
    return NA if value is None else value

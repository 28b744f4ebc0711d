"""All plans that no other plan beats over several aims, and the one of them that a user's weights pick (Kress et al.).

The front is listed completely where labels can do it, else approached by NSGA-II; a front says which. With weights only
the aims that they name count: the plan of least weighted sum is on the front over those.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from testbed.errors import InfeasibleError, UsageError
from testbed.planning import exact, min_latency
from testbed.planning.deadline import Clock, Deadline, NodeLimit, OutOfTime
from testbed.planning.evaluate import evaluate
from testbed.planning.front import MOST_LABELS, Front
from testbed.planning.infeasible import explain
from testbed.planning.instance import Floats
from testbed.planning.nsga import Decision, evolve
from testbed.planning.plan import Assignment, Plan
from testbed.planning.problem import Problem
from testbed.planning.threshold import TOLERANCE
from testbed.planning.tradeoff import AIMS, DEFAULT_WEIGHTS, choose, figures, nondominated

LABELS_SHARE = 0.4
"""Of the time limit, for listing the front; the rest is NSGA-II's where that isn't enough."""


@dataclass(frozen=True, slots=True)
class ParetoFront:
    """Plans that don't beat each other.

    Attributes:
        aims: What they are weighed by, names out of ``AIMS``.
        plans: By the first aim, then the second and so on.
        values: A row a plan with its figures, in the order of ``aims``.
        complete: Whether it is proven that no plan is missing (of plans with equal figures one is kept).
        planning_s: How long it took.
    """

    aims: tuple[str, ...]
    plans: tuple[Plan, ...]
    values: tuple[tuple[float, ...], ...]
    complete: bool
    planning_s: float


def aims_of(problem: Problem) -> tuple[str, ...]:
    """All aims, but for accuracy where no table is given."""
    return tuple(aim for aim in AIMS if aim != "accuracy" or problem.accuracy_loss)


def check_aims(aims: Iterable[str]) -> tuple[str, ...]:
    """The aims in their order, each once.

    Raises:
        UsageError: If one is unknown, or there is none.
    """
    names = tuple(dict.fromkeys(aims))
    for name in names:
        if name not in AIMS:
            raise UsageError(f"there is no aim {name!r}", remedy=f"aims: {', '.join(AIMS)}")
    if not names:
        raise UsageError("a front needs at least one aim", remedy=f"aims: {', '.join(AIMS)}")
    return names


def front(
    problem: Problem,
    aims: Sequence[str] | None = None,
    clock: Clock = time.monotonic,
    most_labels: int = MOST_LABELS,
) -> ParetoFront:
    """The front over some aims; over all when none are named.

    Raises:
        InfeasibleError: If there is no plan, with the constraint that binds.
        UsageError: If an aim is unknown; or if pymoo is needed and isn't installed.
    """
    names = aims_of(problem) if aims is None else check_aims(aims)
    deadline = Deadline(problem.time_limit_s, clock)
    if not problem.workers:
        raise explain(problem, deadline)
    complete = True
    try:
        listing = Deadline(LABELS_SHARE * problem.time_limit_s, clock)
        decisions = Front(problem, names, listing, most_labels).search()
    except (NodeLimit, OutOfTime):
        complete = False
        decisions = evolve(problem, names, _seeds(problem, clock), deadline)
    if not decisions:
        raise explain(problem, Deadline(problem.time_limit_s, clock))
    plans = [evaluate(problem, decision, "pareto", None, 0.0) for decision in decisions]
    # The search takes paths as if they had no link in common: where they do, what it left out may be better after all.
    unshared = problem.unshared()
    shared = [plan.bottleneck_s > evaluate(unshared, decision, "pareto", None, 0.0).bottleneck_s * (1 + TOLERANCE)
              for plan, decision in zip(plans, decisions, strict=True)]  # fmt: skip
    complete = complete and not any(shared)
    values = [tuple(figures(problem, plan)[name] for name in names) for plan in plans]
    left = np.flatnonzero(nondominated(np.array(values))).tolist() if any(shared) else range(len(plans))
    order = sorted(left, key=values.__getitem__)
    return ParetoFront(
        names,
        tuple(plans[index] for index in order),
        tuple(values[index] for index in order),
        complete,
        deadline.elapsed_s(),
    )


def _seeds(problem: Problem, clock: Clock) -> list[Decision]:
    """The best plans by bottleneck and by latency, for NSGA-II to begin with.

    Raises:
        InfeasibleError: If there is no plan at all.
    """
    hurried = replace(problem, time_limit_s=0.2 * problem.time_limit_s)
    found = []
    for solver in (exact.solve, min_latency.solve):
        try:
            plan = solver(hurried, clock)
        except InfeasibleError:
            if solver is exact.solve:
                raise
            continue
        found.append(tuple(Assignment(stage.host, stage.first, stage.last) for stage in plan.stages))
    return found


def solve(problem: Problem) -> Plan:
    """The plan that ``problem.weights`` pick: least weighted sum of aims, each scaled to 0..1 over the front.

    Raises:
        InfeasibleError: If there is no plan, with the constraint that binds.
        UsageError: If a weight's aim is unknown; or if pymoo is needed and isn't installed.
    """
    started_s = time.monotonic()
    weights = {aim: weight for aim, weight in (problem.weights or DEFAULT_WEIGHTS).items() if weight > 0}
    found = front(problem, tuple(weights))
    values: Floats = np.array(found.values)
    plan = found.plans[choose(values, [weights[aim] for aim in found.aims])]
    count = len(found.plans)
    which = "the only plan" if count == 1 else f"one of {count} plans"
    kind = "" if found.complete else " (found by NSGA-II, perhaps not all)"
    note = f"{which} that no other beats in {', '.join(found.aims)}{kind}"
    return replace(plan, planning_s=time.monotonic() - started_s, notes=(note,))

"""The minimum bottleneck over joint partition and placement, with a proof, or with an honest gap when time runs out.

1. Bisect the threshold on the walk bound alone, which is monotone, down to the least candidate value it allows: a lower
   bound on every plan.
2. Decide that threshold exactly. Mostly there is a plan, and it is optimal.
3. Else raise the threshold until there is a plan, then bisect between the two. A "no" raises the lower bound to the
   next candidate, a plan lowers the upper one to its own bottleneck.
4. Among the plans of that bottleneck look for the one of least latency: a threshold search makes no attempt to be
   short.

The optimum is ``bits / rate`` of some link or the compute of some run of segments over some speed: finitely many
values, which are listed only inside a narrow bracket.

That is for one stage a host, whose loads never add up. Where hosts may hold several stages, that optimum is an upper
bound and the walk bound, which forgets which hosts were used, a lower one; where paths of the plan share a physical
link, the plan is an upper bound and its bottleneck without that a lower one. :mod:`testbed.planning.revisits` closes
what gap is left between them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from testbed.errors import InfeasibleError
from testbed.planning.deadline import Clock, Deadline, OutOfTime
from testbed.planning.decision import Decision
from testbed.planning.evaluate import evaluate
from testbed.planning.infeasible import explain
from testbed.planning.instance import Instance, Step
from testbed.planning.loads import Loads
from testbed.planning.plan import Assignment, Plan
from testbed.planning.problem import Problem
from testbed.planning.revisits import Revisits
from testbed.planning.shortest import LeastLatency
from testbed.planning.threshold import TOLERANCE

BRACKET = 1.01
"""Candidates are listed once the upper end of the bracket is this close to the lower one."""

SINGLE_SHARE = 0.4
"""Of the time limit, for plans with one stage a host where several are allowed."""


@dataclass(slots=True)
class _Search:
    """Where the search stands.

    Attributes:
        lower_s: No plan's bottleneck is below it.
        upper_s: The bottleneck of ``best``, infinite without one.
        best: The best decision so far.
    """

    lower_s: float = 0.0
    upper_s: float = float("inf")
    best: tuple[Assignment, ...] | None = None

    @property
    def proven(self) -> bool:
        return self.upper_s <= self.lower_s * (1 + 2 * TOLERANCE)


def solve(problem: Problem, clock: Clock = time.monotonic, instance: Instance | None = None) -> Plan:
    """The plan of least bottleneck and, among those, of least latency where that is found in time.

    With an ``instance`` whose limits a caller has changed, those hold instead of the problem's, and latency is left to
    chance.

    Stops at ``problem.time_limit_s`` with the best plan so far; ``Plan.lower_bound_s`` and ``Plan.gap`` say how good it
    is at worst. The gap is 0 exactly when the bottleneck is proven minimal.

    Raises:
        InfeasibleError: If there is no plan, with the constraint that binds; or if none was found in time.
    """
    deadline = Deadline(problem.time_limit_s, clock)
    if not problem.workers:
        raise explain(problem, deadline)
    several = instance is None and problem.stages_per_host > 1
    alone = problem.unshared()
    arrays = Instance.of(alone) if instance is None else instance
    first = Deadline(SINGLE_SHARE * problem.time_limit_s, clock) if several else deadline
    search = _Search()
    try:
        _minimise(arrays, Decision(arrays, first), search)
    except OutOfTime:
        if search.best is None and not several:
            raise _too_late(problem) from None
    if search.best is None and not several:
        raise explain(problem, deadline)
    if search.best is not None and instance is None:
        search.best = _shorten(alone, search.best, search.upper_s, deadline)
    if instance is None:
        search = _where_loads_add_up(problem, search, deadline)
    decision = search.best or ()
    plan = evaluate(problem, decision, "exact", None, 0.0)
    bound = plan.bottleneck_s if search.proven else min(search.lower_s, plan.bottleneck_s)
    return evaluate(problem, decision, "exact", bound, deadline.elapsed_s())


def _too_late(problem: Problem) -> InfeasibleError:
    return InfeasibleError(
        f"no plan was found within {problem.time_limit_s:g} s, and none was ruled out either",
        remedy="give the hosts more memory, add hosts, or allow more time",
    )


def _where_loads_add_up(problem: Problem, alone: _Search, deadline: Deadline) -> _Search:
    """Go on from the search for one stage a host, if what it found isn't optimal for the problem as it is.

    Raises:
        InfeasibleError: If there is no plan, or none was found in time.
    """
    found = _Search(alone.lower_s, best=alone.best)
    if alone.best is not None:
        found.upper_s = evaluate(problem, alone.best, "exact", None, 0.0).bottleneck_s
    if problem.stages_per_host > 1:
        # What holds for plans with one stage a host doesn't for others.
        found.lower_s = 0.0
    elif found.upper_s <= alone.upper_s * (1 + TOLERANCE):
        return found

    def keep(steps: Sequence[Step]) -> float:
        names = [worker.name for worker in problem.workers]
        _keep(problem, found, tuple(Assignment(names[step.kind], step.first, step.last) for step in steps))
        return found.upper_s

    loads = Loads.of(problem)
    search = Revisits(loads, deadline, keep)
    try:
        if problem.stages_per_host > 1:
            decision, largest = Decision(loads.instance, deadline), loads.instance.largest_threshold_s()
            if decision.possible(largest):
                found.lower_s = _walk_bound_s(loads.instance, decision, largest)
        search.minimise(found.lower_s, found.upper_s)
    except OutOfTime:
        pass
    if found.best is None:
        raise explain(problem, deadline) if search.impossible else _too_late(problem)
    found.lower_s = max(found.lower_s, search.lower_s)
    return found


def _minimise(instance: Instance, decision: Decision, search: _Search) -> None:
    """Run the threshold search; ``search.best`` stays None if there is no plan at all.

    Raises:
        OutOfTime: At the deadline; ``search`` holds what is known.
    """
    largest = instance.largest_threshold_s()
    if not decision.possible(largest):
        return
    search.lower_s = _walk_bound_s(instance, decision, largest)
    beta, factor = search.lower_s, 1.05
    while not _improve(instance, decision, search, beta):
        if beta >= largest:
            return
        search.lower_s = beta
        beta = min(largest, max(beta * factor, largest * 1e-12))
        factor *= factor
    while not search.proven:
        middle = (search.lower_s * search.upper_s) ** 0.5
        if search.upper_s > search.lower_s * BRACKET and middle > 0:
            if not _improve(instance, decision, search, middle):
                search.lower_s = middle
            continue
        # The lower end may itself be a candidate that nothing rules out yet, the upper one is reached.
        values = instance.candidates_s(search.lower_s * (1 - TOLERANCE), search.upper_s * (1 - TOLERANCE))
        _bisect_candidates(instance, decision, search, values.tolist())
        return


def _bisect_candidates(instance: Instance, decision: Decision, search: _Search, values: Sequence[float]) -> None:
    """Find the optimum among ``values`` and ``search.upper_s``, ascending."""
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) // 2
        if _improve(instance, decision, search, values[middle]):
            high = middle
        else:
            low = middle + 1
            # The optimum is a candidate above this one.
            search.lower_s = values[low] if low < len(values) else search.upper_s
    search.lower_s = search.upper_s


def _improve(instance: Instance, decision: Decision, search: _Search, beta_s: float) -> bool:
    """Whether there is a plan under the threshold; keeps it when it is the best so far."""
    steps = decision.plan(beta_s)
    if steps is None:
        return False
    _keep(instance.problem, search, instance.assign(steps))
    return True


def _keep(problem: Problem, search: _Search, decision: tuple[Assignment, ...]) -> None:
    bottleneck_s = evaluate(problem, decision, "exact", None, 0.0).bottleneck_s
    if bottleneck_s < search.upper_s:
        search.best, search.upper_s = decision, bottleneck_s


def _walk_bound_s(instance: Instance, decision: Decision, largest: float) -> float:
    """The least candidate that the walk bound allows; ``largest`` must be allowed."""
    if decision.possible(0.0):
        return 0.0
    low, high = largest * 1e-12, largest
    if decision.possible(low):
        low, high = 0.0, low
    while low and high > low * BRACKET:
        middle = (low * high) ** 0.5
        if decision.possible(middle):
            high = middle
        else:
            low = middle
    values = instance.candidates_s(low, high * (1 + TOLERANCE)).tolist()
    first, last = 0, len(values) - 1
    while first < last:
        middle_index = (first + last) // 2
        if decision.possible(values[middle_index]):
            last = middle_index
        else:
            first = middle_index + 1
    return float(values[first])


def _shorten(
    problem: Problem, assignments: tuple[Assignment, ...], bottleneck_s: float, deadline: Deadline
) -> tuple[Assignment, ...]:
    """A decision of least latency whose bottleneck is no larger, or the given one where time runs out."""
    known_s = evaluate(problem, assignments, "exact", None, 0.0).latency_s
    try:
        deadline.check()
        instance = Instance.of(problem, by_delay=True)
        steps = LeastLatency(instance, bottleneck_s, deadline).search(known_s)
    except OutOfTime:
        return assignments
    return assignments if steps is None else instance.assign(steps)

"""The policy ``replan``: a new plan for the hosts that are left, which moves as few weights as it can."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from testbed.planning.evaluate import evaluate, violations
from testbed.planning.plan import Assignment, Plan, Strategy
from testbed.planning.problem import Problem

TOLERANCE = 0.05
"""A plan this much slower than the best one is preferred when it moves fewer bytes."""

SAME_BYTES = 0.1
"""Of plans that move nearly the fewest bytes, within so much, the one that changes the fewest stages is preferred: what
runs already is not to be stopped for a few kilobytes."""

MAX_RELABELLINGS = 720

Holdings = Mapping[str, Iterable[tuple[int, int]]]
"""For each host the runs of segments, ``(first, last)``, whose weights it has in its storage."""


def moved_bytes(problem: Problem, holdings: Holdings, assignments: Sequence[Assignment]) -> int:
    """Bytes of weights that the hosts of a decision lack."""
    total = 0
    for assignment in assignments:
        held = {segment for first, last in holdings.get(assignment.host, ()) for segment in range(first, last)}
        total += sum(
            problem.chain.weight_bytes[segment]
            for segment in range(assignment.first, assignment.last)
            if segment not in held
        )
    return total


def _relabellings(problem: Problem, assignments: Sequence[Assignment]) -> Iterator[tuple[Assignment, ...]]:
    """The same cuts on other hosts, as many as are worth trying."""
    names = [worker.name for worker in problem.workers]
    for hosts in itertools.islice(itertools.permutations(names, len(assignments)), MAX_RELABELLINGS):
        yield tuple(
            dataclasses.replace(assignment, host=host) for assignment, host in zip(assignments, hosts, strict=True)
        )


def _patched(problem: Problem, previous: Sequence[Assignment]) -> Iterator[tuple[Assignment, ...]]:
    """The previous decision with each lost host replaced by one that is free."""
    live = [worker.name for worker in problem.workers]
    lost = [index for index, assignment in enumerate(previous) if assignment.host not in live]
    used = {assignment.host for assignment in previous}
    free = [name for name in live if name not in used]
    for hosts in itertools.islice(itertools.permutations(free, len(lost)), MAX_RELABELLINGS):
        patched = list(previous)
        for index, host in zip(lost, hosts, strict=True):
            patched[index] = dataclasses.replace(patched[index], host=host)
        yield tuple(patched)


def replan(problem: Problem, strategy: Strategy, previous: Sequence[Assignment], holdings: Holdings) -> Plan:
    """The strategy's plan, or one nearly as fast that moves less.

    Compared are the strategy's own decision, the same cuts on other hosts, and the previous decision with its lost
    hosts replaced. Of those within 5 % of the best bottleneck count those that move the fewest bytes, within 10 %; of
    these wins the one that changes the fewest stages, then the fastest.

    Raises:
        InfeasibleError: If the hosts that are left can't hold the model.
    """
    best = strategy(problem)
    own = tuple(Assignment(stage.host, stage.first, stage.last) for stage in best.stages)
    candidates = [(moved_bytes(problem, holdings, own), _changed(previous, own), best)]
    for decision in itertools.chain(_patched(problem, previous), _relabellings(problem, own)):
        if not violations(problem, decision):
            plan = evaluate(problem, decision, best.strategy, best.lower_bound_s, best.planning_s)
            candidates.append((moved_bytes(problem, holdings, decision), _changed(previous, decision), plan))
    fast = [found for found in candidates if found[2].bottleneck_s <= best.bottleneck_s * (1 + TOLERANCE)]
    fewest_bytes = min(moved for moved, _, _ in fast)
    light = [found for found in fast if found[0] <= fewest_bytes * (1 + SAME_BYTES)]
    return min(light, key=lambda found: (found[1], found[2].bottleneck_s, found[2].latency_s))[2]


def _changed(previous: Sequence[Assignment], decision: Sequence[Assignment]) -> int:
    """Stages of a decision that ran nowhere or elsewhere before."""
    return len(set(decision) - set(previous))

"""What the policy ``skip`` decides: what to serve with at once when hosts are lost, and which operations without.

After CONTINUER (Majeed et al., arXiv 2206.05267), which chooses among repartitioning, an early exit and skipping by the
accuracy, latency and downtime of each. Here a model has no exits of its own, and repartitioning is what follows anyway:
the decision is whether a bridge until then is worth its loss of accuracy. It is as soon as the bridge stands at once,
or in half the time at most. Pure functions of what the dispatcher knows; nothing is computed that isn't needed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from testbed.planning.evaluate import skipped_segments, stage_weights_bytes, violations
from testbed.planning.plan import Assignment
from testbed.planning.problem import Problem
from testbed.serving.recovery import Lacks, moved_bytes

MOST_MOVED = 0.5
"""The share of the lost weights that may move before a bridge serves; with more, the whole model is nearly as soon."""

MOST_TRIED = 1000


@dataclass(frozen=True, slots=True, order=True)
class _Joint:
    """How the gap between two stages is closed: segments ``first..last-1`` are left out.

    The stage before takes on what lies before them, the one behind what lies behind. Fields are in the order of what
    counts: bytes of weights that have to move for that, that have to be loaded, and the time of what is left out, which
    stands for the loss of accuracy (deeper is better, and nothing better is known of an unlabelled model).
    """

    moved_bytes: int
    loaded_bytes: int
    skipped_s: float
    first: int = field(compare=False)
    last: int = field(compare=False)


def bridge(problem: Problem, whole: Sequence[Assignment], lacks: Callable[[], Lacks]) -> tuple[Assignment, ...] | None:
    """The stages that are left of a decision, joined across the lost ones without some of their segments.

    A lost stage is left out entirely if both its ends are of one residual stream: then no host gets another stage than
    it has, and nothing moves. Otherwise what may be left out within it is, and its neighbours take on the rest, as long
    as no more than half of the lost weights have to move for that.

    Args:
        problem: Of the hosts that are left.
        whole: The decision that served the model before hosts of it were lost.
        lacks: Tells what hosts don't hold; not asked where nothing moves.

    Returns:
        A decision that leaves segments out; None if there is none, or no host of ``whole`` was lost.
    """
    live = {worker.name for worker in problem.workers}
    left = [at for at in whole if at.host in live]
    if not left or len(left) == len(whole):
        return None
    sides = itertools.pairwise([None, *left, None])
    joints = [sorted(_joints(problem, before, after, lacks)) for before, after in sides]
    for chosen in itertools.islice(itertools.product(*joints), MOST_TRIED):
        bounds = itertools.pairwise(chosen)
        decision = tuple(
            Assignment(at.host, before.last, after.first) for at, (before, after) in zip(left, bounds, strict=True)
        )
        if not violations(problem, decision, skipping=True):
            return decision
    return None


def left_out_s(problem: Problem, decision: Sequence[Assignment]) -> float:
    """The time on one core of the segments that a decision leaves out."""
    return sum(sum(problem.chain.compute_s[first:last]) for first, last in skipped_segments(problem, decision))


def _joints(
    problem: Problem, before: Assignment | None, after: Assignment | None, lacks: Callable[[], Lacks]
) -> Iterator[_Joint]:
    """The ways to close a gap; None stands for the dispatcher, which can take nothing on."""
    chain = problem.chain
    start = 0 if before is None else before.last
    end = chain.segments if after is None else after.first
    if start == end:
        yield _Joint(0, 0, 0.0, start, end)
        return
    if chain.may_skip(start, end):
        yield _Joint(0, 0, sum(chain.compute_s[start:end]), start, end)
        return
    most_bytes: float | None = None
    for first in range(start, end) if before is not None else (start,):
        for last in range(first + 1, end + 1) if after is not None else (end,):
            if not chain.may_skip(first, last):
                continue
            taken = [
                *([Assignment(before.host, start, first)] if before is not None else []),
                *([Assignment(after.host, last, end)] if after is not None else []),
            ]
            if most_bytes is None:
                anybody = [Assignment(worker.name, start, end) for worker in problem.workers]
                most_bytes = MOST_MOVED * min(moved_bytes(problem, lacks(), [at]) for at in anybody)
            moved = moved_bytes(problem, lacks(), taken)
            if moved <= most_bytes:
                loaded = sum(stage_weights_bytes(problem, at.first, at.last) for at in taken)
                yield _Joint(moved, loaded, sum(chain.compute_s[first:last]), first, last)

"""SEIFER's baseline: its min-sum partition, then from host to host over the fastest link that is left.

SEIFER calls it joint optimisation; it is a placement of cuts that are chosen before (notes/papers.md §1.7).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

from testbed.errors import InfeasibleError
from testbed.planning.evaluate import evaluate
from testbed.planning.instance import Floats
from testbed.planning.minsum import MinSum
from testbed.planning.plan import Assignment, Plan
from testbed.planning.problem import Problem
from testbed.planning.seifer import CORRECTED, SeiferRules, rates_bps


def solve(problem: Problem, rules: SeiferRules = CORRECTED, partitioner: MinSum | None = None) -> Plan:
    """Try every host as the first one; keep the walk whose slowest transfer is fastest.

    Args:
        problem: What to plan.
        rules: Which of SEIFER's slips to repeat.
        partitioner: To share its memo between problems; by default one of its own.

    Raises:
        InfeasibleError: If there is no partition that fits the smallest host, or every greedy walk ends where no unused
            host can be reached.
    """
    started_s = time.monotonic()
    boundaries = (partitioner or MinSum(rules)).partition(problem, "joint-greedy")
    bits = [problem.chain.boundary_bits[boundary] for boundary in boundaries]
    rates = rates_bps(problem)
    best: tuple[float, list[int]] | None = None
    for start in range(len(problem.workers)):
        walk = _walk(rates, start, len(boundaries) - 1)
        if walk is None:
            continue
        slowest_s = _slowest_s(rates, walk, bits, rules)
        if slowest_s is not None and (best is None or slowest_s < best[0]):
            best = (slowest_s, walk)
    if best is None:
        raise InfeasibleError(
            f"joint-greedy: every walk over {len(boundaries) - 1} hosts along the fastest links ends in a host from "
            "which no unused one, or not the dispatcher, can be reached",
            remedy="link the hosts to each other, or use the strategy exact, which looks ahead",
        )
    assignments = [
        Assignment(problem.workers[host].name, first, last)
        for host, (first, last) in zip(best[1], itertools.pairwise(boundaries), strict=True)
    ]
    return evaluate(problem, assignments, "joint-greedy", None, time.monotonic() - started_s)


def _walk(rates: Floats, start: int, stages: int) -> list[int] | None:
    """From ``start`` to the unused neighbour of the highest rate, again and again; None at a dead end."""
    among = rates[:-2, :-2].copy()
    walk = [start]
    while len(walk) < stages:
        among[:, walk[-1]] = 0.0
        following = int(among[walk[-1]].argmax())
        if among[walk[-1], following] <= 0:
            return None
        walk.append(following)
    return walk


def _slowest_s(rates: Floats, walk: Sequence[int], bits: Sequence[float], rules: SeiferRules) -> float | None:
    """The walk's slowest transfer; None where it can't be reached from the dispatcher or can't answer."""
    source, target = len(rates) - 2, len(rates) - 1
    way = [source, *walk, target]
    if rates[source, walk[0]] <= 0 or rates[walk[-1], target] <= 0:
        return None
    times = [float(size / rates[pair]) for size, pair in zip(bits, itertools.pairwise(way), strict=True)]
    return max(times[1:-1], default=0.0) if rules.dispatcher_ignored else max(times)

"""SEIFER's baseline by lot: the cuts of a greedy capacity fill moved at random, on hosts drawn at random."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import numpy as np

from testbed.errors import InfeasibleError
from testbed.planning.deadline import Deadline, OutOfTime
from testbed.planning.evaluate import evaluate
from testbed.planning.instance import Floats, room_bytes
from testbed.planning.minsum import MinSum, fewest_stages
from testbed.planning.plan import Assignment, Plan
from testbed.planning.problem import Problem
from testbed.planning.seifer import CORRECTED, SeiferRules, farthest_ends, hop_limit, rates_bps


def solve(problem: Problem, rules: SeiferRules = CORRECTED) -> Plan:
    """As few stages as any partition has, each cut drawn where the stages on both sides still fit (``problem.seed``).

    With ``rules.unchecked_random_cuts`` cuts are drawn as SEIFER draws them, whatever the stages weigh.

    Raises:
        InfeasibleError: If no partition fits the smallest host, or hosts in no order can be linked so.
    """
    started_s = time.monotonic()
    rng = np.random.default_rng(problem.seed)
    draw = _unchecked_cuts if rules.unchecked_random_cuts else _cuts
    boundaries = draw(problem, rules, rng)
    rates = rates_bps(problem)
    if rules.dispatcher_ignored:
        rates[-2, :-2] = rates[:-2, -1] = np.inf
    hosts = _hosts(problem, rates, len(boundaries) - 1, rng)
    assignments = [
        Assignment(problem.workers[host].name, first, last)
        for host, (first, last) in zip(hosts, itertools.pairwise(boundaries), strict=True)
    ]
    return evaluate(problem, assignments, "random", None, time.monotonic() - started_s)


def _cuts(problem: Problem, rules: SeiferRules, rng: np.random.Generator) -> tuple[int, ...]:
    """Each cut between the earliest boundary from which the rest still fits and the farthest its stage may end at."""
    reach = farthest_ends(problem, rules).tolist() if problem.workers else []
    stages = fewest_stages(reach)
    if not problem.workers or stages is None or stages > hop_limit(problem):
        # The search that all of SEIFER's strategies share knows why.
        return MinSum(rules).partition(problem, "random")
    segments = problem.chain.segments
    # earliest[k]: the first boundary from which the rest fits k stages.
    earliest = [segments]
    while len(earliest) <= stages:
        earliest.append(next(start for start in range(segments + 1) if reach[start] >= earliest[-1]))
    boundaries = [0]
    for left in range(stages - 1, 0, -1):
        low = max(earliest[left], boundaries[-1] + 1)
        boundaries.append(int(rng.integers(low, reach[boundaries[-1]] + 1)))
    return (*boundaries, segments)


def _unchecked_cuts(problem: Problem, rules: SeiferRules, rng: np.random.Generator) -> tuple[int, ...]:
    """SEIFER's draw over ``P`` candidate points, point ``p`` being boundary ``p + 1`` (notes/papers.md §1.7)."""
    chain = problem.chain
    points, limit = chain.segments, min((room_bytes(worker)[0] for worker in problem.workers), default=0.0)
    # Memory between a point and the next one; nothing follows the last.
    memory = (*chain.weight_bytes[1:], 0)
    splits, first = [], 0
    while first < points:
        last = first
        while sum(memory[first : last - 1 if rules.wrapping_slice else max(last - 1, first)]) <= limit:
            last += 1
            if last > points - 1:
                break
        if last != points:
            splits.append(last)
        first = last + 1
    cuts = [int(rng.integers(low + 1, high + 1)) + 1 for low, high in itertools.pairwise(splits)]
    return (0, *(cut for cut in cuts if cut < chain.segments), chain.segments)


def _hosts(problem: Problem, rates: Floats, stages: int, rng: np.random.Generator) -> Sequence[int]:
    """Distinct hosts in random order, drawn again from the last good one where two can't talk.

    Raises:
        InfeasibleError: If there is no such order, or none was found within the time limit.
    """
    count = len(problem.workers)
    deadline = Deadline(problem.time_limit_s, time.monotonic)
    hosts: list[int] = []

    def extend(previous: int) -> bool:
        deadline.check()
        if len(hosts) == stages:
            return bool(rates[previous, count + 1] > 0)
        for host in rng.permutation(count).tolist():
            if host not in hosts and rates[previous, host] > 0:
                hosts.append(host)
                if extend(host):
                    return True
                hosts.pop()
        return False

    try:
        found = stages <= count and extend(count)
    except OutOfTime:
        found = False
    if not found:
        raise InfeasibleError(
            f"random: no {stages} of the {count} hosts are linked in a row from {problem.dispatcher} and back",
            remedy="link the hosts to each other, or to a common switch",
        )
    return hosts

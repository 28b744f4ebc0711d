"""SEIFER's partition: the cuts of least summed transfers, each stage within the memory of the smallest host.

Bottleneck is what SEIFER is measured by, but the sum is what it minimises (notes/papers.md §1.4, §6 defect 4).
"""

from __future__ import annotations

import math

from testbed.errors import InfeasibleError
from testbed.planning.infeasible import no_workers
from testbed.planning.problem import Problem
from testbed.planning.seifer import CORRECTED, SeiferRules, farthest_ends, hop_limit

Way = tuple[float, tuple[int, ...]]
"""Summed bits of the cuts from a boundary on, and the ends of the stages there."""

_NO_WAY: Way = (math.inf, ())


class MinSum:
    """Partitions problems. One object serves several only to show what a shared memo does (``rules.shared_memo``)."""

    def __init__(self, rules: SeiferRules = CORRECTED) -> None:
        self.rules = rules
        self._memo: dict[int, Way] = {}

    def partition(self, problem: Problem, strategy: str) -> tuple[int, ...]:
        """Boundaries from 0 to ``L``, as many stages as hosts (or ``max_stages``) at most.

        Ties go to the shortest first stages, as in the authors' code.

        Raises:
            InfeasibleError: If there is no such partition; ``strategy`` is who asks, for the message.
        """
        missing = no_workers(problem)
        if missing is not None:
            raise missing
        reach, hops = farthest_ends(problem, self.rules).tolist(), hop_limit(problem)
        charged = list(problem.chain.boundary_bits)
        if self.rules.previous_cut_charged:
            charged = [charged[0], *charged[:-1]]
        charged[-1] = 0.0
        if self.rules.hop_limit_after_search:
            way = self._unlimited(charged, reach, hops)
        else:
            way = _limited(charged, reach, hops)
        if not way[1]:
            raise _explain(problem, reach, hops, strategy)
        return (0, *way[1])

    def _unlimited(self, charged: list[float], reach: list[int], hops: int) -> Way:
        """The least sum from each boundary on, then the best first stage whose way is short enough."""
        if not self.rules.shared_memo:
            self._memo.clear()
        segments = len(charged) - 1
        for start in range(segments, -1, -1):
            if start and start not in self._memo:
                self._memo[start] = (0.0, ()) if start == segments else self._best(charged, start, reach[start], None)
        return self._best(charged, 0, reach[0], hops)

    def _best(self, charged: list[float], start: int, farthest: int, hops: int | None) -> Way:
        best = _NO_WAY
        for end in range(start + 1, farthest + 1):
            cost, ends = self._memo[end]
            if charged[end] + cost < best[0] and (hops is None or len(ends) < hops):
                best = (charged[end] + cost, (end, *ends))
        return best


def _limited(charged: list[float], reach: list[int], hops: int) -> Way:
    """The least sum with at most ``hops`` stages: dynamic programming over stages left, O(hops · L²)."""
    segments = len(charged) - 1
    ways = [_NO_WAY] * segments + [(0.0, ())]
    for _ in range(hops):
        longer = list(ways)
        for start in range(segments):
            best = _NO_WAY
            for end in range(start + 1, reach[start] + 1):
                cost, ends = ways[end]
                if charged[end] + cost < best[0]:
                    best = (charged[end] + cost, (end, *ends))
            longer[start] = best
        if longer == ways:
            break
        ways = longer
    return ways[0]


def fewest_stages(reach: list[int]) -> int | None:
    """Stages of the greedy fill, the fewest that any partition has; None if some segment fits nowhere."""
    stages, at, segments = 0, 0, len(reach) - 1
    while at < segments:
        if reach[at] <= at:
            return None
        at = reach[at]
        stages += 1
    return stages


def _explain(problem: Problem, reach: list[int], hops: int, strategy: str) -> InfeasibleError:
    roomless = InfeasibleError(
        f"{strategy}: some segment of the model doesn't fit the smallest host, and SEIFER plans for that one",
        remedy="leave that host out, give it more memory, or use the strategy exact, which gives each host what fits",
    )
    stages = fewest_stages(reach)
    if stages is None:
        return roomless
    if stages <= hops:
        return InfeasibleError(
            f"{strategy}: the partition of least summed transfers has more than {hops} stages, and the hop limit "
            "came after the search",
            remedy="search within the limit, as the corrected rules do",
        )
    return InfeasibleError(
        f"{strategy}: stages that fit even the smallest host, as SEIFER plans them, are at least {stages}; "
        f"{hops} are possible here",
        remedy="give the smallest host more memory or leave it out, add hosts, or use the strategy exact",
    )

"""SEIFER's placement: transfers in bandwidth classes, the heaviest class on the fastest paths, found by colour coding.

The min-sum partition comes first. Its transfers fall into classes of equal width. From the heaviest class down, each
run of neighbouring transfers of a class gets the path of hosts whose slowest link is fastest, joined to the hosts that
are placed already; the path comes from a binary search over link rates (notes/papers.md §1.4, §1.5).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import numpy as np

from testbed.errors import InfeasibleError
from testbed.planning.colour_coding import MOST_VERTICES, find_path
from testbed.planning.deadline import Clock, Deadline, OutOfTime
from testbed.planning.evaluate import evaluate
from testbed.planning.instance import Floats
from testbed.planning.minsum import MinSum
from testbed.planning.plan import Assignment, Plan
from testbed.planning.problem import Problem
from testbed.planning.seifer import CLASSES, CORRECTED, SeiferRules, rates_bps


def solve(
    problem: Problem,
    rules: SeiferRules = CORRECTED,
    classes: int = CLASSES,
    partitioner: MinSum | None = None,
    clock: Clock = time.monotonic,
) -> Plan:
    """Place the min-sum partition by k-path matching; colours are drawn from ``problem.seed``.

    Args:
        problem: What to plan.
        rules: Which of SEIFER's slips to repeat.
        classes: How many bandwidth classes.
        partitioner: To share its memo between problems; by default one of its own.
        clock: Measures ``problem.time_limit_s``.

    Raises:
        InfeasibleError: If there is no partition that fits the smallest host, or some class's path is not found.
    """
    deadline = Deadline(problem.time_limit_s, clock)
    boundaries = (partitioner or MinSum(rules)).partition(problem, "k-path")
    transfers = [problem.chain.boundary_bits[boundary] for boundary in boundaries]
    source = len(problem.workers)
    # What the transfers lead between; the dispatcher has its place, or isn't seen at all.
    places: list[int | None] = [None] * (len(boundaries) - 1)
    if rules.dispatcher_ignored:
        transfers = transfers[1:-1]
    else:
        places = [source, *places, source + 1]
    sizes = problem.chain.boundary_bits[1 if rules.dispatcher_ignored else 0 :]
    matching = _Matching(rates_bps(problem), places, np.random.default_rng(problem.seed), deadline)
    hosts = matching.hosts(classify(transfers, sizes, classes, rules), classes)
    if not rules.dispatcher_ignored:
        hosts = hosts[1:-1]
    assignments = [
        Assignment(problem.workers[host].name, first, last)
        for host, (first, last) in zip(hosts, itertools.pairwise(boundaries), strict=True)
    ]
    return evaluate(problem, assignments, "k-path", None, deadline.elapsed_s())


def classify(
    chosen: Sequence[float], sizes: Sequence[float], classes: int, rules: SeiferRules = CORRECTED
) -> list[int]:
    """Classes ``1..classes`` of equal width over all ``sizes``; the largest size is in the last of them.

    With ``rules.top_class_unplaced`` it is in class ``classes + 1``.
    """
    found = np.digitize(chosen, np.histogram_bin_edges(sizes, bins=classes)).tolist()
    return found if rules.top_class_unplaced else [min(number, classes) for number in found]


def runs(numbers: Sequence[int], number: int) -> list[tuple[int, int]]:
    """``(first, length)`` of the maximal runs of ``number``, the longest first, then in order."""
    found, at = [], 0
    for value, group in itertools.groupby(numbers):
        length = len(list(group))
        if value == number:
            found.append((at, length))
        at += length
    return sorted(found, key=lambda run: -run[1])


class _Matching:
    """Fills places with hosts, a run of transfers at a time."""

    def __init__(self, rates: Floats, places: list[int | None], rng: np.random.Generator, deadline: Deadline) -> None:
        self._rates = rates
        self._places = places
        self._rng = rng
        self._deadline = deadline
        self._free = set(range(len(rates) - 2))

    def hosts(self, numbers: Sequence[int], classes: int) -> list[int]:
        """The hosts at the places, given the class of each transfer; the first host where there is no transfer.

        Raises:
            InfeasibleError: If a place stays empty.
        """
        for number in range(classes, 0, -1):
            for first, length in runs(numbers, number):
                self._place(first, length + 1)
        if not numbers:
            return [0]
        placed = [place for place in self._places if place is not None]
        if len(placed) < len(self._places):
            raise InfeasibleError(
                "k-path: some transfer is larger than all bandwidth classes and stays without hosts",
                remedy="use the corrected rules, which put it into the last class",
            )
        return placed

    def _place(self, first: int, vertices: int) -> None:
        if vertices > MOST_VERTICES:
            raise InfeasibleError(
                f"k-path: a run of {vertices} hosts has transfers of one class; colour coding ends at {MOST_VERTICES}",
                remedy="use more bandwidth classes, give the hosts more memory, or use the strategy exact",
            )
        start, end = self._places[first], self._places[first + vertices - 1]
        path = self._widest(vertices, start, end)
        if path is None:
            raise InfeasibleError(
                f"k-path: no path of {vertices} free hosts was found for a run of transfers of one class",
                remedy="link the hosts to each other, allow more time, or use the strategy exact",
            )
        self._places[first : first + vertices] = path
        self._free -= set(path)

    def _widest(self, vertices: int, start: int | None, end: int | None) -> list[int] | None:
        """A path whose slowest link is as fast as colour coding finds, by binary search over the rates."""
        among = sorted(self._free | {place for place in (start, end) if place is not None})
        rates = self._rates[np.ix_(among, among)]
        ends = [None if place is None else among.index(place) for place in (start, end)]
        thresholds = np.unique(rates[rates > 0])[::-1]
        low, high = 0, len(thresholds)
        best: list[int] | None = None
        while low < high:
            middle = (low + high) // 2
            try:
                path = find_path(rates >= thresholds[middle], vertices, ends[0], ends[1], self._rng, self._deadline)
            except OutOfTime:
                break
            if path is None:
                low = middle + 1
            else:
                high, best = middle, path
        return None if best is None else [among[vertex] for vertex in best]

"""What the dispatcher has learned of its cluster.

It starts from the problem it was given, a site survey so to say. From then on it believes only what it measures: the
rate of a path from transfers over it, the speed of a host from the stages it ran.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections import defaultdict, deque
from collections.abc import Collection

from testbed.planning.problem import Problem

WINDOW = 9
"""Samples kept of each quantity. Their median ignores a slow start or a hiccup and follows a change within five."""

MIN_TRANSFER_BITS = 64 * 8 * 1024
"""Smaller transfers tell of the delay, not of the rate."""


class Estimates:
    """Medians of recent measurements over a surveyed problem."""

    def __init__(self, survey: Problem) -> None:
        self._survey = survey
        self._rates: defaultdict[tuple[str, str], deque[float]] = defaultdict(lambda: deque(maxlen=WINDOW))
        self._slowdowns: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=WINDOW))

    def observe_transfer(self, source: str, target: str, bits: float, transfer_s: float) -> None:
        """A transfer over a path took ``transfer_s`` from hand-over to its last byte."""
        path = self._survey.paths.get((source, target))
        if path is None or bits < MIN_TRANSFER_BITS:
            return
        occupied_s = transfer_s - path.delay_s
        if occupied_s > 0:
            self._rates[source, target].append(bits / occupied_s)

    def observe_compute(self, host: str, first: int, last: int, compute_s: float) -> None:
        """A host ran segments ``first..last-1`` of the chain in ``compute_s``."""
        core_s = sum(self._survey.chain.compute_s[first:last])
        if core_s > 0 and compute_s > 0:
            self._slowdowns[host].append(compute_s / core_s)

    def problem(self, live: Collection[str]) -> Problem:
        """The problem of now: the live hosts only, with measured figures wherever there are any."""
        workers = tuple(
            dataclasses.replace(worker, speed=1 / statistics.median(self._slowdowns[worker.name]))
            if self._slowdowns.get(worker.name)
            else worker
            for worker in self._survey.workers
            if worker.name in live
        )
        names = {worker.name for worker in workers} | {self._survey.dispatcher}
        paths = {
            pair: dataclasses.replace(path, rate_bps=statistics.median(self._rates[pair]))
            if self._rates.get(pair)
            else path
            for pair, path in self._survey.paths.items()
            if names.issuperset(pair)
        }
        return dataclasses.replace(self._survey, workers=workers, paths=paths)

"""What the dispatcher has learned of its cluster.

It starts from the problem it was given, a site survey so to say. From then on it believes only what it measures: the
rate of a path from transfers over it, the speed of a host from the stages it ran.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import defaultdict, deque
from collections.abc import Callable, Collection

from testbed.planning.problem import Problem
from testbed.serving.events import now_s

WINDOW = 9
"""Samples kept of each quantity. Their median ignores a slow start or a hiccup and follows a change within five."""

MIN_TRANSFER_BITS = 64 * 8 * 1024
"""Smaller transfers tell of the delay, not of the rate."""


Samples = deque[tuple[float, float]]
"""When each was measured, and what."""


def _samples() -> Samples:
    return deque(maxlen=WINDOW)


def _median(samples: Samples | None, since_s: float) -> float | None:
    """Of what was measured since then; None if nothing was."""
    fresh = [value for at_s, value in samples or () if at_s >= since_s]
    return statistics.median(fresh) if fresh else None


class Estimates:
    """Medians of recent measurements over a surveyed problem.

    Args:
        survey: What is believed of what was never measured.
        clock: In seconds.
    """

    def __init__(self, survey: Problem, clock: Callable[[], float] = now_s) -> None:
        self._survey = survey
        self._clock = clock
        self._rates: defaultdict[tuple[str, str], Samples] = defaultdict(_samples)
        self._slowdowns: defaultdict[str, Samples] = defaultdict(_samples)

    def observe_transfer(self, source: str, target: str, bits: float, transfer_s: float) -> None:
        """A transfer over a path took ``transfer_s`` from hand-over to its last byte."""
        path = self._survey.paths.get((source, target))
        if path is None or bits < MIN_TRANSFER_BITS:
            return
        occupied_s = transfer_s - path.delay_s
        if occupied_s > 0:
            self._rates[source, target].append((self._clock(), bits / occupied_s))

    def observe_compute(self, host: str, first: int, last: int, compute_s: float) -> None:
        """A host ran segments ``first..last-1`` of the chain in ``compute_s``."""
        core_s = sum(self._survey.chain.compute_s[first:last])
        if core_s > 0 and compute_s > 0:
            self._slowdowns[host].append((self._clock(), compute_s / core_s))

    def problem(self, live: Collection[str], since_s: float = -math.inf) -> Problem:
        """The problem of now: the live hosts only, with figures measured since then wherever there are any."""
        workers = tuple(
            worker
            if (slowdown := _median(self._slowdowns.get(worker.name), since_s)) is None
            else dataclasses.replace(worker, speed=1 / slowdown)
            for worker in self._survey.workers
            if worker.name in live
        )
        names = {worker.name for worker in workers} | {self._survey.dispatcher}
        paths = {
            pair: path
            if (rate_bps := _median(self._rates.get(pair), since_s)) is None
            else dataclasses.replace(path, rate_bps=rate_bps)
            for pair, path in self._survey.paths.items()
            if names.issuperset(pair)
        }
        return dataclasses.replace(self._survey, workers=workers, paths=paths)

"""What the dispatcher has learned of its cluster.

It starts from the problem it was given, a site survey so to say. From then on it believes only what it measures: the
rate of a path from transfers over it, the speed of a host from the stages it ran, the demand from the requests that
came.
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
"""Smaller transfers tell of the delay as much as of the rate: only whether the rate is far from what is believed."""

HINT_BITS = 8 * 8 * 1024
"""Still smaller ones tell nothing of the rate."""

FAR = 3.0
"""A small transfer that takes so many times as long as believed, a round trip included, was slowed by the rate."""

ARRIVALS = 64
"""Requests by whose arrivals the demand is estimated; with Poisson arrivals it is right within 13 % (one deviation)."""

LEAST_ARRIVALS = 16
"""With fewer, what the survey says of the demand is believed."""


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
        self._arrivals: deque[tuple[float, int]] = deque(maxlen=ARRIVALS)

    def observe_transfer(self, source: str, target: str, bits: float, transfer_s: float) -> None:
        """A transfer over a path took ``transfer_s`` from hand-over to its last byte.

        The rate was at least what that makes. A small one may have waited for round trips of TCP's slow start and for
        its receiver's turn, so that it tells of a lower rate only where it took far longer than believed; else it
        confirms the belief.
        """
        path = self._survey.paths.get((source, target))
        if path is None or bits < HINT_BITS:
            return
        occupied_s = transfer_s - path.delay_s
        if occupied_s <= 0:
            return
        rates, rate_bps = self._rates[source, target], bits / occupied_s
        if bits < MIN_TRANSFER_BITS:
            believed_bps = _median(rates, -math.inf) or path.rate_bps
            expected_s = bits / believed_bps + 2 * path.delay_s if believed_bps > 0 else math.inf
            if rate_bps < believed_bps and occupied_s < FAR * expected_s:
                rate_bps = believed_bps
        rates.append((self._clock(), rate_bps))

    def observe_compute(self, host: str, first: int, last: int, compute_s: float) -> None:
        """A host ran segments ``first..last-1`` of the chain in ``compute_s``."""
        core_s = sum(self._survey.chain.compute_s[first:last])
        if core_s > 0 and compute_s > 0:
            self._slowdowns[host].append((self._clock(), compute_s / core_s))

    def observe_request(self, unanswered: int) -> None:
        """A request has come in; so many, itself included, have no outcome yet."""
        self._arrivals.append((self._clock(), unanswered))

    def demand_rps(self, alone_s: float) -> float:
        """Requests a second that are asked for; what the survey says until enough have come.

        The latest ones count, up to now: silence tells too. Clients that wait for their answers before they ask again
        ask no faster than they are served; ``N`` requests at a time are a demand of ``N / alone_s`` (Little's law).

        Args:
            alone_s: What a request takes that need not wait for others.
        """
        if len(self._arrivals) < LEAST_ARRIVALS:
            return self._survey.demand_rps
        length_s = self._clock() - self._arrivals[0][0]
        arriving_rps = len(self._arrivals) / length_s if length_s > 0 else 0.0
        at_a_time = statistics.fmean(unanswered for _, unanswered in self._arrivals)
        return max(arriving_rps, at_a_time / alone_s if alone_s > 0 else 0.0)

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

"""How long a host may be silent before it is taken for lost.

Both judges are told of every heartbeat and answer with an allowance of silence. Fixed misses allow so many periods.
Phi-accrual (Hayashibara, Défago, Yared, Katayama: The φ accrual failure detector, SRDS 2004) learns how regularly a
host's heartbeats arrive: with F the normal distribution of their intervals, φ(t) = -log10(1 - F(t)) of a silence t, and
a host is lost when φ reaches a threshold. So a threshold of 8 is wrong once in 10^8 intervals, if they are normal, and
a host behind a restless link is given more time than one whose heartbeats are punctual.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import Protocol

INTERVALS = 100
"""Intervals remembered of each host."""

LEAST_DEVIATION = 0.25
"""Least standard deviation, in periods: perfect regularity so far is no promise, and a host computes besides."""


class Judge(Protocol):
    """Tells how long a host may be silent."""

    def begin(self, host: str) -> None:
        """A host is expected to beat from now on; nothing is known of it."""

    def beat(self, host: str, interval_s: float) -> None:
        """A heartbeat has arrived, so long after the one before."""

    def allowance_s(self, host: str) -> float:
        """How long the host may be silent."""


class FixedMisses:
    """Allows so many periods.

    Args:
        period_s: Between two heartbeats.
        misses: How many may stay away.
    """

    def __init__(self, period_s: float, misses: int) -> None:
        self._allowance_s = period_s * misses

    def begin(self, host: str) -> None:
        """All hosts are alike."""

    def beat(self, host: str, interval_s: float) -> None:
        """Nothing is learned."""

    def allowance_s(self, host: str) -> float:
        """The same for every host."""
        return self._allowance_s


class PhiAccrual:
    """Allows the silence at which φ reaches the threshold.

    Args:
        period_s: Between two heartbeats; what is expected of a host that nothing is known of.
        threshold: φ at which a host is lost.
    """

    def __init__(self, period_s: float, threshold: float) -> None:
        self._period_s = period_s
        # 1 - F(t) = 10^-threshold; the lower tail, mirrored, keeps its digits where 1 - 10^-threshold would not.
        self._deviations: float = -statistics.NormalDist().inv_cdf(math.pow(10, -threshold))
        self._intervals: dict[str, deque[float]] = {}

    def begin(self, host: str) -> None:
        """Forget what was learned of an earlier life."""
        self._intervals[host] = deque(maxlen=INTERVALS)

    def beat(self, host: str, interval_s: float) -> None:
        """Learn an interval."""
        self._intervals.setdefault(host, deque(maxlen=INTERVALS)).append(interval_s)

    def allowance_s(self, host: str) -> float:
        """The silence at which φ reaches the threshold."""
        # Two intervals of one period stand for what is expected, until there is more to go by.
        known = [self._period_s, self._period_s, *self._intervals.get(host, ())]
        deviation_s = max(float(statistics.pstdev(known)), LEAST_DEVIATION * self._period_s)
        return statistics.fmean(known) + self._deviations * deviation_s


def judge_of(period_s: float, misses: int, threshold: float | None) -> Judge:
    """Phi-accrual with a threshold, fixed misses without."""
    return FixedMisses(period_s, misses) if threshold is None else PhiAccrual(period_s, threshold)

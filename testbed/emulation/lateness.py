"""How late something was, counted in a histogram of fixed size.

Buckets grow by 2^(1/8), so a quantile is at most 9 % too high; count, mean and maximum are exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

_SMALLEST_S = 1e-6
_STEPS_PER_OCTAVE = 8
_BUCKETS = 8 * 24  # up to 16 s


@dataclass(frozen=True, slots=True)
class LatenessSummary:
    """What a histogram says, in seconds; all 0 when nothing was counted."""

    count: int = 0
    mean_s: float = 0.0
    p50_s: float = 0.0
    p99_s: float = 0.0
    max_s: float = 0.0

    def to_json(self) -> dict[str, float]:
        """As a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, float]) -> LatenessSummary:
        """Back from :meth:`to_json`."""
        return cls(int(data["count"]), data["mean_s"], data["p50_s"], data["p99_s"], data["max_s"])


class LatenessHistogram:
    """Counts latenesses; never grows."""

    __slots__ = ("_buckets", "_count", "_max_s", "_sum_s")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._buckets = [0] * _BUCKETS
        self._count = 0
        self._sum_s = 0.0
        self._max_s = 0.0

    def add(self, late_s: float, times: int = 1) -> None:
        """Count a lateness; early is on time."""
        late_s = max(0.0, late_s)
        bucket = 0
        if late_s > _SMALLEST_S:
            bucket = min(_BUCKETS - 1, 1 + int(math.log2(late_s / _SMALLEST_S) * _STEPS_PER_OCTAVE))
        self._buckets[bucket] += times
        self._count += times
        self._sum_s += late_s * times
        self._max_s = max(self._max_s, late_s)

    def _quantile_s(self, share: float) -> float:
        wanted = math.ceil(share * self._count)
        seen = 0
        for bucket, count in enumerate(self._buckets):
            seen += count
            if seen >= wanted:
                return min(self._max_s, _SMALLEST_S * 2 ** (bucket / _STEPS_PER_OCTAVE))
        return self._max_s

    def summary(self) -> LatenessSummary:
        """What was counted so far."""
        if self._count == 0:
            return LatenessSummary()
        mean_s = self._sum_s / self._count
        return LatenessSummary(self._count, mean_s, self._quantile_s(0.5), self._quantile_s(0.99), self._max_s)

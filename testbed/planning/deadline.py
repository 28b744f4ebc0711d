"""What ends a search early: a time limit that it asks often, with the clock passed in, or a limit on its nodes."""

from __future__ import annotations

from collections.abc import Callable

Clock = Callable[[], float]
"""Seconds on a clock that never goes back, such as ``time.monotonic``."""


class OutOfTime(Exception):  # noqa: N818 - it ends a search, it is no error
    """The search reached its deadline; whoever holds the best plan so far catches this."""


class NodeLimit(Exception):  # noqa: N818 - it ends a search, it is no error
    """The search used up its nodes and proves nothing; another way of searching may take over."""


class Deadline:
    """Raises ``OutOfTime`` once ``limit_s`` have passed since it was made."""

    def __init__(self, limit_s: float, clock: Clock) -> None:
        self._clock = clock
        self._start_s = clock()
        self._end_s = self._start_s + limit_s

    def check(self) -> None:
        """Cheap enough (some 0.1 us) for inner loops.

        Raises:
            OutOfTime: If the limit has passed.
        """
        if self._clock() >= self._end_s:
            raise OutOfTime

    def elapsed_s(self) -> float:
        """Seconds since it was made."""
        return self._clock() - self._start_s

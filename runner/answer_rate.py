"""Right answers, and how many of them come in a second: what the service is worth to its client."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from runner import tables
from testbed.serving.events import Event, RequestCompleted


def rate_rps(answers_s: Sequence[float], since_s: float, until_s: float, *, closed: bool = True) -> float | None:
    """Answers a second after ``since_s`` and up to ``until_s`` (included if ``closed``); None for no time at all.

    The answer *at* ``since_s`` is not counted: a window that starts with an answer would count a post too many.
    """
    if until_s - since_s < 1e-6:
        return None
    last = bisect_right(answers_s, until_s) if closed else bisect_left(answers_s, until_s)
    return max(0, last - bisect_right(answers_s, since_s)) / (until_s - since_s)


def right_answers(events: Sequence[Event]) -> list[RequestCompleted]:
    """All right answers until the run's end, in the order in which the client got them."""
    end = tables.end_s(events)
    found = [e for e in events if isinstance(e, RequestCompleted) and e.outcome == "ok" and e.t_s <= end]
    return sorted(found, key=lambda e: e.t_s)

"""Lines for people, at a bounded rate.

Who sends rubbish gets a line; who sends it 100,000 times must not write 100,000. Lines have a topic, such as a peer's
address: the first few of a topic go out at once, and then one an interval, which is the latest and tells how many more
there were. So a flood costs a topic ``burst`` lines and one for each interval that it lasts, and nothing is left out in
silence.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from testbed.serving.events import Note, Reporter, now_s

BURST = 5
INTERVAL_S = 5.0
MOST_TOPICS = 64
MOST_CHARACTERS = 500
_OTHERS = "others"


@dataclass(slots=True)
class _Topic:
    """An interval of a topic: when it ends, how many lines may still go out, how many were held back."""

    ends_s: float
    left: int
    held: int = 0
    latest: str = ""


class Notes:
    """Reports lines as :class:`~testbed.serving.events.Note`; call it with a line, from any thread.

    Args:
        report: Where they go.
        source: The host that they come from.
        burst: Lines of a topic that go out at once.
        interval_s: One line each from then on, until a whole interval has passed without one.
        clock: In seconds.
    """

    def __init__(
        self,
        report: Reporter,
        source: str,
        *,
        burst: int = BURST,
        interval_s: float = INTERVAL_S,
        clock: Callable[[], float] = now_s,
    ) -> None:
        self._report = report
        self._source = source
        self._burst = burst
        self._interval_s = interval_s
        self._clock = clock
        self._topics: dict[str, _Topic] = {}
        self._lock = threading.Lock()
        self._flushing = False

    def __call__(self, text: str, topic: str = "") -> None:
        """Report a line, now or summed up with others of its topic."""
        text = text[:MOST_CHARACTERS]
        with self._lock:
            now = self._clock()
            for name in [name for name, found in self._topics.items() if found.ends_s <= now and not found.held]:
                del self._topics[name]
            if topic not in self._topics and len(self._topics) >= MOST_TOPICS:
                topic = _OTHERS
            found = self._topics.setdefault(topic, _Topic(now + self._interval_s, self._burst))
            at_once = found.left > 0
            if at_once:
                found.left -= 1
            else:
                found.held += 1
                found.latest = text
            start = not at_once and not self._flushing
            self._flushing |= start
        if at_once:
            self._tell(text)
        if start:
            threading.Thread(target=self._flush_until_quiet, name="notes", daemon=True).start()

    def flush(self) -> float | None:
        """Report what intervals that are over have held back; returns when the next one is, None if nothing waits."""
        lines = []
        with self._lock:
            now = self._clock()
            for found in self._topics.values():
                if found.held and found.ends_s <= now:
                    more = f" (and {found.held - 1} more like it)" if found.held > 1 else ""
                    lines.append(f"{found.latest}{more}")
                    found.ends_s, found.left, found.held = now + self._interval_s, 0, 0
            due_s = min((found.ends_s for found in self._topics.values() if found.held), default=None)
            self._flushing = due_s is not None
        for line in lines:
            self._tell(line)
        return due_s

    def _flush_until_quiet(self) -> None:
        never = threading.Event()
        due_s: float | None = self._clock() + self._interval_s
        while due_s is not None:
            never.wait(max(0.0, due_s - self._clock()))
            due_s = self.flush()

    def _tell(self, text: str) -> None:
        self._report(Note(t_s=self._clock(), source=self._source, text=text))

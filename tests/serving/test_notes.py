"""Lines for people: all of a few, a bounded number of many."""

from __future__ import annotations

import threading

from testbed.serving.events import Event, Note
from testbed.serving.notes import MOST_TOPICS, Notes


class Desk:
    """Notes with a clock that is set by hand, and what came of them."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.came = threading.Condition()
        self.now_s = 100.0
        self.notes = Notes(self.take, "node1", burst=3, interval_s=10.0, clock=lambda: self.now_s)

    def take(self, event: Event) -> None:
        assert isinstance(event, Note)
        assert event.source == "node1"
        with self.came:
            self.lines.append(event.text)
            self.came.notify_all()


def test_the_first_lines_of_each_topic_go_out_at_once() -> None:
    desk = Desk()
    for topic in ("a", "b"):
        for number in range(3):
            desk.notes(f"{topic}{number}", topic)
    assert desk.lines == ["a0", "a1", "a2", "b0", "b1", "b2"]


def test_a_flood_becomes_one_line_an_interval_that_counts_it() -> None:
    desk = Desk()
    for number in range(100_000):
        desk.notes(f"line {number}", "flood")
    assert len(desk.lines) == 3
    assert desk.notes.flush() == 110.0
    desk.now_s = 110.0
    assert desk.notes.flush() is None
    assert desk.lines[3:] == ["line 99999 (and 99996 more like it)"]
    desk.notes("again", "flood")
    assert len(desk.lines) == 4
    desk.now_s = 120.0
    desk.notes.flush()
    assert desk.lines[4:] == ["again"]


def test_after_a_quiet_interval_a_topic_starts_anew() -> None:
    desk = Desk()
    for _ in range(3):
        desk.notes("x", "a")
    desk.now_s = 110.0
    desk.notes("y", "a")
    assert desk.lines == ["x", "x", "x", "y"]


def test_topics_without_end_are_one_topic() -> None:
    desk = Desk()
    for number in range(10 * MOST_TOPICS):
        desk.notes("x", f"topic {number}")
    assert len(desk.lines) <= MOST_TOPICS + 3


def test_what_is_held_back_comes_by_itself() -> None:
    came: list[str] = []
    full = threading.Event()

    def take(event: Event) -> None:
        assert isinstance(event, Note)
        came.append(event.text)
        if "more like it" in event.text:
            full.set()

    notes = Notes(take, "node1", burst=1, interval_s=0.05)
    for _ in range(10):
        notes("x" * 10_000)
    assert full.wait(10)
    assert all(len(text) < 600 for text in came)

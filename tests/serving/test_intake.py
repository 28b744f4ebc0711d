"""What waits for a node's processor: order, room, and that rings of hosts never wait for each other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import cast

import pytest

from testbed.serving.computing import Stage
from testbed.serving.connection import Arrival, Writer
from testbed.serving.intake import INBOX_DEPTH, OUTBOX_DEPTH, UNSENT, Intake, Slot, stage_of
from testbed.serving.mailbox import Mailbox
from testbed.serving.wire import Frame, FrameKind

WAIT_S = 20.0
STAGE = cast("Stage", None)


class Sink:
    """Stands for a writer that is never asked to send."""

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


def slot(index: int, epoch: int = 1) -> Slot:
    return Slot(epoch, index, STAGE, "next", cast("Writer", Sink()))


def arrival(number: int, stage: int, epoch: int = 1, received_s: float = 0.0) -> Arrival:
    return Arrival(Frame(FrameKind.DATA, epoch, number, {"hops": [{}] * stage}), received_s, None)


def serving(*slots: Slot) -> Intake:
    intake = Intake()
    intake.serve(slots)
    return intake


def test_a_request_is_for_the_stage_behind_those_that_have_computed_it() -> None:
    intake = serving(slot(0), slot(2))
    for number, stage in ((1, 0), (2, 2)):
        assert stage_of(arrival(number, stage)) == stage
        assert intake.put(arrival(number, stage))
    for stage, epoch in ((1, 1), (3, 1), (0, 2)):
        assert not intake.put(arrival(3, stage, epoch))
        assert intake.slot_for(arrival(3, stage, epoch)) is None


def test_the_last_stage_goes_on_first_and_each_in_the_order_of_arrival() -> None:
    intake = serving(slot(0), slot(2))
    for number, stage in ((1, 0), (2, 0), (3, 2), (4, 2)):
        assert intake.put(arrival(number, stage))
    assert [intake.take()[0].frame.request_id for _ in range(4)] == [3, 4, 1, 2]


def test_a_stage_whose_outputs_do_not_leave_waits_and_another_one_goes_on() -> None:
    intake = serving(slot(0), slot(2))
    for number in range(UNSENT):
        assert intake.put(arrival(number, 2))
        assert intake.take()[0].frame.request_id == number
    assert intake.put(arrival(10, 2))
    assert intake.put(arrival(11, 0))
    assert intake.take()[0].frame.request_id == 11
    intake.sent(1, 2)
    blocked, since_s = intake.take()
    assert blocked.frame.request_id == 10
    # It arrived at 0, but could only be computed since there is room.
    assert since_s > 1
    intake.sent(1, 0)
    assert intake.put(arrival(12, 0, received_s=5.0))
    assert intake.take()[1] == 5.0


def test_a_full_queue_holds_up_its_own_connection_only_and_ends_with_the_epoch() -> None:
    served = slot(0)
    intake = serving(served, slot(2))
    for number in range(INBOX_DEPTH):
        assert intake.put(arrival(number, 0))
    answers: list[bool] = []
    blocked = threading.Thread(target=lambda: answers.append(intake.put(arrival(9, 0))))
    blocked.start()
    assert intake.put(arrival(10, 2))
    assert answers == []
    intake.retire(2)
    blocked.join(WAIT_S)
    assert answers == [False]
    assert served.writer is None
    assert not served.waiting
    # The stage itself is still known, as the next epoch may need it.
    assert [kept.index for kept in intake.slots] == [0, 2]


class Ring:
    """A pipeline over a ring of hosts, each with one processor, joined by connections that hold nothing on the way.

    A connection is a thread that takes an output and gives it to the next stage's queue before it takes another one:
    TCP with no buffers at all, the worst that a network can do.
    """

    def __init__(self, route: str) -> None:
        self.route = route
        self.answers: Mailbox[int] = Mailbox()
        self.intakes = {host: Intake() for host in set(route)}
        self.outboxes: list[Mailbox[Arrival]] = [Mailbox(OUTBOX_DEPTH) for _ in route]
        for host, intake in self.intakes.items():
            intake.serve([slot(index) for index, each in enumerate(route) if each == host])
            self._start(lambda host=host: self._compute(host))
        for index in range(len(route)):
            self._start(lambda index=index: self._send(index))

    def _start(self, run: Callable[[], None]) -> None:
        threading.Thread(target=run, daemon=True).start()

    def _compute(self, host: str) -> None:
        while True:
            took, _ = self.intakes[host].take()
            index = stage_of(took)
            self.outboxes[index].put(arrival(took.frame.request_id, index + 1))

    def _send(self, index: int) -> None:
        host = self.intakes[self.route[index]]
        while True:
            output = self.outboxes[index].get()
            if index + 1 < len(self.route):
                assert self.intakes[self.route[index + 1]].put(output)
            else:
                self.answers.put(output.frame.request_id)
            host.sent(1, index)

    def ask(self, requests: int) -> None:
        """Feed the first stage as fast as it takes them."""
        self._start(lambda: [self.intakes[self.route[0]].put(arrival(n, 0)) for n in range(requests)] and None)


@pytest.mark.parametrize("route", ["aba", "abab", "abcabc", "abcba", "abacabad"])
def test_hosts_in_a_ring_never_wait_for_each_other(route: str) -> None:
    ring = Ring(route)
    ring.ask(requests := 400)
    deadline_s = time.monotonic() + WAIT_S
    found = [ring.answers.get(deadline_s - time.monotonic()) for _ in range(requests)]
    assert found == list(range(requests))

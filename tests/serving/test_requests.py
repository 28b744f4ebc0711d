"""The dispatcher's side of a client: what is asked again, what is held for the journal, what the disk refuses."""

from __future__ import annotations

from typing import Any

import pytest

from testbed.serving.ledger import Request
from testbed.serving.outcomes import Outcomes
from testbed.serving.requests import Requests
from testbed.serving.wire import Frame, FrameKind


class Line:
    """A connection that keeps what it is given; None instead of frames once it is full."""

    def __init__(self, full: bool = False) -> None:
        self.frames: list[Frame] = []
        self.full = full
        self.closed = False

    def offer(self, frame: Frame) -> bool:
        if not self.full:
            self.frames.append(frame)
        return not self.full

    def close(self) -> None:
        self.closed = True

    def take(self, kind: FrameKind) -> list[int]:
        """Numbers of the requests that frames of this kind were about; the frames are gone then."""
        found = [frame.request_id for frame in self.frames if frame.kind is kind]
        self.frames = [frame for frame in self.frames if frame.kind is not kind]
        return found


class Journal:
    """Told what a scribe is told."""

    def __init__(self) -> None:
        self.accepted: list[int] = []
        self.finished: list[int] = []

    def accept(self, request: Request) -> None:
        self.accepted.append(request.id)

    def finish(self, request_id: int) -> None:
        self.finished.append(request_id)


class Model:
    """Takes anything whose tensors are none."""

    def describes_input(self, tensors: object, payload_bytes: int) -> bool:
        return tensors == []


class Desk:
    """Requests with one client and a pipeline in epoch 1."""

    def __init__(self, window: int = 4, queue: int = 2) -> None:
        self.journal = Journal()
        self.notes: list[str] = []
        self.requests = Requests(window, queue, Model(), self.journal, self.note)  # type: ignore[arg-type]
        self.pipeline = Line()
        self.client = self.connect()
        self.requests.fence(1)
        self.requests.flow(self.pipeline, degraded=False)  # type: ignore[arg-type]

    def note(self, text: str, topic: str = "") -> None:
        self.notes.append(text)

    def connect(self) -> Line:
        line = Line()
        self.requests.join("c", line)  # type: ignore[arg-type]
        return line

    def submit(self, *numbers: int, **meta: Any) -> None:
        for number in numbers:
            frame = Frame(FrameKind.SUBMIT, request_id=number, meta={"tensors": [], **meta}, payload=(b"input",))
            self.requests.submit("c", frame)

    def answer(self, *numbers: int, epoch: int = 1) -> None:
        for number in numbers:
            meta = {"tensors": [], "hops": []}
            self.requests.answer(Frame(FrameKind.DATA, epoch, number, meta, (b"output",)))


def test_a_request_is_computed_at_once_and_answered_when_it_is_journalled() -> None:
    desk = Desk()
    desk.submit(1, 2)
    assert desk.pipeline.take(FrameKind.DATA) == [1, 2]
    assert desk.journal.accepted == [1, 2]
    desk.answer(1)
    assert desk.client.take(FrameKind.ANSWER) == []
    desk.requests.journalled((1, 2))
    assert desk.client.take(FrameKind.ANSWER) == [1]
    desk.answer(2)
    assert desk.client.take(FrameKind.ANSWER) == [2]
    assert desk.journal.finished == [1, 2]


def test_what_the_model_can_not_take_is_rejected_before_any_stage_sees_it() -> None:
    desk = Desk()
    desk.submit(1, tensors=[["float32", [5]]])
    (frame,) = [frame for frame in desk.client.frames if frame.kind is FrameKind.REJECTED]
    assert "not the model's inputs" in frame.meta["reason"]
    assert desk.pipeline.take(FrameKind.DATA) == desk.journal.accepted == []


@pytest.mark.parametrize("computed", [True, False])
def test_what_the_journal_does_not_take_is_rejected_computed_or_not(computed: bool) -> None:
    desk = Desk()
    desk.submit(1)
    if computed:
        desk.answer(1)
    desk.requests.unjournalled(1, "no space")
    (frame,) = [frame for frame in desk.client.frames if frame.kind is FrameKind.REJECTED]
    assert (frame.request_id, frame.meta["reason"]) == (1, "no space")
    desk.answer(1)
    assert desk.client.take(FrameKind.ANSWER) == []


def test_while_the_journal_fails_nothing_is_computed_for_nothing() -> None:
    desk = Desk()
    desk.submit(1)
    desk.requests.unjournalled(1, "no space")
    desk.pipeline.take(FrameKind.DATA)
    desk.submit(2, 3)
    assert desk.pipeline.take(FrameKind.DATA) == []
    desk.requests.unjournalled(2, "no space")
    desk.requests.journalled((3,))
    assert desk.pipeline.take(FrameKind.DATA) == [3]
    desk.submit(4)
    assert desk.pipeline.take(FrameKind.DATA) == [4]


def test_answers_that_wait_for_a_disk_are_bounded() -> None:
    desk = Desk(window=1, queue=1)
    for number in range(2):
        desk.submit(number)
        desk.answer(number)
    desk.submit(2)
    assert desk.client.take(FrameKind.REJECTED) == [2]
    desk.requests.journalled((0, 1))
    assert desk.client.take(FrameKind.ANSWER) == [0, 1]
    desk.submit(3)
    assert desk.client.take(FrameKind.REJECTED) == []


def test_a_request_that_comes_again_is_not_computed_again() -> None:
    desk = Desk(window=1)
    desk.submit(1, 2)  # in flight; waiting
    desk.answer(1)  # held for the journal; 2 is in flight now
    again = desk.connect()
    desk.submit(1, 2)
    assert desk.pipeline.take(FrameKind.DATA) == [1, 2]
    assert desk.journal.accepted == [1, 2]
    desk.requests.journalled((1, 2))
    desk.answer(2)
    assert again.take(FrameKind.ANSWER) == [1, 2]
    assert desk.client.take(FrameKind.ANSWER) == []


def test_an_answer_that_was_lost_is_sent_again_until_it_is_acknowledged() -> None:
    desk = Desk()
    desk.submit(1)
    desk.requests.journalled((1,))
    desk.answer(1)
    again = desk.connect()
    desk.submit(1)
    assert again.take(FrameKind.ANSWER) == [1]
    assert desk.pipeline.take(FrameKind.DATA) == [1]
    desk.submit(2, acknowledged=[1, "x", None])
    desk.submit(1)  # which no client does
    assert desk.pipeline.take(FrameKind.DATA) == [2, 1]


def test_the_end_of_an_old_connection_does_not_end_the_new_one() -> None:
    desk = Desk()
    desk.submit(1)
    again = desk.connect()
    desk.requests.leave("c", desk.client)  # type: ignore[arg-type]
    desk.requests.journalled((1,))
    desk.answer(1)
    assert (desk.client.closed, again.closed) == (True, False)
    assert again.take(FrameKind.ANSWER) == [1]


def test_a_client_that_is_away_finds_its_answer_when_it_is_back() -> None:
    desk = Desk()
    desk.submit(1)
    desk.requests.leave("c", desk.client)  # type: ignore[arg-type]
    desk.requests.journalled((1,))
    desk.answer(1)
    again = desk.connect()
    desk.submit(1)
    assert again.take(FrameKind.ANSWER) == [1]
    assert desk.pipeline.take(FrameKind.DATA) == [1]


def test_what_is_past_its_deadline_is_rejected_and_finished_in_the_journal() -> None:
    desk = Desk()
    desk.submit(1, deadline_s=0.0)
    desk.requests.expire()
    assert desk.client.take(FrameKind.REJECTED) == [1]
    assert desk.journal.finished == [1]
    desk.requests.journalled((1,))
    desk.answer(1)
    assert desk.client.take(FrameKind.ANSWER) == []


def test_what_an_earlier_dispatcher_had_left_is_computed_first() -> None:
    desk = Desk(window=2)
    left = [Request(id=n, client="c", tensors=[], payload=b"input", journalled=True) for n in (5, 6)]
    desk.requests.fence(17)
    desk.requests.submit("c", Frame(FrameKind.SUBMIT, request_id=9, meta={"tensors": []}, payload=(b"input",)))
    desk.requests.restore(left)
    assert desk.requests.fence(18) == 2
    pipeline = Line()
    desk.requests.flow(pipeline, degraded=False)  # type: ignore[arg-type]
    assert pipeline.take(FrameKind.DATA) == [5, 6]
    desk.answer(5, epoch=1)
    assert desk.client.take(FrameKind.ANSWER) == []
    desk.answer(5, 6, epoch=18)
    assert desk.client.take(FrameKind.ANSWER) == [5, 6]


def answer(number: int, size: int) -> Frame:
    return Frame(FrameKind.ANSWER, 1, number, {}, (bytes(size),))


def test_kept_answers_are_bounded_in_bytes_and_number() -> None:
    outcomes = Outcomes(most_bytes=100, most=3)
    for number in range(5):
        outcomes.keep(answer(number, 10))
    assert [number for number in range(5) if outcomes.get(number)] == [2, 3, 4]
    outcomes.keep(answer(5, 85))
    assert [number for number in range(6) if outcomes.get(number)] == [4, 5]
    outcomes.keep(answer(6, 101))
    assert len(outcomes) == 0
    outcomes.keep(answer(7, 60))
    outcomes.keep(answer(7, 60))
    outcomes.acknowledge([7, 99])
    outcomes.keep(answer(8, 100))
    assert len(outcomes) == 1

"""The client against a dispatcher of the test's own, which breaks connections and answers twice."""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from runner.client import GO, Client, ClientConfig
from testbed.serving.auth import Greeting, new_token
from testbed.serving.connection import Listener, Writer, arrivals, shut_down
from testbed.serving.events import ClientFinished, Event, Note, RequestCompleted, RequestSubmitted, now_s
from testbed.serving.patience import Patience
from testbed.serving.tensors import pack_tensors
from testbed.serving.wire import Frame, FrameKind, Limits

TOKEN = new_token()
TIMEOUT_S = 20.0
OUTPUT = torch.tensor([1.0, 2.0])


class Connection:
    """One connection of the client."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.writer = Writer(connection, depth=64, name="test")
        self.submitted: queue.Queue[Frame] = queue.Queue()
        self.writer.put(Frame(FrameKind.STATE, meta={"state": "serving"}))

    def next(self) -> Frame:
        return self.submitted.get(timeout=TIMEOUT_S)

    def answer(self, request_id: int) -> None:
        tensors, payload = pack_tensors([OUTPUT])
        self.writer.put(Frame(FrameKind.ANSWER, 1, request_id, {"tensors": tensors, "attempts": 1}, payload))

    def reject(self, request_id: int) -> None:
        self.writer.put(Frame(FrameKind.REJECTED, 1, request_id, {"reason": "full"}))

    def close(self) -> None:
        self.writer.close()
        shut_down(self._connection)


class Service:
    """A listener that hands the client's connections to the test, one after the other."""

    def __init__(self) -> None:
        self.connections: queue.Queue[Connection] = queue.Queue()
        self._listener = self._listen(0)
        self.port = self._listener.port

    def _listen(self, port: int) -> Listener:
        return Listener(("127.0.0.1", port), TOKEN, {"host": "d"}, {"client": self._serve}, lambda *_: None)

    def _serve(self, connection: socket.socket, greeting: Greeting) -> None:
        served = Connection(connection)
        self.connections.put(served)
        for arrival in arrivals(connection, Limits()):
            served.submitted.put(arrival.frame)

    def next(self) -> Connection:
        return self.connections.get(timeout=TIMEOUT_S)

    def close(self) -> None:
        self._listener.close()

    def open_again(self) -> None:
        self._listener = self._listen(self.port)


class Run:
    """A client on a thread of its own; the service is there, the workload has begun."""

    def __init__(self, folder: Path, service: Service, **workload: Any) -> None:
        save_file({"input.0.0": torch.zeros(3), "output.0.0": OUTPUT}, folder / "samples.safetensors")
        self.service = service
        self.events: list[Event] = []
        self._changed = threading.Condition()
        settings: dict[str, Any] = {
            "duration_s": 0.015,
            "drain_s": TIMEOUT_S,
            "in_flight": None,
            "rate_rps": 100.0,  # two requests
            "arrivals": "uniform",
            "deadline_s": None,
            "seed": 1,
            **workload,
        }
        config = ClientConfig(
            dispatcher=("127.0.0.1", service.port),
            token=TOKEN,
            samples=folder / "samples.safetensors",
            distinct=1,
            patience=Patience(retry_s=0.01, retry_most_s=0.1),
            **settings,
        )
        start, go = os.pipe()
        os.write(go, GO.pack(now_s()))
        os.close(go)
        self._start = start
        self._thread = threading.Thread(target=lambda: Client(config, self.report).run(start), daemon=True)
        self._thread.start()

    def report(self, event: Event) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def wait(self, condition: Callable[[], object]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, TIMEOUT_S)

    def finish(self) -> ClientFinished:
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()
        os.close(self._start)
        (finished,) = self.of(ClientFinished)
        assert isinstance(finished, ClientFinished)
        return finished

    @property
    def outcomes(self) -> list[tuple[int, str]]:
        return sorted((event.id, event.outcome) for event in self.of(RequestCompleted))


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.close()


def test_what_has_no_outcome_is_submitted_again_on_the_next_connection(tmp_path: Path, service: Service) -> None:
    run = Run(tmp_path, service)
    first = service.next()
    assert [first.next().request_id for _ in range(2)] == [0, 1]
    first.answer(0)
    run.wait(lambda: run.outcomes)
    first.close()
    second = service.next()
    again = second.next()
    assert (again.request_id, again.meta.get("acknowledged")) == (1, [0])
    second.answer(1)
    assert run.finish().unanswered == 0
    assert run.outcomes == [(0, "ok"), (1, "ok")]
    assert second.submitted.empty()


def test_a_dispatcher_that_is_away_for_a_while_is_found_again(tmp_path: Path, service: Service) -> None:
    run = Run(tmp_path, service)
    first = service.next()
    first.next()
    service.close()
    first.close()
    run.wait(lambda: any("lost the dispatcher" in note.text for note in run.of(Note)))
    service.open_again()
    second = service.next()
    assert sorted(second.next().request_id for _ in range(2)) == [0, 1]
    second.answer(0)
    second.reject(1)
    assert run.finish().unanswered == 0
    assert run.outcomes == [(0, "ok"), (1, "rejected")]


def test_a_second_answer_after_a_new_connection_is_dropped(tmp_path: Path, service: Service) -> None:
    run = Run(tmp_path, service)
    first = service.next()
    for _ in range(2):
        first.next()
    first.answer(0)
    run.wait(lambda: run.outcomes)
    first.close()
    second = service.next()
    second.answer(0)
    second.answer(1)
    assert run.finish().unanswered == 0
    assert run.outcomes == [(0, "ok"), (1, "ok")]
    assert any("dropped a second answer to request 0" in note.text for note in run.of(Note))


def test_an_answer_that_meets_the_question_asked_again_is_the_only_one(tmp_path: Path, service: Service) -> None:
    """A dispatcher that was started again answers from its journal while the client submits the same request."""
    run = Run(tmp_path, service)
    first = service.next()
    assert sorted(first.next().request_id for _ in range(2)) == [0, 1]
    first.close()
    second = service.next()
    assert sorted(second.next().request_id for _ in range(2)) == [0, 1]
    second.answer(0)
    second.answer(0)
    second.answer(1)
    assert run.finish().unanswered == 0
    assert run.outcomes == [(0, "ok"), (1, "ok")]
    assert any("dropped a second answer to request 0" in note.text for note in run.of(Note))


def test_a_second_answer_on_the_connection_of_the_question_is_told(tmp_path: Path, service: Service) -> None:
    run = Run(tmp_path, service)
    first = service.next()
    for _ in range(2):
        first.next()
    first.answer(0)
    first.answer(0)
    run.wait(lambda: len(run.outcomes) == 2)
    first.answer(1)
    assert run.finish().unanswered == 0
    assert run.outcomes == [(0, "ok"), (0, "ok"), (1, "ok")]


def test_a_deadline_goes_on_while_there_is_no_dispatcher(tmp_path: Path, service: Service) -> None:
    run = Run(tmp_path, service, deadline_s=0.2)
    first = service.next()
    assert 0.0 < first.next().meta["deadline_s"] <= 0.2
    first.next()
    service.close()
    first.close()
    submitted_s = run.of(RequestSubmitted)[1].t_s
    run.wait(lambda: any("lost the dispatcher" in note.text for note in run.of(Note)))
    threading.Event().wait(max(0.0, submitted_s + 0.2 - now_s()))  # the deadline itself passes
    service.open_again()
    second = service.next()
    assert [second.next().meta["deadline_s"] for _ in range(2)] == [0.0, 0.0]
    second.reject(0)
    second.reject(1)
    assert run.finish().unanswered == 0


def test_the_end_of_the_drain_ends_the_search_for_a_dispatcher(tmp_path: Path, service: Service) -> None:
    run = Run(tmp_path, service, drain_s=0.2)
    first = service.next()
    for _ in range(2):
        first.next()
    service.close()
    first.close()
    finished = run.finish()
    assert (finished.submitted, finished.unanswered) == (2, 2)


def test_a_request_of_which_no_dispatcher_tells_is_rejected_by_the_client(tmp_path: Path, service: Service) -> None:
    run = Run(tmp_path, service, deadline_s=0.2)
    first = service.next()
    for _ in range(2):
        first.next()
    service.close()
    first.close()
    assert run.finish().unanswered == 0
    assert run.outcomes == [(0, "rejected"), (1, "rejected")]
    assert all(done.t_s >= done.submitted_s + 0.2 for done in run.of(RequestCompleted))


def test_what_comes_for_a_request_that_was_given_up_is_dropped(tmp_path: Path, service: Service) -> None:
    run = Run(tmp_path, service, deadline_s=0.1)
    first = service.next()
    for _ in range(2):
        first.next()
    run.wait(lambda: run.outcomes)
    first.answer(0)
    run.wait(lambda: any("request 0, which had been given up" in note.text for note in run.of(Note)))
    assert run.finish().unanswered == 0
    assert run.outcomes == [(0, "rejected"), (1, "rejected")]

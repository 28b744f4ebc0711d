"""The client: asks the service as the workload says and judges every answer.

It is a process of its own on an emulated host, so that the ledger of what was asked survives whatever happens to the
dispatcher. It knows the right answers: the whole model's outputs, computed before the run. Answers that the service
marks as degraded it only compares with them, and keeps: which operations they lack nobody knows beforehand, so what
they should be is computed after the run (:mod:`runner.degraded`).

When the connection breaks it connects again and sends every request again that has no outcome, with what is left of its
deadline. A second answer is legal then, and dropped here: the first one is the request's outcome. The dispatcher may
have died between an answer and its record of it; or the answer and the question asked again met on their way. A second
answer to a request that was asked once, on the present connection, is none that a dispatcher may give; it is told like
the first.
Deadlines are the dispatcher's to keep. One that is dead or out of reach keeps none, so the client gives a request up by
itself when it still has no outcome a while after its deadline: it is rejected, and what comes for it later is dropped.
"""

from __future__ import annotations

import dataclasses
import os
import random
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from runner.judgement import Judgement, compare, judge
from runner.kept_answers import keep
from runner.lifeline import Lifeline
from testbed.errors import ProtocolError
from testbed.serving.codecs import NONE
from testbed.serving.events import (
    ClientFinished,
    ClientReady,
    Note,
    Reporter,
    RequestCompleted,
    RequestSubmitted,
    now_s,
)
from testbed.serving.mailbox import Mailbox
from testbed.serving.patience import PATIENCE, Patience
from testbed.serving.process import reporter
from testbed.serving.tensors import pack_tensors, unpack_tensors
from testbed.serving.wire import Buffer, Frame, FrameKind

CLIENT_NAME = "client"
GO = struct.Struct("!d")
"""What the runner writes to start the workload: time zero on the shared clock."""


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """What the client is started with.

    Attributes:
        dispatcher: Address and port.
        token: The run's token.
        samples: Safetensors file with ``input.<i>.<j>`` and ``output.<i>.<j>``: tensor ``j`` of sample ``i``.
        distinct: Number of samples.
        duration_s: How long to submit.
        drain_s: How long to wait for answers after that.
        in_flight: Closed loop: requests outstanding at any time. Open loop: None.
        rate_rps, arrivals: Open loop: mean rate, and ``poisson`` or ``uniform`` gaps.
        deadline_s: After how long the dispatcher is to reject a request instead; None means never.
        seed: Seed of the arrivals.
        codec: How inputs are encoded, beforehand; answers are judged by what it allows.
        answers: Folder for degraded answers; None where the service gives none.
        patience: How long to wait for the dispatcher, and between attempts to reach it again.
    """

    dispatcher: tuple[str, int]
    token: str = field(repr=False)
    samples: Path
    distinct: int
    duration_s: float
    drain_s: float
    in_flight: int | None
    rate_rps: float | None
    arrivals: str
    deadline_s: float | None
    seed: int
    codec: str = NONE
    answers: Path | None = None
    patience: Patience = PATIENCE


def arrival_times(rate_rps: float, arrivals: str, duration_s: float, seed: int) -> Iterator[float]:
    """Times of submission of an open loop, in seconds from its start.

    Args:
        rate_rps: Mean rate.
        arrivals: ``poisson`` for exponential gaps, ``uniform`` for equal ones.
        duration_s: No time is at or beyond it.
        seed: Of the gaps.
    """
    draw = random.Random(seed)  # noqa: S311 - arrivals, not secrets
    at_s = 0.0 if arrivals == "uniform" else draw.expovariate(rate_rps)
    while at_s < duration_s:
        yield at_s
        at_s += 1 / rate_rps if arrivals == "uniform" else draw.expovariate(rate_rps)


class Samples:
    """Inputs, ready to send, and the answers they must get."""

    def __init__(self, path: Path, distinct: int, codec: str = NONE) -> None:
        tensors = load_file(path)
        self.count = distinct
        self._codec = codec
        self.inputs: list[tuple[list[Any], list[Buffer]]] = []
        self.outputs: list[list[torch.Tensor]] = []
        for index in range(distinct):
            self.inputs.append(pack_tensors(_numbered(tensors, f"input.{index}"), codec))
            self.outputs.append(_numbered(tensors, f"output.{index}"))

    def compare(self, request_id: int, outputs: list[torch.Tensor]) -> Judgement:
        """A degraded answer against the whole model's."""
        return compare(self.outputs[request_id % self.count], outputs)

    def judge(self, request_id: int, outputs: list[torch.Tensor]) -> Judgement:
        """An answer against the whole model's: bit for bit, or within what the codec allows."""
        return judge(self.outputs[request_id % self.count], outputs, self._codec)


def _numbered(tensors: dict[str, torch.Tensor], prefix: str) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    while (tensor := tensors.get(f"{prefix}.{len(found)}")) is not None:
        found.append(tensor)
    return found


class Client:
    """One workload; see the module."""

    def __init__(self, config: ClientConfig, report: Reporter) -> None:
        self._config = config
        self._report = report
        self._samples = Samples(config.samples, config.distinct, config.codec)
        self._submitted_s: dict[int, float] = {}
        self._sent_on: dict[int, int] = {}
        """The number of the connection that a request was sent on last."""
        self._asked_again: set[int] = set()
        self._open: set[int] = set()
        self._arrived: set[int] = set()
        """Requests that the dispatcher has told an outcome of."""
        self._given_up: set[int] = set()
        self._acknowledged: list[int] = []
        """Requests whose answer is here, which the dispatcher has not been told."""
        self._changed = threading.Condition()
        self._serving: Mailbox[None] = Mailbox(1)
        self._line = Lifeline(
            config.dispatcher, config.token, CLIENT_NAME, config.patience, self._take, self._resubmit, self._note
        )

    def run(self, start: int) -> None:
        """Connect, wait for the service, then for ``start`` (a pipe that tells time zero), submit, drain.

        Raises:
            OSError: If the dispatcher can't be reached.
        """
        self._line.open()
        self._serving.get()
        self._report(ClientReady(t_s=now_s(), requests_prepared=self._samples.count))
        (zero_s,) = GO.unpack(os.read(start, GO.size))
        if self._config.deadline_s is not None:
            within_s = self._config.deadline_s + self._config.patience.retry_most_s
            threading.Thread(target=self._give_up, args=(within_s,), name="deadlines", daemon=True).start()
        if self._config.in_flight is not None:
            self._closed_loop(zero_s, self._config.in_flight)
        elif self._config.rate_rps is not None:
            self._open_loop(zero_s, self._config.rate_rps)
        self._drain()
        self._line.close()
        self._report(ClientFinished(t_s=now_s(), submitted=len(self._submitted_s), unanswered=len(self._open)))

    def _note(self, text: str) -> None:
        self._report(Note(t_s=now_s(), source=CLIENT_NAME, text=text))

    # What is asked ---------------------------------------------------------------------------------------------------

    def _closed_loop(self, zero_s: float, in_flight: int) -> None:
        end_s = zero_s + self._config.duration_s
        request_id = 0
        due_s = zero_s
        while due_s < end_s:
            self._submit(request_id, due_s)
            request_id += 1
            with self._changed:
                if not self._changed.wait_for(lambda: len(self._open) < in_flight, max(0.0, end_s - now_s())):
                    return
            due_s = now_s()

    def _open_loop(self, zero_s: float, rate_rps: float) -> None:
        config = self._config
        times = arrival_times(rate_rps, config.arrivals, config.duration_s, config.seed)
        for request_id, at_s in enumerate(times):
            self._submit(request_id, zero_s + at_s)

    def _submit(self, request_id: int, due_s: float) -> None:
        _sleep_until(due_s)
        submitted_s = now_s()
        with self._changed:
            self._submitted_s[request_id] = submitted_s
            self._open.add(request_id)
            self._changed.notify_all()
        self._report(RequestSubmitted(t_s=submitted_s, id=request_id, due_s=due_s))
        self._send(request_id)

    def _resubmit(self) -> None:
        """Send everything again that has no outcome, in the order in which it was asked."""
        with self._changed:
            unanswered = sorted(self._open)
        if unanswered:
            self._note(f"submits {len(unanswered)} requests again")
        for request_id in unanswered:
            self._send(request_id)

    def _send(self, request_id: int) -> None:
        """Send a request unless that has happened on this connection, or its outcome is here."""
        generation = self._line.generation
        with self._changed:
            if request_id not in self._open or self._sent_on.get(request_id, 0) >= generation:
                return
            if request_id in self._sent_on:
                self._asked_again.add(request_id)
            self._sent_on[request_id] = generation
            acknowledged, self._acknowledged = self._acknowledged, []
        tensors, payload = self._samples.inputs[request_id % self._samples.count]
        meta: dict[str, Any] = {"tensors": tensors}
        if acknowledged:
            meta["acknowledged"] = acknowledged
        if self._config.deadline_s is not None:
            waited_s = now_s() - self._submitted_s[request_id]
            meta["deadline_s"] = max(0.0, self._config.deadline_s - waited_s)
        self._line.send(Frame(FrameKind.SUBMIT, request_id=request_id, meta=meta, payload=payload), generation)

    def _drain(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._open, self._config.drain_s)

    def _give_up(self, within_s: float) -> None:
        """Reject, for as long as the process lives, what has no outcome so long after it was submitted."""
        while True:
            request_id = self._overdue(within_s)
            if request_id is not None:
                self._note(f"gave request {request_id} up: the dispatcher tells nothing of it")
                self._end(Frame(FrameKind.REJECTED, request_id=request_id), now_s(), Judgement("rejected"))

    def _overdue(self, within_s: float) -> int | None:
        """The oldest open request once its time is up, for which no outcome counts any more; None if one comes."""
        with self._changed:
            self._changed.wait_for(lambda: self._open - self._arrived)
            request_id = min(self._open - self._arrived, key=self._submitted_s.__getitem__)
            left_s = self._submitted_s[request_id] + within_s - now_s()
            if self._changed.wait_for(lambda: request_id in self._arrived, max(0.0, left_s)):
                return None
            self._given_up.add(request_id)
            return request_id

    # What comes back -------------------------------------------------------------------------------------------------

    def _take(self, frame: Frame, received_s: float) -> None:
        match frame.kind:
            case FrameKind.STATE:
                if frame.meta.get("state") in ("serving", "degraded"):
                    self._serving.offer(None)
            case FrameKind.ANSWER:
                outputs = unpack_tensors(frame.meta.get("tensors"), frame.body)
                if frame.meta.get("degraded"):
                    self._complete(frame, received_s, self._compared(frame.request_id, outputs))
                else:
                    self._complete(frame, received_s, self._samples.judge(frame.request_id, outputs))
            case FrameKind.REJECTED:
                self._complete(frame, received_s, Judgement("rejected"))
            case _:
                raise ProtocolError(f"{frame.kind.name} on a client's connection")

    def _complete(self, frame: Frame, received_s: float, found: Judgement) -> None:
        request_id = frame.request_id
        generation = self._line.generation
        with self._changed:
            if request_id not in self._submitted_s:
                raise ProtocolError(f"an answer to request {request_id}, which was never submitted")
            asked_twice = request_id in self._asked_again or self._sent_on[request_id] < generation
            again = asked_twice and request_id not in self._open
            late = request_id in self._given_up
            self._acknowledged.append(request_id)
            self._arrived.add(request_id)
            self._changed.notify_all()
        if late:
            self._note(f"dropped an outcome of request {request_id}, which had been given up")
            return
        if again:
            self._note(f"dropped a second answer to request {request_id}, which a lost connection had made unsure")
            return
        self._end(frame, received_s, found)

    def _end(self, frame: Frame, received_s: float, found: Judgement) -> None:
        request_id = frame.request_id
        self._report(
            RequestCompleted(
                t_s=received_s,
                id=request_id,
                submitted_s=self._submitted_s[request_id],
                outcome=found.outcome,
                attempts=int(frame.meta.get("attempts", 0)),
                epoch=frame.epoch,
                path=tuple(map(str, frame.meta.get("path", ()))),
                error=found.error,
                same_class=found.same_class,
                degraded=bool(frame.meta.get("degraded")),
                answer=found.answer,
            )
        )
        with self._changed:
            self._open.discard(request_id)
            self._changed.notify_all()

    def _compared(self, request_id: int, outputs: list[torch.Tensor]) -> Judgement:
        """Compare a degraded answer, and keep it; what can't be kept is never judged, which fails the run."""
        found = self._samples.compare(request_id, outputs)
        if self._config.answers is not None:
            try:
                return dataclasses.replace(found, answer=keep(self._config.answers, outputs))
            except OSError as error:
                self._note(f"a degraded answer can't be kept: {error.strerror}")
        return found


def _sleep_until(due_s: float) -> None:
    """Wait for an instant of the workload's own schedule."""
    gap_s = due_s - now_s()
    if gap_s > 0:
        threading.Event().wait(gap_s)


def main(config: dict[str, Any], fds: list[int]) -> None:
    """Entry of the client's process.

    Args:
        config: A :class:`ClientConfig` as JSON.
        fds: The socket for events, and the pipe that tells the start.
    """
    torch.set_num_threads(1)
    client_config = ClientConfig(
        **{
            **config,
            "dispatcher": (str(config["dispatcher"][0]), int(config["dispatcher"][1])),
            "samples": Path(config["samples"]),
            "answers": Path(config["answers"]) if config.get("answers") else None,
            "patience": Patience(**config.get("patience", {})),
        }
    )
    Client(client_config, reporter(fds[:1])).run(fds[1])

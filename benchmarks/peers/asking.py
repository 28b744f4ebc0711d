"""What both peers share: their stages, and who asks them.

Neither peer numbers its requests. The n-th answer is taken for that to the n-th request, which is all that a user of
them could do; when one is lost, every later one is taken for another's.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from runner.client import GO, Samples
from testbed.model.chunks import WeightAssembler
from testbed.model.executor import StageExecutor
from testbed.serving.events import (
    ClientFinished,
    ClientReady,
    Note,
    Reporter,
    RequestCompleted,
    RequestSubmitted,
    ServiceState,
    now_s,
)
from testbed.serving.package import Package
from testbed.serving.tensors import unpack_tensors

ERROR = "error: "
"""How the line of a peer begins that tells of an exception."""


def tell_error(report: Reporter, source: str, error: BaseException) -> None:
    """Put an exception on record, as the peer itself would print it."""
    report(Note(t_s=now_s(), source=source, text=f"{ERROR}{type(error).__name__}: {error}"[:500]))


def stage_weights(package: Package, first_op: int, last_op: int) -> Mapping[str, torch.Tensor]:
    """The weights of a stage by name, from the model's folder."""
    manifest = package.parcel(first_op, last_op).manifest
    assembler = WeightAssembler(manifest)
    for chunk_id in manifest.sizes:
        assembler.add(chunk_id, package.chunk(chunk_id))
    return assembler.tensors()


def warmed_up(executor: StageExecutor) -> StageExecutor:
    """The stage after a first run, which takes several times as long as the others."""
    executor.run([torch.zeros(spec.shape, dtype=spec.torch_dtype) for spec in executor.program.inputs])
    return executor


class Asker:
    """Asks in a closed loop and judges the answers in the order in which they come.

    Args:
        config: ``samples``, ``distinct``, ``duration_s`` and ``in_flight``, as the client of our own system has them.
        report: Where its events go.
        name: The host it runs on.
    """

    def __init__(self, config: Mapping[str, Any], report: Reporter, name: str) -> None:
        self._samples = Samples(Path(config["samples"]), config["distinct"])
        self._inputs = [
            unpack_tensors(described, memoryview(bytearray(b"".join(map(bytes, payload)))))
            for described, payload in self._samples.inputs
        ]
        self._duration_s: float = config["duration_s"]
        self._in_flight: int = config["in_flight"]
        self._report = report
        self._name = name
        self._submitted_s: list[float] = []
        self._answered = 0
        self._broken = False
        self._changed = threading.Condition()

    def run(self, start: int, send: Callable[[Sequence[torch.Tensor]], None]) -> None:
        """Wait for the start, ask for as long as configured, wait for the last answer or until something breaks.

        Args:
            start: A pipe that tells time zero.
            send: Sends a request's inputs; may block.
        """
        self._report(ServiceState(t_s=now_s(), state="serving"))
        self._report(ClientReady(t_s=now_s(), requests_prepared=self._samples.count))
        (zero_s,) = GO.unpack(os.read(start, GO.size))
        threading.Event().wait(max(0.0, zero_s - now_s()))
        try:
            while self._await_room(zero_s + self._duration_s):
                submitted_s = now_s()
                with self._changed:
                    number = len(self._submitted_s)
                    self._submitted_s.append(submitted_s)
                self._report(RequestSubmitted(t_s=submitted_s, id=number, due_s=submitted_s))
                send(self._inputs[number % self._samples.count])
        except (OSError, RuntimeError) as error:
            self.fail(error)
        with self._changed:
            # Neither peer has a time-out here; the benchmark bounds the wait by ending the process.
            self._changed.wait_for(lambda: self._broken or self._answered == len(self._submitted_s))
            unanswered = len(self._submitted_s) - self._answered
        self._report(ClientFinished(t_s=now_s(), submitted=len(self._submitted_s), unanswered=unanswered))

    def _await_room(self, end_s: float) -> bool:
        """Wait until another request may be sent; False once the time is over or something broke."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._broken or len(self._submitted_s) - self._answered < self._in_flight,
                max(0.0, end_s - now_s()),
            )
            return not self._broken and now_s() < end_s

    def take(self, outputs: Sequence[torch.Tensor]) -> None:
        """The next answer."""
        received_s = now_s()
        with self._changed:
            number = self._answered
            submitted_s = self._submitted_s[number]
        judgement = self._samples.judge(number, list(outputs))
        self._report(
            RequestCompleted(
                t_s=received_s,
                id=number,
                submitted_s=submitted_s,
                outcome=judgement.outcome,
                attempts=1,
                epoch=0,
                path=(),
            )
        )
        with self._changed:
            self._answered += 1
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Somebody has got an exception: it is told, and nothing more is asked."""
        tell_error(self._report, self._name, error)
        with self._changed:
            self._broken = True
            self._changed.notify_all()

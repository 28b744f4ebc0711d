"""How a node computes its stage: for real, or held back for a calibrated time.

A calibrated node is part of an emulation, not of the system under test: everything that comes and goes over the network
is real, but the time that its stage takes is drawn from a table of seconds per operation, which were measured once,
alone, on one whole core. So many more hosts fit on a machine, and none is slowed by what the others compute. What the
stage gives is computed the first time that an input is seen, and kept in a folder of the emulation by the hash of stage
and input; kept outputs are files, so the kernel may drop them when the host's memory limit gets tight.

A calibrated CPU is a server with a queue: it starts on a request when the request is there and the one before is due,
and is done a stage's time later. Due times are computed from due times, never from when a process happened to wake up,
so lateness doesn't add up from request to request. Unpacking, looking up and packing happen within the stage's time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from testbed.errors import ProtocolError
from testbed.model.executor import StageExecutor
from testbed.serving.codecs import NONE
from testbed.serving.events import now_s
from testbed.serving.tensors import pack_tensors, unpack_tensors
from testbed.serving.wire import Buffer, Frame

LEAST_NOISE_FACTOR = 0.1
"""A noisy stage takes at least this share of its time."""


@dataclass(frozen=True, slots=True)
class StageRun:
    """One run of a stage: its output as it goes into a frame, and how it came to be.

    Attributes:
        started_s: When the (emulated) CPU started on it.
        tensors, payload: As :func:`~testbed.serving.tensors.pack_tensors` gives them.
        computed: Whether the stage was computed (again), rather than its output looked up.
        overshoot_s: How much later than due the output was released; None where nothing is held back.
        mismatch: Whether the stage computed something else than what had been kept for this input.
    """

    started_s: float
    tensors: list[Any]
    payload: list[Buffer]
    computed: bool = True
    overshoot_s: float | None = None
    mismatch: bool = False


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage that a node holds.

    Attributes:
        executor: Its program, made ready.
        first_op, last_op: The operations of the model that it stands for.
        digest: A hash of program and weights.
        codec: How what it gives is encoded.
    """

    executor: StageExecutor
    first_op: int
    last_op: int
    digest: str
    codec: str = NONE


class Computing(Protocol):
    """Runs a stage for a request; one at a time."""

    def run(self, stage: Stage, frame: Frame, received_s: float) -> StageRun:
        """The stage's output for the frame's tensors, which had arrived at ``received_s``.

        Raises:
            ProtocolError: If the tensors are not the stage's inputs, or it can't be computed.
        """


def compute(stage: Stage, frame: Frame) -> tuple[list[Any], list[Buffer]]:
    """Run the stage here and now."""
    try:
        inputs = unpack_tensors(frame.meta.get("tensors"), frame.body)
        return pack_tensors(stage.executor.run(inputs), stage.codec)
    except (RuntimeError, MemoryError) as error:
        raise ProtocolError(str(error)) from error


class RealComputing:
    """What runs takes the time that it takes, under the quota of its host."""

    def run(self, stage: Stage, frame: Frame, received_s: float) -> StageRun:
        """Compute it."""
        started_s = now_s()
        tensors, payload = compute(stage, frame)
        return StageRun(started_s, tensors, payload)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a calibrated node is started with.

    Attributes:
        op_seconds: Of every operation of the model, on one whole core.
        speed: The host's speed relative to that core, or a file in which the emulation keeps it (:func:`write_speed`),
            because it may change.
        noise: Standard deviation of a stage's time, relative to it.
        seed: Of the noise.
        verify_every: Every so many requests are computed although their output is known, and compared.
        outputs: Folder of kept outputs, which all nodes of a run may share.
    """

    op_seconds: tuple[float, ...]
    speed: float | Path
    noise: float
    seed: int
    verify_every: int
    outputs: Path

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Calibration:
        """From plain data."""
        speed = plain["speed"]
        return cls(
            **{
                **plain,
                "op_seconds": tuple(plain["op_seconds"]),
                "outputs": Path(plain["outputs"]),
                "speed": Path(speed) if isinstance(speed, str) else speed,
            }
        )

    def service_s(self, stage: Stage) -> float:
        """What the stage takes on this host, without noise.

        Raises:
            ProtocolError: If the stage isn't one of the calibrated model.
        """
        if not 0 <= stage.first_op <= stage.last_op <= len(self.op_seconds):
            raise ProtocolError(
                f"operations {stage.first_op} to {stage.last_op} of a model with {len(self.op_seconds)} have no time"
            )
        speed = float(self.speed.read_text()) if isinstance(self.speed, Path) else self.speed
        return math.fsum(self.op_seconds[stage.first_op : stage.last_op]) / speed


def write_speed(path: Path, speed: float) -> None:
    """Set the speed of a calibrated node whose configuration names this file, from the next request on."""
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(repr(speed))
    draft.rename(path)


class CalibratedComputing:
    """Holds an output until the stage's calibrated time has passed since its start.

    Args:
        calibration: The times.
        note: Told, as a line for people, when outputs can't be kept.
        clock: The shared clock, in seconds; that of ``received_s``.
        wait_until: Waits for an instant on that clock; returns at once if it has passed.
    """

    def __init__(
        self,
        calibration: Calibration,
        note: Callable[[str], None],
        *,
        clock: Callable[[], float] = now_s,
        wait_until: Callable[[float], None] | None = None,
    ) -> None:
        self._calibration = calibration
        self._note = note
        self._clock = clock
        self._wait_until = wait_until or _wait_until
        self._draw = random.Random(calibration.seed)  # noqa: S311 - noise of a service time, not a secret
        self._free_s = 0.0
        self._runs = 0
        self._keeps = True

    def run(self, stage: Stage, frame: Frame, received_s: float) -> StageRun:
        """Look the output up, or compute it; return when its time has come."""
        started_s = max(received_s, self._free_s)
        due_s = self._free_s = started_s + self._duration_s(stage)
        key = _key(stage, frame)
        kept = self._kept(key)
        self._runs += 1
        mismatch = False
        computed = kept is None or self._runs % self._calibration.verify_every == 0
        if kept is None:
            found = compute(stage, frame)
            self._keep(key, *found)
        elif computed:
            found = compute(stage, frame)
            mismatch = found[0] != kept[0] or _joined(found[1]) != kept[1][0]
        else:
            found = kept[0], kept[1]
        self._wait_until(due_s)
        return StageRun(started_s, found[0], found[1], computed, max(0.0, self._clock() - due_s), mismatch)

    def _duration_s(self, stage: Stage) -> float:
        factor = 1.0
        if self._calibration.noise:
            factor = max(LEAST_NOISE_FACTOR, self._draw.gauss(1.0, self._calibration.noise))
        return self._calibration.service_s(stage) * factor

    def _kept(self, key: str) -> tuple[list[Any], list[Buffer]] | None:
        try:
            data = (self._calibration.outputs / key).read_bytes()
        except OSError:
            return None
        header, _, _ = data.partition(b"\n")
        return json.loads(header), [memoryview(data)[len(header) + 1 :]]

    def _keep(self, key: str, tensors: list[Any], payload: list[Buffer]) -> None:
        if not self._keeps:
            return
        path = self._calibration.outputs / key
        draft = path.with_name(f".{key}.{os.getpid()}")
        try:
            draft.write_bytes(b"".join((json.dumps(tensors).encode(), b"\n", *payload)))
            draft.rename(path)
        except OSError as error:
            self._keeps = False
            self._note(f"outputs can't be kept and are computed each time: {error.strerror}")
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)


def _key(stage: Stage, frame: Frame) -> str:
    """A hash of what determines the output."""
    digest = hashlib.sha256(f"{stage.digest} {stage.codec}".encode())
    digest.update(json.dumps(frame.meta.get("tensors")).encode())
    digest.update(frame.body)
    return digest.hexdigest()


def _joined(payload: list[Buffer]) -> bytes:
    return b"".join(payload)


def _wait_until(due_s: float) -> None:
    """Sleep until an instant of CLOCK_MONOTONIC; the kernel is given the instant itself, not a length of time."""
    gap_s = due_s - now_s()
    if gap_s > 0:
        time.sleep(gap_s)


def computing_of(calibration: Mapping[str, Any] | None, note: Callable[[str], None]) -> Computing:
    """How a node with this configuration computes; ``None`` is for real."""
    if calibration is None:
        return RealComputing()
    return CalibratedComputing(Calibration.from_json(calibration), note)

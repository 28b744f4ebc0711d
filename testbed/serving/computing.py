"""How a node computes its stage: for real, or held back for a calibrated time.

A node that is told its pace is part of an emulation, not of the system under test: everything that comes and goes over
the network is real, but a stage's output is released no sooner than a host of the declared speed would have it. That
time is drawn from a table of seconds per operation, which were measured once, alone, on one whole core.

Where the host computes for real, every request is computed, under the CPU quota of its host, which is made a little
larger than the declared share (:mod:`runner.quota_fit`): a quota alone gives a speed that wavers with the caches and
with what else the machine does. Where it is calibrated, what a stage gives is computed the first time that an input is
seen, and kept in a folder of the emulation by the hash of stage and input; so many more hosts fit on a machine, and
none is slowed by what the others compute. Kept outputs are files, so the kernel may drop them when the host's memory
limit gets tight.

The emulated CPU is a server with a queue: it starts on a request when the request is there and the one before is done,
and is due a stage's time later. Unpacking, looking up, computing and packing happen within the stage's time.
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


class UnheldComputing:
    """What runs takes the time that it takes."""

    def run(self, stage: Stage, frame: Frame, received_s: float) -> StageRun:
        """Compute it."""
        started_s = now_s()
        tensors, payload = compute(stage, frame)
        return StageRun(started_s, tensors, payload)


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast an emulated host computes.

    Attributes:
        op_seconds: Of every operation of the model, on one whole core.
        speed: The host's speed relative to that core, or a file in which the emulation keeps it (:func:`write_speed`),
            because it may change.
        noise: Standard deviation of a stage's time, relative to it.
        seed: Of the noise.
    """

    op_seconds: tuple[float, ...]
    speed: float | Path
    noise: float = 0.0
    seed: int = 0

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Pace:
        """From plain data."""
        speed = plain["speed"]
        return cls(
            **{
                **plain,
                "op_seconds": tuple(plain["op_seconds"]),
                "speed": Path(speed) if isinstance(speed, str) else speed,
            }
        )

    def service_s(self, stage: Stage) -> float:
        """What the stage takes on this host, without noise.

        Raises:
            ProtocolError: If the stage isn't one of the model.
        """
        if not 0 <= stage.first_op <= stage.last_op <= len(self.op_seconds):
            raise ProtocolError(
                f"operations {stage.first_op} to {stage.last_op} of a model with {len(self.op_seconds)} have no time"
            )
        speed = float(self.speed.read_text()) if isinstance(self.speed, Path) else self.speed
        return math.fsum(self.op_seconds[stage.first_op : stage.last_op]) / speed


def write_speed(path: Path, speed: float) -> None:
    """Set the speed of a node whose pace names this file, from the next request on."""
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(repr(speed))
    draft.rename(path)


@dataclass(frozen=True, slots=True)
class Found:
    """A stage's output, and whether it was computed, or looked up, or (``mismatch``) computed to another one."""

    tensors: list[Any]
    payload: list[Buffer]
    computed: bool = True
    mismatch: bool = False


class KeptOutputs:
    """Outputs by stage and input, in files.

    Args:
        folder: Where; all nodes of a run may share it.
        verify_every: Every so many requests are computed although their output is known, and compared.
        note: Told, as a line for people, when outputs can't be kept.
    """

    def __init__(self, folder: Path, verify_every: int, note: Callable[[str], None]) -> None:
        self._folder = folder
        self._verify_every = verify_every
        self._note = note
        self._runs = 0
        self._keeps = True

    def find(self, stage: Stage, frame: Frame) -> Found:
        """Look an output up, or compute it.

        Raises:
            ProtocolError: If the tensors are not the stage's inputs, or it can't be computed.
        """
        key = _key(stage, frame)
        kept = self._kept(key)
        self._runs += 1
        if kept is None:
            found = compute(stage, frame)
            self._keep(key, *found)
            return Found(*found)
        if self._runs % self._verify_every:
            return Found(*kept, computed=False)
        again = compute(stage, frame)
        return Found(*again, mismatch=again[0] != kept[0] or _joined(again[1]) != _joined(kept[1]))

    def _kept(self, key: str) -> tuple[list[Any], list[Buffer]] | None:
        try:
            data = (self._folder / key).read_bytes()
        except OSError:
            return None
        header, _, _ = data.partition(b"\n")
        return json.loads(header), [memoryview(data)[len(header) + 1 :]]

    def _keep(self, key: str, tensors: list[Any], payload: list[Buffer]) -> None:
        if not self._keeps:
            return
        path = self._folder / key
        draft = path.with_name(f".{key}.{os.getpid()}")
        try:
            draft.write_bytes(b"".join((json.dumps(tensors).encode(), b"\n", *payload)))
            draft.rename(path)
        except OSError as error:
            self._keeps = False
            self._note(f"outputs can't be kept and are computed each time: {error.strerror}")
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)


class PacedComputing:
    """Holds an output until the stage's time has passed since its start.

    Args:
        pace: The host's.
        outputs: Where outputs are looked up; None computes each one.
        clock: The shared clock, in seconds; that of ``received_s``.
        wait_until: Waits for an instant on that clock; returns at once if it has passed.
    """

    def __init__(
        self,
        pace: Pace,
        outputs: KeptOutputs | None = None,
        *,
        clock: Callable[[], float] = now_s,
        wait_until: Callable[[float], None] | None = None,
    ) -> None:
        self._pace = pace
        self._outputs = outputs
        self._clock = clock
        self._wait_until = wait_until or _wait_until
        self._draw = random.Random(pace.seed)  # noqa: S311 - noise of a service time, not a secret
        self._free_s = 0.0

    def run(self, stage: Stage, frame: Frame, received_s: float) -> StageRun:
        """Find the output; return when its time has come."""
        started_s = max(received_s, self._free_s)
        due_s = started_s + self._duration_s(stage)
        found = Found(*compute(stage, frame)) if self._outputs is None else self._outputs.find(stage, frame)
        # The CPU is free when it is due, however late this process wakes up to say so: else that would add up from
        # request to request. If it was due before it was done, it is busy until then.
        self._free_s = max(due_s, self._clock())
        self._wait_until(due_s)
        over_s = max(0.0, self._clock() - due_s)
        return StageRun(started_s, found.tensors, found.payload, found.computed, over_s, found.mismatch)

    def _duration_s(self, stage: Stage) -> float:
        factor = 1.0
        if self._pace.noise:
            factor = max(LEAST_NOISE_FACTOR, self._draw.gauss(1.0, self._pace.noise))
        return self._pace.service_s(stage) * factor


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


def computing_of(
    pace: Mapping[str, Any] | None, outputs: Mapping[str, Any] | None, note: Callable[[str], None]
) -> Computing:
    """How a node with this configuration computes.

    Args:
        pace: A :class:`Pace` as plain data; None holds nothing back.
        outputs: ``folder`` and ``verify_every`` of :class:`KeptOutputs`; None computes each request.
        note: For lines to people.
    """
    if pace is None:
        return UnheldComputing()
    kept = None if outputs is None else KeptOutputs(Path(outputs["folder"]), outputs["verify_every"], note)
    return PacedComputing(Pace.from_json(pace), kept)

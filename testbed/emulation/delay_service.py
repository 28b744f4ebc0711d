"""The delay line as its users see it: start it, give it queues, change them, ask how late it was, stop it.

It must not die unnoticed: without it the queues let nothing through, and an experiment would only look slow. A thread
waits on its pidfd and calls back the moment it ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import testbed
from testbed.emulation.impairment import Impairment
from testbed.emulation.lateness import LatenessSummary
from testbed.emulation.manifest import RunManifest
from testbed.emulation.processes import ProcessIdentity
from testbed.errors import MachineError

_ANSWER_DEADLINE_S = 15.0
_STOP_DEADLINE_S = 5.0


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """One direction of a link at its receiving end.

    Attributes:
        number: Number of its NFQUEUE, unique in the namespace.
        impairment: What to do to its packets.
        seed: Start of the random numbers that decide.
    """

    number: int
    impairment: Impairment
    seed: int

    def to_json(self) -> dict[str, Any]:
        """As the delay line wants it."""
        return {"number": self.number, "impairment": self.impairment.to_json(), "seed": self.seed}


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """What one queue has done since it was bound; ``held`` is now."""

    place: str
    number: int
    held: int
    released: int
    lost: int


@dataclass(frozen=True, slots=True)
class DelayStatistics:
    """What the delay line says of itself.

    Attributes:
        lateness: Release time − due time of all packets since the start or the last clearing.
        cpu_s: CPU time it has used, the forwarding of the released packets included.
        kernel_drops: Packets that the kernel dropped because a queue overflowed: 0, or the run is invalid.
        scheduling: ``fifo`` or, where real-time scheduling is not allowed, ``nice``.
        queues: Counts of each queue.
    """

    lateness: LatenessSummary
    cpu_s: float
    kernel_drops: int
    scheduling: str
    queues: tuple[QueueCounts, ...]


class DelayService:
    """Handle of the process; see :mod:`testbed.emulation.delayline`.

    Start it in a thread that lives as long as the run: the kernel kills it when that thread ends.

    Args:
        manifest: Journal of the run.
        on_death: Called from a thread of its own, with a sentence, if the process ends unasked.
    """

    def __init__(self, manifest: RunManifest, on_death: Callable[[str], None]) -> None:
        self._manifest = manifest
        self._on_death = on_death
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._watcher: threading.Thread | None = None
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._scheduling: str | None = None

    @property
    def pid(self) -> int | None:
        """The process, or None when it isn't started."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process; :meth:`ready` waits for it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_ANSWER_DEADLINE_S)
        with theirs:
            # It journals nothing itself: if we die before the line is written, it ends with its control socket.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "testbed.emulation.delayline", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the runner, which still needs it to heal links
                env={**os.environ, "PYTHONPATH": import_path()},
            )
        self._control = ours
        identity = ProcessIdentity.of(self._process.pid)
        self._manifest.will_create(
            "process", pid=identity.pid, start_time_ticks=identity.start_time_ticks, role="delayline"
        )
        self._scheduling = None
        self._stopping.clear()
        self._watcher = threading.Thread(
            target=self._watch, args=(os.pidfd_open(self._process.pid),), name="delay line watcher", daemon=True
        )
        self._watcher.start()

    def ready(self) -> None:
        """Wait until it serves; returns at once when it does already.

        Raises:
            MachineError: If it doesn't within 15 s.
        """
        with self._lock:
            if self._scheduling is None:
                self._scheduling = str(self._receive()["scheduling"])

    def bind(self, place: str, pid: int, queues: Iterable[QueueSettings]) -> None:
        """Take queues in the namespace of a process.

        Args:
            place: Name of the namespace for later requests.
            pid: A process in it.
            queues: All at least to begin with.

        Raises:
            MachineError: If the kernel refuses, or the delay line holds other settings than these.
        """
        self._set({"do": "bind", "place": place, "pid": pid}, tuple(queues))

    def change(self, place: str, queues: Iterable[QueueSettings]) -> None:
        """Take further queues in a bound namespace, or set those it has anew.

        Raises:
            MachineError: If the kernel refuses, or the delay line holds other settings than these.
        """
        self._set({"do": "change", "place": place}, tuple(queues))

    def statistics(self, clear: bool = False) -> DelayStatistics:
        """What it says of itself.

        Args:
            clear: Start the lateness afresh afterwards, such as when the workload begins.

        Raises:
            MachineError: If it has died.
        """
        answer = self._request({"do": "statistics", "clear": clear})
        return DelayStatistics(
            LatenessSummary.from_json(answer["lateness"]),
            float(answer["cpu_s"]),
            int(answer["kernel_drops"]),
            self._scheduling or "none",
            tuple(
                QueueCounts(place, int(queue["number"]), int(queue["held"]), int(queue["released"]), int(queue["lost"]))
                for place, queues in answer["places"].items()
                for queue in queues
            ),
        )

    def stop(self) -> None:
        """End the process and wait for it; twice is fine."""
        self._stopping.set()
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            try:
                self._process.wait(_STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGKILL)
                self._process.wait(_STOP_DEADLINE_S)
            self._process = None
        if self._watcher is not None:
            self._watcher.join(_STOP_DEADLINE_S)
            self._watcher = None

    def _watch(self, pidfd: int) -> None:
        with contextlib.closing(os.fdopen(pidfd, "rb", buffering=0)):
            select.select([pidfd], [], [])
        if not self._stopping.is_set():
            self._on_death(self._obituary())

    def _obituary(self) -> str:
        return "the delay line has died: the emulated links let nothing through any more"

    def _set(self, request: Mapping[str, Any], queues: tuple[QueueSettings, ...]) -> None:
        answer = self._request({**request, "queues": [queue.to_json() for queue in queues]})
        for wanted, found in zip(queues, answer["queues"], strict=True):
            held = (found["number"], Impairment.from_json(found["impairment"]))
            if held != (wanted.number, wanted.impairment):
                raise MachineError(f"the delay line set {held} instead of {wanted} at {request['place']}")

    def _request(self, request: Mapping[str, Any]) -> Any:
        with self._lock:
            if self._control is None:
                raise MachineError("the delay line isn't running")
            try:
                self._control.send(json.dumps(request).encode())
            except OSError as error:
                raise MachineError(self._obituary()) from error
            return self._receive()

    def _receive(self) -> Any:
        if self._control is None:
            raise MachineError("the delay line isn't running")
        try:
            message = self._control.recv(1 << 20)
        except TimeoutError as error:
            raise MachineError(f"the delay line didn't answer within {_ANSWER_DEADLINE_S:.0f} s") from error
        except OSError as error:
            raise MachineError(self._obituary()) from error
        if not message:
            raise MachineError(self._obituary())
        answer = json.loads(message)
        if not answer["ok"]:
            raise MachineError(
                f"the delay line can't do it: {answer['error']}",
                remedy="it needs the kernel's nfnetlink_queue: modprobe nfnetlink_queue",
            )
        return answer


def import_path() -> str:
    """PYTHONPATH for a child that must find this very package, installed or not."""
    ours = str(Path(testbed.__file__).resolve().parent.parent)
    inherited = os.environ.get("PYTHONPATH")
    return f"{ours}{os.pathsep}{inherited}" if inherited else ours

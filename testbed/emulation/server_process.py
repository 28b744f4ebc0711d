"""A server to start, and the process that came of it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testbed.emulation.processes import ProcessIdentity, is_pending, send_pidfd, thread_states
from testbed.errors import MachineError


@dataclass(frozen=True, slots=True)
class SpawnRequest:
    """A server to start.

    Attributes:
        name: Its name, in the journal, in ``ps`` and in callbacks.
        entry: ``package.module:function``; called as ``function(config, fds)``. When it returns, the process ends.
        config: Its configuration; must be JSON.
        stdout: File to which its output is appended (standard error too).
        netns_pid: A living process whose network namespace it enters, or None to stay in the machine's.
        cgroup_paths: Files it joins by writing ``0``, in this order (:meth:`Cgroup.join_paths`).
        fds: Descriptors it is given; the caller keeps its own copies. All others are closed.
    """

    name: str
    entry: str
    config: Mapping[str, Any]
    stdout: Path
    netns_pid: int | None = None
    cgroup_paths: Sequence[Path] = ()
    fds: Sequence[int] = ()


@dataclass(eq=False)
class ServerProcess:
    """A child of the nursery.

    Attributes:
        name: As requested.
        identity: Its pid and start time.
        pidfd: Names it for as long as the nursery isn't closed, also after its end.
        detail: After its end: what it said of its failure, or an empty text.
        end: Its exit status, once there is one; the nursery sets it.
    """

    name: str
    identity: ProcessIdentity
    pidfd: int
    detail: str = ""
    end: Future[int] = field(default_factory=Future, repr=False)

    @property
    def pid(self) -> int:
        """Its number."""
        return self.identity.pid

    @property
    def status(self) -> int | None:
        """Exit status, or minus the number of the signal that ended it; None while it runs."""
        return self.end.result() if self.end.done() else None

    def kill(self) -> bool:
        """End it by SIGKILL; False if it has ended already."""
        return self.status is None and send_pidfd(self.pidfd, signal.SIGKILL)

    def terminate(self) -> bool:
        """Ask it to end by SIGTERM; False if it has ended already."""
        return self.status is None and send_pidfd(self.pidfd, signal.SIGTERM)

    @property
    def is_asked(self) -> bool:
        """Whether it has yet to take the SIGTERM that it was sent."""
        return is_pending(self.identity, signal.SIGTERM)

    def stop(self) -> bool:
        """Stop it by SIGSTOP: it hangs, and keeps what it has; False if it has ended already."""
        return self.status is None and send_pidfd(self.pidfd, signal.SIGSTOP)

    def go_on(self) -> bool:
        """End a :meth:`stop`; False if it has ended already."""
        return self.status is None and send_pidfd(self.pidfd, signal.SIGCONT)

    @property
    def is_stopped(self) -> bool:
        """Whether it is stopped, with all of its threads."""
        states = thread_states(self.identity)
        return bool(states) and set(states) == {"T"}

    def wait(self, timeout_s: float) -> int:
        """Its exit status.

        Raises:
            TimeoutError: If it still runs after that time.
        """
        try:
            return self.end.result(timeout_s)
        except FutureTimeoutError:
            raise TimeoutError(f"{self.name} (process {self.pid}) still runs after {timeout_s} s") from None


def config_file(request: SpawnRequest) -> int:
    """An anonymous file with the config of a request.

    Raises:
        TypeError: If it isn't JSON.
    """
    try:
        text = json.dumps(request.config)
    except (TypeError, ValueError) as error:
        raise TypeError(f"the config of {request.name} isn't JSON: {error}") from error
    descriptor = os.memfd_create(f"config-{request.name}"[:200], os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(text.encode())
    return descriptor


def open_netns(pid: int, name: str) -> int:
    """The network namespace of a process, by a descriptor that stays right whatever becomes of the process.

    Raises:
        MachineError: If the process has gone, or is in the machine's own network namespace.
    """
    try:
        descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise MachineError(
            f"can't open the network namespace of {name} (process {pid}): {error.strerror}",
            remedy="its emulated host has gone, or this isn't root",
        ) from error
    # A pid that was reused, or a host without a namespace, would put the server on the machine's own network.
    if os.path.samestat(os.fstat(descriptor), Path("/proc/self/ns/net").stat()):
        os.close(descriptor)
        raise MachineError(f"process {pid} is in the machine's own network, not in the emulated host of {name}")
    return descriptor

"""Processes, named so that a reused number can't be mistaken for them.

A pid alone is no name: the kernel gives it to another process later. A pid with its start time is one (within one
boot), and a pidfd is one for as long as it is open. Everything here that ends a process opens the pidfd first, then
checks the start time, then signals the pidfd: whatever happens in between, no other process is hit.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path


def _stat_fields(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ProcessLookupError(f"no process {pid}") from error
    # The name in parentheses may itself hold spaces and parentheses: what follows the last one is regular.
    return text.rpartition(")")[2].split()


@dataclass(frozen=True, slots=True, order=True)
class ProcessIdentity:
    """A process of this boot.

    Attributes:
        pid: Its number.
        start_time_ticks: Its start, in clock ticks since boot (field 22 of ``/proc/<pid>/stat``).
    """

    pid: int
    start_time_ticks: int

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        """The identity of the process that has this number now.

        Raises:
            ProcessLookupError: If there is none.
        """
        return cls(pid, int(_stat_fields(pid)[19]))

    @property
    def alive(self) -> bool:
        """Whether it still runs; a zombie doesn't."""
        try:
            fields = _stat_fields(self.pid)
        except ProcessLookupError:
            return False
        return int(fields[19]) == self.start_time_ticks and fields[0] not in "ZX"

    def open(self) -> int | None:
        """A pidfd of exactly this process (close it with ``os.close``), or None if it has gone."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        try:
            same = ProcessIdentity.of(self.pid) == self
        except ProcessLookupError:
            same = False
        if same:
            return pidfd
        os.close(pidfd)
        return None

    def send(self, signal_number: int) -> bool:
        """Signal it; False if it has gone.

        Raises:
            PermissionError: If it belongs to someone else and we aren't root.
        """
        pidfd = self.open()
        if pidfd is None:
            return False
        try:
            return send_pidfd(pidfd, signal_number)
        finally:
            os.close(pidfd)


def send_pidfd(pidfd: int, signal_number: int) -> bool:
    """Signal the process of a pidfd; False if it has gone."""
    try:
        signal.pidfd_send_signal(pidfd, signal_number)
    except ProcessLookupError:
        return False
    return True


def thread_states(identity: ProcessIdentity) -> tuple[str, ...]:
    """The state of each thread of a process, as a letter of ``ps`` (T is stopped); empty if it has gone."""
    if not identity.alive:
        return ()
    states = []
    for thread in Path(f"/proc/{identity.pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            states.append((thread / "stat").read_text().rpartition(")")[2].split()[0])
    return tuple(states)


def is_pending(identity: ProcessIdentity, signal_number: int) -> bool:
    """Whether a signal that was sent to a process still waits to be taken; False if the process has gone."""
    try:
        lines = Path(f"/proc/{identity.pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return False
    masks = dict(line.split(":", 1) for line in lines if line.startswith(("SigPnd", "ShdPnd")))
    return identity.alive and any(int(mask, 16) >> (signal_number - 1) & 1 for mask in masks.values())


def wait_pidfds(pidfds: Iterable[int], deadline_s: float) -> set[int]:
    """Wait until the processes have ended.

    Args:
        pidfds: Open pidfds; they stay open.
        deadline_s: Latest end of the wait, on CLOCK_MONOTONIC.

    Returns:
        The pidfds of those that still ran at the deadline.
    """
    waiting = set(pidfds)
    poll = select.poll()
    for pidfd in waiting:
        poll.register(pidfd, select.POLLIN)
    while waiting:
        left_s = deadline_s - time.monotonic()
        for pidfd, _ in poll.poll(max(0.0, left_s) * 1000):
            poll.unregister(pidfd)
            waiting.discard(pidfd)
        if left_s <= 0:
            break
    return waiting


def kill_all(identities: Iterable[ProcessIdentity], deadline_s: float) -> Mapping[ProcessIdentity, bool]:
    """End processes by SIGKILL, all at once, and wait until they have gone.

    Args:
        identities: The processes; those that have gone already are left out of the answer.
        deadline_s: Latest end of the wait, on CLOCK_MONOTONIC.

    Returns:
        For each process that was still alive: whether it ended in time.

    Raises:
        PermissionError: If one belongs to someone else and we aren't root.
    """
    with contextlib.ExitStack() as open_files:
        pidfds: dict[ProcessIdentity, int] = {}
        for identity in identities:
            pidfd = identity.open() if identity.alive else None
            if pidfd is not None:
                open_files.callback(os.close, pidfd)
                pidfds[identity] = pidfd
        for pidfd in pidfds.values():
            send_pidfd(pidfd, signal.SIGKILL)
        stubborn = wait_pidfds(pidfds.values(), deadline_s)
        return {identity: pidfd not in stubborn for identity, pidfd in pidfds.items()}


def pids_of_cgroup(procs_file: Path) -> tuple[int, ...]:
    """The pids in a ``cgroup.procs`` file; empty if the cgroup has gone.

    A 0 stands for a process outside our pid namespace; nothing can be said of it, so it is left out.
    """
    try:
        text = procs_file.read_text()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):  # ENODEV: removed between open and read
            return ()
        raise
    return tuple(pid for pid in map(int, text.split()) if pid)

"""One run at a time on a machine.

The lock is a ``flock`` on ``/run/testbed/lock``: the kernel releases it when its holder dies, however it dies, so
there is no stale lock. The file says who holds it, for people only; nothing is decided by what it says.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from testbed.emulation.manifest import RUN_ROOT
from testbed.emulation.processes import ProcessIdentity
from testbed.errors import BusyError, MachineError

LOCK_NAME = "lock"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds the lock, as it says itself.

    Attributes:
        run_name: Its run.
        pid: Its process.
        start_time_ticks: With the pid, its identity.
        since_unix_s: When it took the lock, wall clock.
    """

    run_name: str
    pid: int
    start_time_ticks: int
    since_unix_s: float

    def describe(self) -> str:
        """One line for people."""
        since = datetime.fromtimestamp(self.since_unix_s).astimezone()
        return f"run {self.run_name} (process {self.pid}) since {since:%H:%M:%S on %Y-%m-%d}"


@dataclass(frozen=True, slots=True)
class MachineLock:
    """What :func:`machine_lock` holds.

    Attributes:
        run_name: The run that it was taken for.
        root: The directory whose runs it guards.
    """

    run_name: str
    root: Path


def holder(root: Path = RUN_ROOT) -> Holder | None:
    """Who holds the lock now, or None if nobody does or it isn't known yet."""
    try:
        found = Holder(**json.loads((root / LOCK_NAME).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        # No lock yet, or its holder is between taking it and writing its name.
        return None
    return found if ProcessIdentity(found.pid, found.start_time_ticks).alive else None


@contextlib.contextmanager
def machine_lock(run_name: str, root: Path = RUN_ROOT) -> Iterator[MachineLock]:
    """Hold the machine for a run.

    The descriptor is closed on exec, so no started program can keep the lock; a process forked without exec keeps it
    until it closes its descriptors (the nursery's children do).

    Raises:
        BusyError: If another run holds it; says which.
        MachineError: If the lock file can't be opened.
    """
    path = root / LOCK_NAME
    try:
        root.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise MachineError(f"can't open {path}: {error.strerror}", remedy="run as root: sudo …") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            found = holder(root)
            who = found.describe() if found else "another run that has only just begun"
            end = f", or end it with: sudo kill -INT {found.pid}" if found else ""
            raise BusyError(
                f"this machine is busy: {who}",
                remedy=f"runs would disturb each other's measurements; wait until it has ended{end}",
            ) from None
        me = ProcessIdentity.of(os.getpid())
        text = json.dumps(asdict(Holder(run_name, me.pid, me.start_time_ticks, time.time())))
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
        try:
            yield MachineLock(run_name, root)
        finally:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)

"""Control groups as directories: found, read, written, emptied and removed, whatever the version.

Nothing here knows of limits. The cleaner needs only this file: it must undo a run also when the run's own objects
have died with it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed.emulation.mounts import MOUNTS, read_mounts
from testbed.emulation.processes import pids_of_cgroup, send_pidfd, wait_pidfds
from testbed.errors import MachineError

_RMDIR_RETRY_S = 0.001


@dataclass(frozen=True, slots=True)
class CgroupMounts:
    """Where the kernel's hierarchies are mounted.

    Attributes:
        v1: Mount point of each version 1 controller (several may share one).
        v2: Mount point of the version 2 tree, if it is mounted.
    """

    v1: Mapping[str, Path]
    v2: Path | None

    @classmethod
    def read(cls, mounts: Path = MOUNTS) -> CgroupMounts:
        """Parse ``/proc/self/mounts``."""
        v1: dict[str, Path] = {}
        v2: Path | None = None
        for mount in read_mounts(mounts):
            if mount.kind == "cgroup2" and v2 is None:
                v2 = mount.target
            elif mount.kind == "cgroup":
                for option in mount.options:
                    v1.setdefault(option, mount.target)
        return cls(v1, v2)

    def hold(self, path: Path) -> bool:
        """Whether a path lies beneath one of the mount points (and isn't one)."""
        points = {*self.v1.values(), *([self.v2] if self.v2 else [])}
        return ".." not in path.parts and any(point in path.parents for point in points)


def run_directory_name(run_name: str) -> str:
    """Name of a run's directory in each hierarchy; all beneath it is the run's."""
    return f"testbed-{run_name}"


def read_value(path: Path) -> str:
    """The text of a control file.

    Raises:
        MachineError: If it can't be read.
    """
    try:
        return path.read_text().strip()
    except OSError as error:
        raise MachineError(
            f"can't read {path}: {error.strerror}", remedy="the kernel lacks this control, or the cgroup was removed"
        ) from error


def read_table(path: Path) -> dict[str, int]:
    """The numbers of a control file with one ``name value`` pair a line.

    Raises:
        MachineError: If it can't be read.
    """
    pairs = (line.split() for line in read_value(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].lstrip("-").isdigit()}


def write_value(path: Path, value: str, remedy: str) -> None:
    """Write a control file.

    Raises:
        MachineError: If the kernel refuses; with the given remedy.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise MachineError(f"can't set {path} to {value}: {error.strerror}", remedy=remedy) from error


def members(directories: Sequence[Path]) -> frozenset[int]:
    """Pids in any of the directories or beneath them; those that have gone count as empty."""
    return frozenset(
        pid for top in directories for directory in _tree(top) for pid in pids_of_cgroup(directory / "cgroup.procs")
    )


def kill_members(directories: Sequence[Path], deadline_s: float) -> int:
    """End every process in the directories and beneath, until none is left.

    They are frozen first where the kernel can, so that none forks away from its end.

    Args:
        directories: The same cgroup in each hierarchy; missing ones count as empty.
        deadline_s: Latest end, on CLOCK_MONOTONIC. It is tried once even if that has passed: on a machine that is
            starved of CPU time by these very processes, looking for them may have taken as long.

    Returns:
        How many processes were ended.

    Raises:
        MachineError: If some still lived at the deadline; names them.
    """
    ended: set[int] = set()
    while pids := members(directories):
        if ended and time.monotonic() > deadline_s:
            raise MachineError(
                f"processes {', '.join(map(str, sorted(pids)))} in {directories[0]} didn't end in time",
                remedy="they wait in the kernel (state D in ps); try `python -m testbed clean` again later",
            )
        if os.getpid() in pids:
            raise MachineError(f"this process is itself in {directories[0]}", remedy="run it from another shell")
        with contextlib.ExitStack() as open_files:
            _freeze(directories, frozen=True)
            try:
                pidfds: dict[int, int] = {}
                for pid in members(directories):
                    with contextlib.suppress(ProcessLookupError):
                        pidfds[pid] = os.pidfd_open(pid)
                        open_files.callback(os.close, pidfds[pid])
                # A number that is still listed after its pidfd was opened is that pidfd's process.
                for pid in members(directories) & pidfds.keys():
                    send_pidfd(pidfds[pid], signal.SIGKILL)
                    ended.add(pid)
            finally:
                _freeze(directories, frozen=False)
            wait_pidfds(pidfds.values(), deadline_s)
    return len(ended)


def remove_tree(directory: Path, deadline_s: float) -> bool:
    """Remove a cgroup without processes, and those beneath it.

    Returns:
        False if it had gone already.

    Raises:
        MachineError: If it is still busy at the deadline.
    """
    removed = False
    for path in reversed(_tree(directory)):
        while True:
            try:
                path.rmdir()
            except FileNotFoundError:
                break
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > deadline_s:
                    raise MachineError(
                        f"can't remove the cgroup {path}: {error.strerror}",
                        remedy=f"see what is in it: cat {path / 'cgroup.procs'}",
                    ) from error
                # A process counts as gone a moment before the last trace of it leaves its cgroup, and version 1 has
                # no file that tells when: rmdir itself is the question, asked again.
                time.sleep(_RMDIR_RETRY_S)
            else:
                removed = True
                break
    return removed


def _tree(directory: Path) -> list[Path]:
    """The directory and all beneath it, parents first; empty if it has gone."""
    found = [directory] if directory.is_dir() else []
    for path in found:
        with contextlib.suppress(FileNotFoundError), os.scandir(path) as children:
            found.extend(Path(child.path) for child in children if child.is_dir(follow_symlinks=False))
    return found


def _freeze(directories: Sequence[Path], *, frozen: bool) -> None:
    for directory in directories:
        for name, value in (("freezer.state", "FROZEN" if frozen else "THAWED"), ("cgroup.freeze", str(int(frozen)))):
            try:
                descriptor = os.open(directory / name, os.O_WRONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # the other version's file, or another has just removed the cgroup
            try:
                os.write(descriptor, value.encode())
            finally:
                os.close(descriptor)

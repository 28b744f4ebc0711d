"""Undoes runs: removes exactly what their journals name, and only what can be proved to be theirs.

Used at the end of each run and by ``python -m testbed clean``. What proves that a thing is the run's:

========== ==================================================================================================
process    pid and start time, in the boot of the journal; never this process or one it descends from
cgroup     beneath a mounted hierarchy, with ``testbed-<run>`` in its path
netns      the run's name in its name
interface  in the machine's own namespace, under the recorded name: the recorded index, in the boot of the journal
           (the kernel counts on and gives none twice of itself), or the alias ``testbed-<run>``
mount      a mount point, with ``<run>`` or ``testbed-<run>`` as a part of its path
loop       a loop device of a file, whose path has the same
directory  the same, no symbolic link, and nothing mounted beneath
========== ==================================================================================================

Whatever else bears a recorded name is spared, and the report says so. What couldn't be removed is reported too, and
the run's directory stays then, so that the next attempt still knows of it. To clean twice does no harm.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from testbed.emulation import loop, syscalls
from testbed.emulation.cgroup_tree import CgroupMounts, kill_members, remove_tree, run_directory_name
from testbed.emulation.lock import machine_lock
from testbed.emulation.manifest import RUN_ROOT, Entry, RunManifest
from testbed.emulation.mounts import read_mounts
from testbed.emulation.processes import ProcessIdentity, kill_all
from testbed.errors import MachineError

DEADLINE_S = 30.0
_COMMAND_TIMEOUT_S = 10.0
NAMED_NAMESPACES = Path("/run/netns")
INTERFACES = Path("/sys/class/net")


@dataclass(frozen=True, slots=True)
class CleanReport:
    """What was done; each line is for people and begins with the kind of the thing.

    Attributes:
        runs: Names of the runs whose journals were read.
        removed: What is gone now and was there before.
        spared: What bears a recorded name but isn't the run's, as far as can be proved.
        failed: What is the run's and couldn't be removed, with the reason.
    """

    runs: tuple[str, ...]
    removed: tuple[str, ...]
    spared: tuple[str, ...]
    failed: tuple[str, ...]


def clean(root: Path = RUN_ROOT, *, timeout_s: float = DEADLINE_S) -> CleanReport:
    """Undo what dead runs left.

    Whoever holds the machine's lock knows that all other runs are dead; so it is held for the time of the cleaning.

    Args:
        root: Where the journals are.
        timeout_s: How long to wait for processes and cgroups in all.

    Raises:
        BusyError: If a live run holds the lock.
        MachineError: If the lock can't be taken.
    """
    if not root.is_dir():
        return CleanReport((), (), (), ())
    with machine_lock("clean", root):
        return _clean(RunManifest.load_all(root), timeout_s)


def clean_run(manifest: RunManifest, *, timeout_s: float = DEADLINE_S) -> CleanReport:
    """Undo what our own run has made, at its end; the caller holds the machine's lock.

    Raises:
        MachineError: If something resists; all else has been removed then, and ``clean`` can try again.
    """
    report = _clean((manifest,), timeout_s)
    if report.failed:
        raise MachineError(
            f"run {manifest.run_name} couldn't be undone in full:\n" + "\n".join(report.failed),
            remedy="try again: sudo python -m testbed clean",
        )
    return report


def _clean(manifests: Sequence[RunManifest], timeout_s: float) -> CleanReport:
    deadline_s = time.monotonic() + timeout_s
    cleanings = [_Cleaning(manifest, deadline_s) for manifest in manifests]
    for cleaning in cleanings:
        cleaning.run()
    return CleanReport(
        runs=tuple(manifest.run_name for manifest in manifests),
        removed=tuple(line for cleaning in cleanings for line in cleaning.removed),
        spared=tuple(line for cleaning in cleanings for line in cleaning.spared),
        failed=tuple(line for cleaning in cleanings for line in cleaning.failed),
    )


@dataclass
class _Cleaning:
    """The cleaning of one run."""

    manifest: RunManifest
    deadline_s: float
    removed: list[str] = field(default_factory=list)
    spared: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Remove everything, in the order in which nothing pins what comes after it."""
        self._processes()
        self._cgroups()
        for kind, remove in self._single_things().items():
            # The youngest first: a mount may lie on a mount, a directory in a directory.
            for entry in reversed(self.manifest.of_kind(kind)):
                with self._reporting(kind, entry):
                    remove(entry)
        known = {"run", "process", "cgroup", *self._single_things()}
        for entry in self.manifest.entries():
            if entry.kind not in known:
                self.failed.append(f"{entry.kind}: this version doesn't know how to remove it ({dict(entry.facts)})")
        if not self.failed and self.manifest.directory.is_dir():
            with self._reporting("directory", self.manifest.directory):
                self._remove_directory(self.manifest.directory)

    def _single_things(self) -> dict[str, Callable[[Entry], None]]:
        return {
            "interface": self._interface,
            "netns": self._netns,
            "mount": self._mount,
            "loop": self._loop,
            "directory": self._directory,
        }

    @contextlib.contextmanager
    def _reporting(self, kind: str, thing: Entry | Path) -> Iterator[None]:
        """Turn a failure into a line of the report: one thing that resists must not keep the others."""
        name = dict(thing.facts) if isinstance(thing, Entry) else thing
        try:
            yield
        except KeyError as error:
            self.failed.append(f"{kind} {name}: the journal lacks {error}")
        except MachineError as error:
            self.failed.append(f"{kind} {name}: {error.message}")
        except OSError as error:
            self.failed.append(f"{kind} {name}: {error.strerror or error}")

    def _processes(self) -> None:
        if not self.manifest.of_this_boot:
            return  # a reboot has ended them, and their numbers are others' now
        roles: dict[ProcessIdentity, str] = {}
        for entry in self.manifest.of_kind("process"):
            with self._reporting("process", entry):
                identity = ProcessIdentity(int(str(entry.facts["pid"])), int(str(entry.facts["start_time_ticks"])))
                roles[identity] = str(entry.facts.get("role", ""))
        for pid in _ancestors():
            for identity in [identity for identity in roles if identity.pid == pid and identity.alive]:
                del roles[identity]
                self.spared.append(f"process {pid}: this is the one that cleans, or an ancestor of it")
        with self._reporting("process", self.manifest.path):
            for identity, ended in kill_all(roles, self.deadline_s).items():
                line = f"process {identity.pid} ({roles[identity]})"
                if ended:
                    self.removed.append(line)
                else:
                    self.failed.append(f"{line}: didn't end in time")

    def _cgroups(self) -> None:
        mounts = CgroupMounts.read()
        name = run_directory_name(self.manifest.run_name)
        directories: list[Path] = []
        for entry in self.manifest.of_kind("cgroup"):
            with self._reporting("cgroup", entry):
                path = Path(str(entry.facts["path"]))
                if not path.is_dir():
                    continue
                if name in path.parts and mounts.hold(path):
                    directories.append(path)
                else:
                    self.spared.append(f"cgroup {path}: no cgroup of run {self.manifest.run_name}")
        if not directories:
            return
        with self._reporting("cgroup", directories[0]):
            ended = kill_members(directories, self.deadline_s)
            if ended:
                self.removed.append(f"process: {ended} more in the cgroups of the run")
        for path in directories:
            with self._reporting("cgroup", path):
                if remove_tree(path, self.deadline_s):
                    self.removed.append(f"cgroup {path}")

    def _interface(self, entry: Entry) -> None:
        name = str(entry.facts["name"])
        here = INTERFACES / name
        if "/" in name or not here.exists():
            return
        index = int((here / "ifindex").read_text())
        alias = (here / "ifalias").read_text().strip()
        same_index = self.manifest.of_this_boot and index == entry.facts.get("ifindex")
        if not same_index and alias != run_directory_name(self.manifest.run_name):
            self.spared.append(f"interface {name}: neither its index nor its alias is the run's")
            return
        _command(["ip", "link", "delete", "dev", name])
        self.removed.append(f"interface {name}")

    def _netns(self, entry: Entry) -> None:
        name = str(entry.facts["name"])
        path = NAMED_NAMESPACES / name
        if "/" in name or not path.exists():
            return
        if self.manifest.run_name not in name:
            self.spared.append(f"netns {name}: its name isn't the run's")
            return
        _command(["ip", "netns", "delete", name])
        self.removed.append(f"netns {name}")

    def _is_ours(self, kind: str, path: Path) -> bool:
        names = {self.manifest.run_name, run_directory_name(self.manifest.run_name)}
        if path.is_absolute() and ".." not in path.parts and names & set(path.parts):
            return True
        self.spared.append(f"{kind} {path}: no part of its path is the run's name")
        return False

    def _mount(self, entry: Entry) -> None:
        path = Path(str(entry.facts["path"]))
        if path not in {mount.target for mount in read_mounts()} or not self._is_ours("mount", path):
            return
        try:
            syscalls.unmount(str(path))
        except OSError:
            # Something outside the run still uses it; it vanishes with its last user.
            syscalls.unmount(str(path), syscalls.MNT_DETACH)
        self.removed.append(f"mount {path}")

    def _loop(self, entry: Entry) -> None:
        # A device goes with its mount; one that is still there was mounted elsewhere as well.
        image = Path(str(entry.facts["image"]))
        for device in loop.devices_of(image):
            if self._is_ours("loop", image):
                loop.detach(device)
                self.removed.append(f"loop {device} of {image}")

    def _directory(self, entry: Entry) -> None:
        path = Path(str(entry.facts["path"]))
        if os.path.lexists(path) and self._is_ours("directory", path):
            self._remove_directory(path)

    def _remove_directory(self, path: Path) -> None:
        for mount in read_mounts():
            if mount.target == path or path in mount.target.parents:
                raise MachineError(f"{mount.target} is still mounted there, and what is in it may be another's")
        if path.is_symlink() or not path.is_dir():
            self.spared.append(f"directory {path}: it is none")
            return
        shutil.rmtree(path)
        self.removed.append(f"directory {path}")


def _ancestors() -> list[int]:
    """This process, its parent, and so on."""
    found = [os.getpid()]
    while found[-1] > 1:
        stat = Path(f"/proc/{found[-1]}/stat").read_text()
        parent = int(stat.rpartition(")")[2].split()[1])
        if parent == 0:
            break  # the parent lives outside this pid namespace
        found.append(parent)
    return found


def _command(argv: list[str]) -> None:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, check=False)
    except FileNotFoundError as error:
        raise MachineError(f"{argv[0]} isn't installed") from error
    except subprocess.TimeoutExpired as error:
        raise MachineError(f"{' '.join(argv)} takes more than {_COMMAND_TIMEOUT_S} s") from error
    if done.returncode != 0:
        raise MachineError(f"{' '.join(argv)}: {done.stderr.strip()}")

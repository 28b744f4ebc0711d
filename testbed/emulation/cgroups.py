"""The cgroups of a run: ``<hierarchy>/testbed-<run>/<host>``, on version 1 and version 2 alike.

Mininet's own way (``cgexec`` and ``mnexec -g``) is broken on version 2 and leaves directories behind on version 1,
so they are written directly, and every limit is read back. Only the run's directory is journalled: all beneath it is
the run's by its name.
"""

from __future__ import annotations

import abc
import time
from pathlib import Path

from testbed.emulation import cgroup_v1, cgroup_v2
from testbed.emulation.cgroup import CPU_REMEDY, Cgroup, CgroupStats, CpuLimit
from testbed.emulation.cgroup_tree import CgroupMounts, remove_tree, run_directory_name, write_value
from testbed.emulation.manifest import RunManifest
from testbed.emulation.mounts import MOUNTS
from testbed.errors import MachineError

__all__ = ["Cgroup", "CgroupManager", "CgroupStats", "CpuLimit"]


class CgroupManager(abc.ABC):
    """Makes and removes the cgroups of runs.

    Attributes:
        version: 1 or 2.
        mounts: Where the hierarchies are.
    """

    version: int

    def __init__(self, mounts: CgroupMounts) -> None:
        self.mounts = mounts

    @classmethod
    def detect(cls, mounts: Path = MOUNTS) -> CgroupManager:
        """The manager for this machine's version.

        A machine may have both mounted; version 2 is taken only when it holds the CPU and memory controllers.

        Args:
            mounts: The table of mounts.

        Raises:
            MachineError: If neither version has the controllers that a run needs.
        """
        found = CgroupMounts.read(mounts)
        if found.v2 is not None:
            controllers = found.v2 / "cgroup.controllers"
            if controllers.exists() and set(controllers.read_text().split()) >= cgroup_v2.NEEDED:
                return _ManagerV2(found)
        missing = sorted(cgroup_v1.NEEDED - found.v1.keys())
        if missing:
            raise MachineError(
                f"no cgroup controller {', '.join(missing)}",
                remedy="mount the cgroup2 tree at /sys/fs/cgroup (systemd does), with the kernel's CONFIG_MEMCG and"
                " CONFIG_CFS_BANDWIDTH; in a container, give it the machine's cgroups",
            )
        return _ManagerV1(found)

    @abc.abstractmethod
    def create(self, manifest: RunManifest, host: str, cpu: CpuLimit | None, memory_bytes: int | None) -> Cgroup:
        """Make the cgroup of a host, with its limits read back.

        Args:
            manifest: Journal of the run.
            host: Name of the emulated host.
            cpu: Its share, or None for no limit.
            memory_bytes: Its memory, or None for no limit.

        Raises:
            MachineError: If it is there already, or a limit can't be applied.
        """

    @abc.abstractmethod
    def run_directories(self, run_name: str) -> tuple[Path, ...]:
        """The directory of a run in each hierarchy."""

    def remove_run(self, run_name: str, deadline_s: float | None = None) -> None:
        """Remove all cgroups of a run, which must be empty; to do it twice does no harm.

        Args:
            run_name: The run.
            deadline_s: Until when to wait for dying processes, on CLOCK_MONOTONIC; 5 s from now unless given.

        Raises:
            MachineError: If something is still in one.
        """
        until_s = time.monotonic() + 5 if deadline_s is None else deadline_s
        for directory in self.run_directories(run_name):
            remove_tree(directory, until_s)

    def _make_run_directories(self, manifest: RunManifest) -> None:
        for directory in self.run_directories(manifest.run_name):
            if not directory.is_dir():
                manifest.will_create("cgroup", path=str(directory))
                _make(directory)
                self._put_first(directory)

    @staticmethod
    def _put_first(directory: Path) -> None:
        """Give a run the greatest weight, where the directory has one.

        All hosts of a run would otherwise count as much as a single process beside it, and whatever else the machine
        does would starve them. What they may use is bounded by their quotas, not by their weight.
        """
        for name, greatest in (("cpu.shares", "262144"), ("cpu.weight", "10000")):
            weight = directory / name
            if weight.exists():
                write_value(weight, greatest, CPU_REMEDY)


def _make(directory: Path) -> None:
    try:
        directory.mkdir()
    except FileExistsError as error:
        raise MachineError(
            f"the cgroup {directory} is there already", remedy="remove what a run left: sudo python -m testbed clean"
        ) from error
    except OSError as error:
        raise MachineError(
            f"can't make the cgroup {directory}: {error.strerror}",
            remedy="run as root; in a container, the cgroup file system must be writable",
        ) from error


def _limit(cgroup: Cgroup, cpu: CpuLimit | None, memory_bytes: int | None) -> Cgroup:
    if cpu is not None:
        cgroup.set_cpu(cpu)
    if memory_bytes is not None:
        cgroup.set_memory(memory_bytes)
    return cgroup


class _ManagerV1(CgroupManager):
    version = 1

    def run_directories(self, run_name: str) -> tuple[Path, ...]:
        points = (self.mounts.v1[name] for name in cgroup_v1.CONTROLLERS if name in self.mounts.v1)
        return tuple(point / run_directory_name(run_name) for point in dict.fromkeys(points))

    def create(self, manifest: RunManifest, host: str, cpu: CpuLimit | None, memory_bytes: int | None) -> Cgroup:
        self._make_run_directories(manifest)
        run = run_directory_name(manifest.run_name)
        by_controller = {
            name: self.mounts.v1[name] / run / host for name in cgroup_v1.CONTROLLERS if name in self.mounts.v1
        }
        for directory in dict.fromkeys(by_controller.values()):
            _make(directory)
        return _limit(cgroup_v1.CgroupV1(host, by_controller), cpu, memory_bytes)


class _ManagerV2(CgroupManager):
    version = 2

    @property
    def _root(self) -> Path:
        if self.mounts.v2 is None:
            raise MachineError("the cgroup2 tree isn't mounted", remedy="mount -t cgroup2 none /sys/fs/cgroup")
        return self.mounts.v2

    def run_directories(self, run_name: str) -> tuple[Path, ...]:
        return (self._root / run_directory_name(run_name),)

    def create(self, manifest: RunManifest, host: str, cpu: CpuLimit | None, memory_bytes: int | None) -> Cgroup:
        (run,) = self.run_directories(manifest.run_name)
        if not run.is_dir():
            cgroup_v2.enable_controllers(self._root, cgroup_v2.CONTROLLERS)
            self._make_run_directories(manifest)
            cgroup_v2.enable_controllers(run, cgroup_v2.CONTROLLERS)
        _make(run / host)
        return _limit(cgroup_v2.CgroupV2(host, run / host), cpu, memory_bytes)

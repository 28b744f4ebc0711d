"""Control groups, version 2: one tree, processes in its leaves only."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from testbed.emulation.cgroup import (
    CPU_REMEDY,
    DISK_REMEDY,
    MEMORY_REMEDY,
    Cgroup,
    CgroupStats,
    CpuLimit,
    require_read_back,
    whole_pages,
)
from testbed.emulation.cgroup_tree import read_table, read_value, write_value
from testbed.errors import MachineError

CONTROLLERS = ("cpu", "memory", "pids", "io")
NEEDED = frozenset({"cpu", "memory"})


def enable_controllers(directory: Path, controllers: Iterable[str]) -> None:
    """Let a directory hand controllers on to its children; what it hands on already is left as it is.

    Only ever adds: to take a controller away would break whoever else relies on it.

    Raises:
        MachineError: If the directory doesn't have a needed one, or the kernel refuses.
    """
    there = set(read_value(directory / "cgroup.controllers").split())
    handed_on = set(read_value(directory / "cgroup.subtree_control").split())
    wanted = set(controllers)
    if missing := (wanted & NEEDED) - there:
        raise MachineError(
            f"{directory} has no cgroup controller {', '.join(sorted(missing))}",
            remedy="boot with cgroup_enable=memory, and don't mount these controllers as version 1 as well;"
            " in a container, run it with all controllers delegated (or --privileged --cgroupns=host)",
        )
    for name in sorted((wanted & there) - handed_on):
        write_value(
            directory / "cgroup.subtree_control",
            f"+{name}",
            "processes live in this cgroup itself (a container without a cgroup of its own below it?):"
            " move them to a child, or run on the machine itself",
        )


class CgroupV2(Cgroup):
    """A host's leaf in the tree of version 2."""

    def __init__(self, host: str, directory: Path) -> None:
        super().__init__(host, [directory])
        self._directory = directory

    def set_cpu(self, limit: CpuLimit | None) -> None:
        """See :meth:`Cgroup.set_cpu`."""
        path = self._directory / "cpu.max"
        if limit is None:
            write_value(path, "max", CPU_REMEDY)
            require_read_back(path, "max", read_value(path).split()[0])
            return
        wanted = f"{limit.quota_us} {limit.period_us}"
        write_value(path, wanted, CPU_REMEDY)
        require_read_back(path, wanted, read_value(path))

    def set_memory(self, memory_bytes: int | None) -> None:
        """See :meth:`Cgroup.set_memory`."""
        path, swap = self._directory / "memory.max", self._directory / "memory.swap.max"
        wanted = "max" if memory_bytes is None else str(whole_pages(memory_bytes))
        if swap.exists():
            swap_wanted = "max" if memory_bytes is None else "0"
            write_value(swap, swap_wanted, MEMORY_REMEDY)
            require_read_back(swap, swap_wanted, read_value(swap))
        write_value(path, wanted, MEMORY_REMEDY)
        require_read_back(path, wanted, read_value(path))

    def squeeze_memory(self, memory_bytes: int) -> Path | None:
        """See :meth:`Cgroup.squeeze_memory`; version 2 kills at once."""
        self.set_memory(memory_bytes)
        return None

    @property
    def limits_disks(self) -> bool:
        """See :meth:`Cgroup.limits_disks`."""
        return (self._directory / "io.max").exists()

    def set_disk_rate(self, device: str, rate_bytes_s: int | None) -> None:
        """See :meth:`Cgroup.set_disk_rate`."""
        path, rate = self._directory / "io.max", "max" if rate_bytes_s is None else str(rate_bytes_s)
        write_value(path, f"{device} rbps={rate} wbps={rate}", DISK_REMEDY)
        # A line a device, of which those without a limit have none: 7:3 rbps=1000 wbps=1000 riops=max wiops=max
        lines = [line.split() for line in read_value(path).splitlines()]
        found = {
            key: value for number, *pairs in lines if number == device for key, value in (p.split("=") for p in pairs)
        }
        for key in ("rbps", "wbps"):
            require_read_back(path, f"{key}={rate}", f"{key}={found.get(key, 'max')}")

    def stats(self) -> CgroupStats:
        """See :meth:`Cgroup.stats`."""
        cpu = read_table(self._directory / "cpu.stat")
        peak = self._directory / "memory.peak"
        return CgroupStats(
            cpu_usage_s=cpu["usage_usec"] / 1e6,
            nr_periods=cpu.get("nr_periods", 0),
            nr_throttled=cpu.get("nr_throttled", 0),
            throttled_s=cpu.get("throttled_usec", 0) / 1e6,
            memory_rss_bytes=read_table(self._directory / "memory.stat")["anon"],
            memory_peak_bytes=int(read_value(peak)) if peak.exists() else None,
            oom_kills=read_table(self._directory / "memory.events")["oom_kill"],
        )

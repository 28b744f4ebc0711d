"""Control groups, version 1: one hierarchy a controller, or several controllers in one."""

from __future__ import annotations

import errno
from collections.abc import Mapping
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

# In the order in which a process should join: the quota last.
CONTROLLERS = ("memory", "pids", "freezer", "blkio", "cpuacct", "cpu")
NEEDED = frozenset({"memory", "freezer", "cpuacct", "cpu"})
_SQUEEZES = 100
_DISK_RATES = ("blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device")
_UNLIMITED = 2**62  # the kernel prints the largest page-aligned number for "no limit"


class CgroupV1(Cgroup):
    """A host's directories in the hierarchies of version 1."""

    def __init__(self, host: str, by_controller: Mapping[str, Path]) -> None:
        ordered = [by_controller[name] for name in CONTROLLERS if name in by_controller]
        # With cpu and cpuacct in one hierarchy the directory is the same: keep its last place, the quota's.
        unique = list(reversed(dict.fromkeys(reversed(ordered))))
        super().__init__(host, unique)
        self._cpu = by_controller["cpu"]
        self._cpuacct = by_controller["cpuacct"]
        self._memory = by_controller["memory"]
        self._blkio = by_controller.get("blkio")

    def set_cpu(self, limit: CpuLimit | None) -> None:
        """See :meth:`Cgroup.set_cpu`."""
        quota, period = self._cpu / "cpu.cfs_quota_us", self._cpu / "cpu.cfs_period_us"
        if limit is None:
            write_value(quota, "-1", CPU_REMEDY)
            require_read_back(quota, "-1", read_value(quota))
            return
        # Lower the share first, whichever file does it: never an instant above both the old and the new one.
        writes = [(period, limit.period_us), (quota, limit.quota_us)]
        if limit.period_us < int(read_value(period)):
            writes.reverse()
        for path, value in writes:
            write_value(path, str(value), CPU_REMEDY)
        for path, value in writes:
            require_read_back(path, value, int(read_value(path)))

    def set_memory(self, memory_bytes: int | None) -> None:
        """See :meth:`Cgroup.set_memory`."""
        limit, with_swap = self._memory / "memory.limit_in_bytes", self._memory / "memory.memsw.limit_in_bytes"
        counts_swap = with_swap.exists()
        if counts_swap:
            # The sum with swap may never be below the limit itself, so it is out of the way while that one moves.
            write_value(with_swap, "-1", MEMORY_REMEDY)
        wanted = -1 if memory_bytes is None else whole_pages(memory_bytes)
        for path in (limit, with_swap) if counts_swap else (limit,):
            write_value(path, str(wanted), MEMORY_REMEDY)
            found = int(read_value(path))
            require_read_back(path, wanted, -1 if found > _UNLIMITED else found)
        if not counts_swap:
            write_value(self._memory / "memory.swappiness", "0", MEMORY_REMEDY)

    def squeeze_memory(self, memory_bytes: int) -> Path | None:
        """See :meth:`Cgroup.squeeze_memory`."""
        wanted = memory_bytes
        for _ in range(_SQUEEZES):
            try:
                self.set_memory(wanted)
            except MachineError as error:
                if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.EBUSY:
                    raise
                # What it uses may have grown since it was read: then once more.
                wanted = int(read_value(self._memory / "memory.usage_in_bytes"))
                continue
            return None if wanted == memory_bytes else self._memory / "cgroup.procs"
        raise MachineError(f"{self.host} uses more and more memory; its limit can't be lowered", remedy=MEMORY_REMEDY)

    @property
    def limits_disks(self) -> bool:
        """See :meth:`Cgroup.limits_disks`."""
        return self._blkio is not None and all((self._blkio / name).exists() for name in _DISK_RATES)

    def set_disk_rate(self, device: str, rate_bytes_s: int | None) -> None:
        """See :meth:`Cgroup.set_disk_rate`."""
        if self._blkio is None:
            raise MachineError(f"{self.host}: there is no blkio cgroup controller", remedy=DISK_REMEDY)
        for name in _DISK_RATES:
            write_value(self._blkio / name, f"{device} {rate_bytes_s or 0}", DISK_REMEDY)
            require_read_back(self._blkio / name, rate_bytes_s, read_table(self._blkio / name).get(device))

    def stats(self) -> CgroupStats:
        """See :meth:`Cgroup.stats`."""
        cpu = read_table(self._cpu / "cpu.stat")
        return CgroupStats(
            cpu_usage_s=int(read_value(self._cpuacct / "cpuacct.usage")) / 1e9,
            nr_periods=cpu["nr_periods"],
            nr_throttled=cpu["nr_throttled"],
            throttled_s=cpu["throttled_time"] / 1e9,
            memory_rss_bytes=read_table(self._memory / "memory.stat")["total_rss"],
            memory_peak_bytes=int(read_value(self._memory / "memory.max_usage_in_bytes")),
            oom_kills=read_table(self._memory / "memory.oom_control")["oom_kill"],
        )

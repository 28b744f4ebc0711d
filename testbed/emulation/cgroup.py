"""A control group of one emulated host: its limits, what it used, and the end of all in it."""

from __future__ import annotations

import abc
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed.emulation.cgroup_tree import kill_members, members, remove_tree
from testbed.errors import MachineError
from testbed.units import format_duration, format_size

MIN_QUOTA_US = 1000  # the kernel's min_cfs_quota_period; a smaller quota is refused with EINVAL
MAX_PERIOD_US = 1_000_000


@dataclass(frozen=True, slots=True)
class CpuLimit:
    """A share of one core, given out once a period.

    Attributes:
        share: CPU seconds a second, over 0; 1 is a whole core.
        period_s: How often the share is renewed, 1 ms to 1 s. Work shorter than a period is bimodal (all at once or
            a period late), so choose it near a stage's service time: 10 to 20 ms.

    Raises:
        MachineError: If the kernel can't account for it: the quota of a period must be at least 1 ms.
    """

    share: float
    period_s: float

    def __post_init__(self) -> None:
        if not MIN_QUOTA_US <= self.period_us <= MAX_PERIOD_US:
            raise MachineError(
                f"a CPU period of {format_duration(self.period_s)} is out of the kernel's range",
                remedy="set compute.period between 1ms and 1s",
            )
        if self.quota_us < MIN_QUOTA_US:
            needed_s = MIN_QUOTA_US / 1e6 / self.share if self.share > 0 else float("inf")
            raise MachineError(
                f"{self.share:.2%} of a core in periods of {format_duration(self.period_s)} is a quota of"
                f" {format_duration(self.quota_us / 1e6)}; the kernel's smallest is 1ms",
                remedy=f"set compute.period to at least {format_duration(needed_s)}"
                if needed_s <= 1
                else "give the host at least 0.1% of a core, with compute.period 1s",
            )

    @property
    def period_us(self) -> int:
        """The period as the kernel takes it."""
        return round(self.period_s * 1e6)

    @property
    def quota_us(self) -> int:
        """CPU time in a period as the kernel takes it."""
        return round(self.share * self.period_us)


@dataclass(frozen=True, slots=True)
class CgroupStats:
    """What a cgroup has used since it was made.

    Attributes:
        cpu_usage_s: CPU seconds.
        nr_periods: Periods in which something was runnable.
        nr_throttled: Periods whose quota ran out.
        throttled_s: Time its CPUs' run queues stood still for want of quota (two CPUs throttled at once count twice).
        memory_rss_bytes: Anonymous memory now: what a node really holds, without the page cache.
        memory_peak_bytes: Highest charge so far, page cache included; None where the kernel doesn't keep it.
        oom_kills: Processes the kernel has killed for being over the memory limit.
    """

    cpu_usage_s: float
    nr_periods: int
    nr_throttled: int
    throttled_s: float
    memory_rss_bytes: int
    memory_peak_bytes: int | None
    oom_kills: int


class Cgroup(abc.ABC):
    """The cgroup of one host, made by :class:`testbed.emulation.cgroups.CgroupManager`.

    Attributes:
        host: Name of the emulated host.
        directories: Its directory in each hierarchy, in the order in which a process should join: CPU last.
    """

    def __init__(self, host: str, directories: Sequence[Path]) -> None:
        self.host = host
        self.directories = tuple(directories)

    def join_paths(self) -> list[Path]:
        """The files to which a process writes ``0`` to join, in this order.

        The CPU quota comes last, so that a process isn't throttled while it gets ready.
        """
        return [directory / "cgroup.procs" for directory in self.directories]

    def processes(self) -> frozenset[int]:
        """Pids of all that is in it."""
        return members(self.directories)

    def kill_all(self, deadline_s: float) -> int:
        """End every process in it; how many there were.

        Args:
            deadline_s: Latest end, on CLOCK_MONOTONIC.

        Raises:
            MachineError: If some still lived at the deadline.
        """
        return kill_members(self.directories, deadline_s)

    def remove(self, deadline_s: float | None = None) -> None:
        """Remove it; it must be empty. To remove it twice does no harm.

        Args:
            deadline_s: Until when to wait for the last dying process, on CLOCK_MONOTONIC; 5 s from now unless given.

        Raises:
            MachineError: If something is still in it.
        """
        until_s = time.monotonic() + 5 if deadline_s is None else deadline_s
        for directory in self.directories:
            remove_tree(directory, until_s)

    @abc.abstractmethod
    def set_cpu(self, limit: CpuLimit | None) -> None:
        """Set the CPU share and read it back; None lifts it.

        Raises:
            MachineError: If the kernel refuses, or holds something else afterwards.
        """

    @abc.abstractmethod
    def set_memory(self, memory_bytes: int | None) -> None:
        """Set the memory limit, swap included where the kernel can, and read it back; None lifts it.

        The kernel rounds down to whole pages.

        Raises:
            MachineError: If the kernel refuses (the host uses more already), or holds something else afterwards.
        """

    @property
    @abc.abstractmethod
    def limits_disks(self) -> bool:
        """Whether the kernel can limit how fast the host reads and writes a disk."""

    @abc.abstractmethod
    def set_disk_rate(self, device: str, rate_bytes_s: int | None) -> None:
        """Limit how fast the host reads a device, and how fast it writes it, and read that back; None lifts it.

        Args:
            device: Its number, such as ``7:3``.
            rate_bytes_s: Bytes a second, over 0.

        Raises:
            MachineError: If the kernel can't, refuses, or holds something else afterwards.
        """

    @abc.abstractmethod
    def squeeze_memory(self, memory_bytes: int) -> Path | None:
        """Lower the memory limit, also below what the host holds: then the kernel kills.

        Returns:
            None if the limit is in force, as read back. Otherwise all that the host may use is what it uses now: this
            kernel (version 1) takes nothing away. The file is the one by which a process joins the host's memory, to
            use up what would be needed next (:mod:`runner.balloon`); then the limit can be set.

        Raises:
            MachineError: If the kernel refuses both, or holds something else afterwards.
        """

    @abc.abstractmethod
    def stats(self) -> CgroupStats:
        """What it has used so far.

        Raises:
            MachineError: If it has gone, or the kernel lacks an account.
        """


MEMORY_REMEDY = "give the host more memory: what it holds already doesn't fit in this limit"
CPU_REMEDY = "the kernel needs CONFIG_CFS_BANDWIDTH, and compute.period between 1ms and 1s"

DISK_REMEDY = (
    "the kernel needs CONFIG_BLK_DEV_THROTTLING, and the io (version 2) or blkio (version 1) cgroup controller"
)


def whole_pages(memory_bytes: int) -> int:
    """A memory limit as the kernel keeps it."""
    page = os.sysconf("SC_PAGE_SIZE")
    if memory_bytes < page:
        raise MachineError(f"a memory limit of {format_size(memory_bytes)} is below one page", remedy=MEMORY_REMEDY)
    return memory_bytes // page * page


def require_read_back(path: Path, wanted: object, found: object) -> None:
    """Compare a limit with what the kernel holds.

    Raises:
        MachineError: If they differ.
    """
    if wanted != found:
        raise MachineError(
            f"{path} was set to {wanted} but reads {found}",
            remedy="another program manages this cgroup; stop it for the time of the run",
        )

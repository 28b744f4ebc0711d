"""What the machine beneath the emulation is doing: CPU time used, stolen and waited for, as the kernel counts it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from runner.events import MachineSample
from testbed.errors import MachineError

PROC = Path("/proc")
_SOME_TOTAL = re.compile(r"^some .*\btotal=(\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """CPU seconds since boot, summed over all cores."""

    busy_s: float
    idle_s: float
    steal_s: float


def parse_cpu_times(stat: str, ticks_per_s: int) -> CpuTimes:
    """The first line of ``/proc/stat`` (proc(5)): waiting for a disk is idle, guests are within user and nice.

    Raises:
        ValueError: If the text has no such line.
    """
    words = stat.split("\n", 1)[0].split()
    if len(words) < 9 or words[0] != "cpu":
        raise ValueError(f"no CPU line: {words[:2]}")
    user, nice, system, idle, iowait, irq, softirq, steal = (int(word) / ticks_per_s for word in words[1:9])
    return CpuTimes(busy_s=user + nice + system + irq + softirq, idle_s=idle + iowait, steal_s=steal)


def parse_pressure(pressure: str) -> float | None:
    """Wall seconds since boot in which some task waited, of ``/proc/pressure/cpu``; None if the text does not say."""
    match = _SOME_TOTAL.search(pressure)
    return None if match is None else int(match[1]) / 1e6


def sample(t_s: float, proc: Path = PROC) -> MachineSample:
    """The machine now.

    Pressure is None where the kernel was built or booted without it.

    Raises:
        MachineError: If ``/proc/stat`` can't be read.
    """
    try:
        times = parse_cpu_times((proc / "stat").read_text(), os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError) as error:
        raise MachineError(f"{proc / 'stat'}: can't read the CPU's times: {error}", remedy="Mount /proc.") from error
    try:
        pressure_s = parse_pressure((proc / "pressure" / "cpu").read_text())
    except OSError:  # the file is missing, or there but refuses to be read, on kernels without psi=1
        pressure_s = None
    return MachineSample(
        t_s=t_s, busy_s=times.busy_s, idle_s=times.idle_s, steal_s=times.steal_s, pressure_s=pressure_s
    )

"""The metronome: has the kernel look at CPU quotas a thousand times a second.

The kernel charges a running process, and stops it when its quota is used up, when its clock ticks or when another
process takes the CPU. At 250 ticks a second a host that may run 1 ms runs for 4, and then pauses until its debt is
paid: with a share of 5 % for 80 ms, whatever the period of the quota. A process of real-time priority on each CPU
that does nothing but wake up makes the same host run for 1 ms in each period of 20 ms. Measured on a 2-core virtual
machine (Linux 6.18, 250 Hz), a busy loop with 1 ms in 20: bursts of 1.8 to 4.0 ms without it, of 0.6 to 1.0 ms with
it. It costs 2 % of each CPU (:data:`SHARE`).
"""

from __future__ import annotations

import os
import time
from typing import Any

from runner.promptness import act_promptly

PERIOD_S = 1e-3
SHARE = 0.02
"""Of each CPU."""


def cpus() -> list[int]:
    """The CPUs that emulated hosts may run on."""
    return sorted(os.sched_getaffinity(0))


def main(config: dict[str, Any], fds: list[int]) -> None:
    """Entry of a CPU's metronome; runs until it is killed.

    Args:
        config: ``cpu``, its number.
        fds: Unused.
    """
    os.sched_setaffinity(0, {config["cpu"]})
    act_promptly()
    while True:
        time.sleep(PERIOD_S)

"""The sentinel: how late does this machine run what is ready to run?

A process of its own, in the run's cgroups like every emulated host but without a quota, wakes up at absolute deadlines
and records how late it was. The kernel's own figures (pressure, run-queue delay) count a task that its quota holds back
as waiting, so on a healthy run they are high; a late sentinel means that the emulated hosts ran late too.
"""

from __future__ import annotations

import time
from typing import Any

from runner.events import SchedulingSample
from testbed.serving.events import Reporter, now_s
from testbed.serving.process import reporter

PERIOD_S = 0.01
REPORT_S = 1.0


def watch(report: Reporter, periods: int | None = None) -> None:
    """Report the lateness of each second's wake-ups, for so many seconds or until the process is killed."""
    due_s = now_s()
    while periods is None or periods > 0:
        began_s = due_s
        lateness_s: list[float] = []
        while due_s < began_s + REPORT_S:
            due_s += PERIOD_S
            gap_s = due_s - now_s()
            if gap_s > 0:
                time.sleep(gap_s)
            woke_s = now_s()
            lateness_s.append(max(0.0, woke_s - due_s))
            due_s = max(due_s, woke_s - PERIOD_S)  # a wake-up that was missed altogether counts once, as what it was
        report(
            SchedulingSample(
                t_s=now_s(), began_s=began_s, lateness_ms=tuple(round(late * 1e3, 3) for late in lateness_s)
            )
        )
        periods = None if periods is None else periods - 1


def main(config: dict[str, Any], fds: list[int]) -> None:
    """Entry of the sentinel's process; it has no configuration.

    Args:
        config: Empty.
        fds: The socket for events.
    """
    watch(reporter(fds))

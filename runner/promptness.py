"""Threads of the experimenter that must act at their times, however busy the emulated hosts are.

The hosts of a run come before other processes of the machine, so a runner of ordinary priority gets what they leave: at
the admitted load it would inject faults tenths of a second late. Such a thread works for a millisecond at a time.
"""

from __future__ import annotations

import os

PRIORITY = 3
"""Below the delay line and the probe, whose errors are errors of the links."""


def act_promptly() -> bool:
    """Let the calling thread, but no process that it starts, run before all ordinary ones.

    Returns:
        Whether the machine allows it; where it doesn't (some containers), the verdict tells how late faults were.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(PRIORITY))
    except OSError:
        return False
    return True

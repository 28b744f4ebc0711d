"""When did this machine run nothing, however urgent? A timer of the highest real-time priority on each CPU.

Where even that wakes up late, the kernel was busy where it can't be interrupted, or a hypervisor has stopped the CPU
(often all at once; its steal time need not show it). Nothing on that CPU is more punctual, whatever its priority, so
measurements of punctuality tell their figures with and without the samples that such a pause has hit.
"""

from __future__ import annotations

import bisect
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from testbed.emulation.timer import Timer, allow_no_timer_slack

PERIOD_S = 0.002
LEAST_PAUSE_S = 0.001
_PRIORITY = 60
_DEADLINE_S = 10.0

Interval = tuple[float, float]


def merged(intervals: Sequence[Interval]) -> list[Interval]:
    """The same instants in intervals that are in order and apart."""
    found: list[Interval] = []
    for begin, end in sorted(intervals):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, end))
    return found


class Pauses:
    """A context manager; afterwards :attr:`intervals` has the pauses, on the clock of ``time.monotonic()``.

    Attributes:
        intervals: When at least one CPU paused, in order.
        length_s: How long all this was watched.
    """

    def __init__(self) -> None:
        self.intervals: list[Interval] = []
        self.length_s = 0.0
        self._watchers: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        for cpu in sorted(os.sched_getaffinity(0)):
            self._watchers.append(
                subprocess.Popen(
                    [sys.executable, "-m", "benchmarks.machine_pauses", str(cpu)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
        for watcher in self._watchers:
            if watcher.stdout is not None:
                watcher.stdout.readline()
        self._began_s = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.length_s = time.monotonic() - self._began_s
        answers = [watcher.communicate(timeout=_DEADLINE_S)[0] for watcher in self._watchers]
        if kind is None:
            self.intervals = merged([(begin, end) for answer in answers for begin, end in json.loads(answer)])

    def hit(self, begin_s: float, end_s: float) -> bool:
        """Whether a CPU paused at some time between the two."""
        after = bisect.bisect_left(self.intervals, (end_s, end_s))
        return after > 0 and self.intervals[after - 1][1] > begin_s

    def __str__(self) -> str:
        paused_s = sum(end - begin for begin, end in self.intervals)
        longest_s = max((end - begin for begin, end in self.intervals), default=0.0)
        return (
            f"{len(self.intervals)} pauses of this machine in {self.length_s:.0f} s: {paused_s / self.length_s:.1%} of "
            f"the time, the longest {longest_s * 1e3:.0f} ms"
        )


def main() -> None:
    """Watch one CPU until standard input closes, then print the times at which the timer was late."""
    allow_no_timer_slack()
    os.sched_setaffinity(0, {int(sys.argv[1])})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    timer = Timer()
    late: list[Interval] = []
    print("watching", flush=True)
    due_s = time.monotonic()
    while True:
        due_s = max(due_s + PERIOD_S, time.monotonic())
        timer.arm(due_s)
        ready, _, _ = select.select([timer, sys.stdin], [], [])
        woke_s = time.monotonic()
        if sys.stdin in ready:
            break
        timer.acknowledge()
        if woke_s - due_s > LEAST_PAUSE_S:
            late.append((due_s - PERIOD_S, woke_s))  # it may have begun right after the last time it was awake
    print(json.dumps(late))


if __name__ == "__main__":
    main()

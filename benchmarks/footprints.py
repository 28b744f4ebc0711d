"""What processes take, watched from outside, and whether that grows.

Memory, threads and descriptors of a server depend on what it is at: one that holds a stage has two connections more,
and weights. So only calm moments are compared, at which the process is at the same thing, and of each calm moment the
least of some samples: what comes and goes is in one of them, what leaks is in all.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import statistics
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed.emulation.processes import ProcessIdentity

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process takes."""

    memory_bytes: int
    threads: int
    descriptors: int

    @classmethod
    def of(cls, pid: int) -> Footprint:
        """Read from /proc: resident anonymous memory, threads, open descriptors.

        Raises:
            OSError: If there is no such process any more.
            KeyError: If it has just ended, and nobody has taken note yet.
        """
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        memory_bytes = int(status["RssAnon"].split()[0]) << 10
        return cls(memory_bytes, int(status["Threads"]), len(list(Path(f"/proc/{pid}/fd").iterdir())))

    def least(self, other: Footprint) -> Footprint:
        """The smaller of each figure."""
        return Footprint(
            min(self.memory_bytes, other.memory_bytes),
            min(self.threads, other.threads),
            min(self.descriptors, other.descriptors),
        )


@dataclass(frozen=True, slots=True)
class Life:
    """One process of a host, from its start to its end."""

    host: str
    process: ProcessIdentity


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process took at an instant, on the monotonic clock."""

    t_s: float
    life: Life
    footprint: Footprint


@contextlib.contextmanager
def watched(processes: Callable[[], Mapping[str, ProcessIdentity]], period_s: float = 1.0) -> Iterator[list[Sample]]:
    """Sample the footprints of processes while the block runs, on a thread of its own.

    Args:
        processes: The process of each host now.
        period_s: Between two samples.
    """
    samples: list[Sample] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(period_s):
            for host, process in processes().items():
                # One that has ended since, or is a zombie, takes nothing.
                with contextlib.suppress(OSError, KeyError):
                    footprint = Footprint.of(process.pid)
                    if process.alive:
                        samples.append(Sample(time.monotonic(), Life(host, process), footprint))

    thread = threading.Thread(target=watch, name="footprints")
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


@dataclass(frozen=True, slots=True)
class Calm:
    """A calm moment: from when to when, and what each host is at; hosts that aren't told are at nothing comparable."""

    begin_s: float
    end_s: float
    tasks: Mapping[str, Hashable]


Series = list[tuple[float, Footprint]]
"""Of a life while at one task: when, and the least footprint of each calm moment."""


def series(samples: Sequence[Sample], calms: Sequence[Calm]) -> dict[tuple[Life, Hashable], Series]:
    """The footprints at calm moments, by process and by what it was at, in the order of time."""
    found: dict[tuple[Life, Hashable], Series] = {}
    for calm in calms:
        least: dict[Life, Footprint] = {}
        for sample in samples:
            if calm.begin_s <= sample.t_s <= calm.end_s and sample.life.host in calm.tasks:
                least[sample.life] = sample.footprint.least(least.get(sample.life, sample.footprint))
        for life, footprint in least.items():
            found.setdefault((life, calm.tasks[life.host]), []).append((calm.end_s, footprint))
    return found


def theil_sen(points: Sequence[tuple[float, float]]) -> float:
    """The median of the slopes between all pairs of points (Theil 1950, Sen 1968): a fit that ignores steps and spikes.

    Raises:
        statistics.StatisticsError: If there are fewer than two points.
    """
    return statistics.median(
        (y - x) / (after - before) for (before, x), (after, y) in itertools.combinations(points, 2)
    )


def write_samples(path: Path, samples: Sequence[Sample]) -> None:
    """All samples as CSV, for people who look for a leak."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("t_s", "host", "pid", "memory_mib", "threads", "descriptors"))
        for sample in samples:
            taken = sample.footprint
            what = (taken.memory_bytes / MIB, taken.threads, taken.descriptors)
            writer.writerow((sample.t_s, sample.life.host, sample.life.process.pid, *what))

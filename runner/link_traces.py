"""Bandwidth traces of links: compiled before the run, played against absolute deadlines, recorded step by step.

A step takes two messages to the kernel, so steps are made at their times; how late each was is in the history and in
the verdict. A step whose time has passed when the next one is due is left out, not made late.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from runner.events import LinkRateChanged
from runner.promptness import act_promptly
from testbed.errors import TestbedError
from testbed.serving.events import Reporter
from testbed.spec.experiment import Experiment
from testbed.spec.links import LinkSettings

Clock = Callable[[], float]
Wait = Callable[[float], bool]
"""Waits for so many seconds; returns True as soon as the player is to stop."""


class Links(Protocol):
    """What a trace acts on; :class:`testbed.emulation.cluster.Cluster` is one."""

    def set_link(self, link: str, *, rate_bps: int | None, source: str | None) -> None:
        """Change the rate of one direction in place, and read it back."""

    def restore_link(self, link: str) -> None:
        """Bring both directions back to what the spec declares."""


@dataclass(frozen=True, slots=True, order=True)
class TraceStep:
    """From ``due_s`` on (since the start of the workload) a direction has this rate."""

    due_s: float
    link: str
    source: str
    rate_bps: int


def compile_traces(experiment: Experiment) -> tuple[TraceStep, ...]:
    """All steps of all traces within the workload, in order.

    Raises:
        TraceError: If a recording has been changed since the experiment was loaded, and is none now.
    """
    return tuple(
        heapq.merge(
            *(
                _steps_of_direction(experiment.workload.duration_s, link.name, source, way)
                for link in experiment.links
                for source in link.between
                if (way := link.way(source)).trace is not None
            )
        )
    )


def _steps_of_direction(duration_s: float, link: str, source: str, way: LinkSettings) -> list[TraceStep]:
    if way.trace is None or way.rate_bps is None:
        return []
    changes = way.trace.read().changes(duration_s, loop=way.trace.loop)
    return [
        TraceStep(change.at_s, link, source, way.rate_bps if change.rate_bps is None else change.rate_bps)
        for change in changes
    ]


def restore_traced(experiment: Experiment, links: Links) -> None:
    """Give all links that follow a trace their declared rate again."""
    for link in experiment.links:
        if any(link.way(source).trace is not None for source in link.between):
            links.restore_link(link.name)


class TracePlayer:
    """Makes the steps of a run.

    Args:
        steps: In order.
        links: What they act on.
        report: The history.
        clock: The shared monotonic clock.
        fail: Told, with a sentence, when a step can't be made.
    """

    def __init__(
        self,
        steps: Sequence[TraceStep],
        links: Links,
        report: Reporter,
        clock: Clock,
        fail: Callable[[str], None],
    ) -> None:
        self._steps = tuple(steps)
        self._links = links
        self._report = report
        self._clock = clock
        self._fail = fail
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, zero_s: float) -> None:
        """Play on a thread of its own, if there is anything to play."""
        if self._steps:
            self._thread = threading.Thread(target=self._play_promptly, args=(zero_s,), name="link traces")
            self._thread.start()

    def _play_promptly(self, zero_s: float) -> None:
        act_promptly()
        self.play(zero_s, self._stop.wait)

    def finish(self) -> None:
        """Stop playing; the links keep their last rates until they are restored. Twice is fine."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def play(self, zero_s: float, wait: Wait) -> None:
        """Make all steps on the calling thread; ends early when ``wait`` says so."""
        next_due = self._next_of_its_direction()
        for step, next_s in zip(self._steps, next_due, strict=True):
            while (gap_s := zero_s + step.due_s - self._clock()) > 0:
                if wait(gap_s):
                    return
            if self._stop.is_set():
                return
            if next_s is not None and self._clock() >= zero_s + next_s:
                continue
            try:
                self._links.set_link(step.link, rate_bps=step.rate_bps, source=step.source)
            except TestbedError as error:
                self._fail(f"the trace of {step.link} can't go on: {error}")
                return
            self._report(
                LinkRateChanged(
                    t_s=self._clock(),
                    link=step.link,
                    source=step.source,
                    rate_bps=step.rate_bps,
                    due_s=zero_s + step.due_s,
                )
            )

    def _next_of_its_direction(self) -> list[float | None]:
        """For each step, when the following one of the same direction is due."""
        found: list[float | None] = [None] * len(self._steps)
        later: dict[tuple[str, str], float] = {}
        for index in range(len(self._steps) - 1, -1, -1):
            step = self._steps[index]
            found[index] = later.get((step.link, step.source))
            later[step.link, step.source] = step.due_s
        return found

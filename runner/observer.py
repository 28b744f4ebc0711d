"""Hears the events of all processes of a run and lets the runner wait for one of them."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from runner.events import DOWN_STATES, HostStateChanged, event_from_json
from runner.history import History
from testbed.errors import ExperimentError
from testbed.serving.events import Event, Note, PlanAdopted, RequestCompleted, StageExecuted, now_s

MAX_EVENT_BYTES = 1 << 20
BUFFER_BYTES = 4 << 20
SO_SNDBUFFORCE = 32
"""asm-generic/socket.h; like SO_SNDBUF, above the machine's limit."""


class Observer:
    """Reads the events' socket into the history on a thread of its own.

    Attributes:
        writing_end: The socket that every process of the system is given.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._reading_end, self.writing_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # A burst of events must not hold up the system under test; the default holds some hundred.
        with contextlib.suppress(PermissionError):
            self.writing_end.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, BUFFER_BYTES)
        self._thread = threading.Thread(target=self._read, name="observer", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop once everything that was sent is in the history; the processes must have ended before."""
        self.writing_end.close()
        self._thread.join(timeout_s)
        self._reading_end.close()

    def _read(self) -> None:
        while data := self._reading_end.recv(MAX_EVENT_BYTES):
            try:
                self._history.append(event_from_json(data))
            except ValueError as error:
                self._history.append(Note(t_s=now_s(), source="observer", text=f"not an event: {error}"))


class LatestPlan:
    """Knows the plan that the dispatcher adopted last."""

    def __init__(self, history: History) -> None:
        self._plan: PlanAdopted | None = None
        history.listen(self._listen)
        for event in history.events:
            self._listen(event)

    def _listen(self, event: Event) -> None:
        if isinstance(event, PlanAdopted) and (self._plan is None or event.epoch >= self._plan.epoch):
            self._plan = event

    def __call__(self) -> PlanAdopted | None:
        """That plan; None before the first."""
        return self._plan


def untold_stages(events: Iterable[Event]) -> set[tuple[int, int, int]]:
    """(request, epoch, stage) of what ran for an answered request, and no node has told of yet.

    Hosts that have ended won't tell any more.
    """
    events = tuple(events)
    ended = {event.host for event in events if isinstance(event, HostStateChanged) and event.state in DOWN_STATES}
    told = {(event.id, event.epoch, event.stage) for event in events if isinstance(event, StageExecuted)}
    ran = {
        (event.id, event.epoch, stage)
        for event in events
        if isinstance(event, RequestCompleted)
        for stage, host in enumerate(event.path)
        if host not in ended
    }
    return ran - told


class Watch:
    """Waits until events have satisfied a condition, or something has made that impossible."""

    def __init__(self, history: History) -> None:
        self._changed = threading.Condition()
        self._events = list(history.events)
        self._failure: str | None = None
        history.listen(self._listen)

    def _listen(self, event: Event) -> None:
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    def fail(self, reason: str) -> None:
        """Make every wait, now and later, raise."""
        with self._changed:
            self._failure = self._failure or reason
            self._changed.notify_all()

    def settle(self, timeout_s: float) -> None:
        """Wait until the nodes have told of all that they did for answered requests; or for so long, for they may not.

        A node tells of a stage after it has sent its output, so that an answer may be there before its story.
        """
        with self._changed:
            untold = untold_stages(self._events)

        def is_untold(event: Event) -> bool:
            return isinstance(event, StageExecuted) and (event.id, event.epoch, event.stage) in untold

        with contextlib.suppress(ExperimentError):
            self.wait(is_untold, len(untold), timeout_s, "the end of the nodes' story")

    def wait(self, satisfied: Callable[[Event], bool], count: int, timeout_s: float, what: str) -> list[Event]:
        """Wait for ``count`` events that satisfy; those of the past count too.

        Raises:
            ExperimentError: If they don't come in time, or the run has failed meanwhile.
        """
        deadline_s = time.monotonic() + timeout_s
        seen = 0
        found: list[Event] = []
        with self._changed:
            while True:
                found += [event for event in self._events[seen:] if satisfied(event)]
                seen = len(self._events)
                if len(found) >= count:
                    return found
                if self._failure is not None:
                    raise ExperimentError(f"while waiting for {what}: {self._failure}")
                if not self._changed.wait(deadline_s - time.monotonic()) and seen == len(self._events):
                    raise ExperimentError(f"{what} didn't happen within {timeout_s:.0f} s")

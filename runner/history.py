"""The history of a run: what the system under test tells of itself and what the experimenter did and saw, in one clock.

A :class:`History` only grows. Each event is in ``events.jsonl`` before :meth:`History.append` returns, so a runner that
dies loses nothing it was told, and every table, figure and verdict is a pure function of the events.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from runner.events import event_from_json
from testbed.errors import MachineError, UsageError
from testbed.serving.events import Event, Note, to_json

Listener = Callable[[Event], None]
"""Told of each event, in order, by the thread that appends it: must return at once."""


def read_events(path: Path) -> tuple[Event, ...]:
    """All events of a file that a :class:`History` wrote, in its order.

    A last line without its end is what a dying runner leaves; it is skipped.

    Raises:
        UsageError: If the file can't be read, or a whole line is no event.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UsageError(
            f"{path}: can't read the history: {error.strerror}", remedy="Name the folder of a run."
        ) from error
    events = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            events.append(event_from_json(line))
        except ValueError as error:
            raise UsageError(f"{path}:{number}: {error}", remedy="Name the folder of a run of this version.") from error
    return tuple(events)


class History:
    """Append-only, safe to use from any thread, written through to a file.

    Appending never raises for a full disk, because the caller may be any thread: the first failure is kept, the events
    stay in memory, and :meth:`raise_if_failed` (the runner calls it as it goes) tells of it.

    Args:
        path: The file to append to, made if missing; None keeps the history in memory alone.
        events: What to start with; not written again.
    """

    def __init__(self, path: Path | None = None, events: Iterable[Event] = ()) -> None:
        self._events: list[Event] = list(events)
        self._lock = threading.RLock()
        self._listeners: list[Listener] = []
        self._failure: OSError | None = None
        self._path = path
        self._fd: int | None = None
        if path is not None:
            try:
                self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise _unwritable(path, error) from error

    @classmethod
    def load(cls, path: Path) -> History:
        """The history of a finished (or dead) run, in memory alone.

        Raises:
            UsageError: As :func:`read_events`.
        """
        return cls(events=read_events(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        with self._lock:
            return len(self._events)

    @property
    def events(self) -> tuple[Event, ...]:
        """All events so far, in the order in which they were told (``t_s`` may be slightly out of order)."""
        with self._lock:
            return tuple(self._events)

    def append(self, event: Event) -> None:
        """Keep the event, write it, then tell the listeners; a :class:`~testbed.serving.events.Reporter`.

        A listener that raises is told of nothing more, and a note in the history says why.
        """
        with self._lock:
            self._events.append(event)
            self._write(event)
            for listener in tuple(self._listeners):
                try:
                    listener(event)
                except Exception as error:  # the run must survive its display
                    self._listeners.remove(listener)
                    self.append(Note(t_s=event.t_s, source="history", text=f"a listener failed: {error!r}"))

    __call__ = append

    def listen(self, listener: Listener) -> None:
        """Tell the listener of all events from now on."""
        with self._lock:
            self._listeners.append(listener)

    def raise_if_failed(self) -> None:
        """Say so if an event could not be written.

        Raises:
            MachineError: With the file and the reason.
        """
        with self._lock:
            if self._failure is not None and self._path is not None:
                raise _unwritable(self._path, self._failure) from self._failure

    def close(self) -> None:
        """Close the file; the events stay readable."""
        with self._lock:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None

    def _write(self, event: Event) -> None:
        if self._fd is None or self._failure is not None:
            return
        data = memoryview((to_json(event) + "\n").encode())
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            self._failure = error


def _unwritable(path: Path, error: OSError) -> MachineError:
    return MachineError(
        f"{path}: can't write the history: {error.strerror}",
        remedy="Free some space, or choose another folder with --results.",
    )

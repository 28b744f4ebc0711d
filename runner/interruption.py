"""Ctrl-C and its kin, taken only where a run can bear them.

SIGINT, SIGTERM and SIGHUP all ask for the same: end the run, and leave nothing behind. Such a signal may arrive at any
instant, also while the run is undone or its results are written; an exception there would leave the rest undone. So it
is an exception only where that has been allowed, and at most once: whoever presses Ctrl-C twice gets the same
clean-up. Every wait of that has a deadline, so it ends.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruptions:
    """Takes over the signals while it is entered; only in the main thread, which is where Python runs handlers."""

    def __init__(self) -> None:
        self._before: dict[signal.Signals, Any] = {}
        self._allowed = False
        self._arrived: signal.Signals | None = None
        self._raised = False

    def __enter__(self) -> Self:
        for number in SIGNALS:
            # A signal that is ignored (nohup) stays so.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    @contextlib.contextmanager
    def allowed(self) -> Iterator[None]:
        """A block that the first signal ends by KeyboardInterrupt; one that has come before does so at once.

        Raises:
            KeyboardInterrupt: With the signal in words.
        """
        self._allowed = True
        try:
            self._raise_once()
            yield
        finally:
            self._allowed = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._arrived = self._arrived or signal.Signals(number)
        if self._allowed:
            self._raise_once()

    def _raise_once(self) -> None:
        if self._arrived is not None and not self._raised:
            self._raised = True
            raise KeyboardInterrupt("by Ctrl-C" if self._arrived is signal.SIGINT else f"by {self._arrived.name}")

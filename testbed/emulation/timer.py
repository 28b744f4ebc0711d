"""A timer to wait for beside sockets, exact to the microsecond: Python 3.11 has no ``timerfd``."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import time

_PR_SET_TIMERSLACK = 29
_TFD_TIMER_ABSTIME = 1
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def allow_no_timer_slack() -> None:
    """Let the kernel wake the calling thread at its time, not up to 50 µs later together with others."""
    _check(_libc.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0), "prctl(PR_SET_TIMERSLACK)")


class Timer:
    """A descriptor that becomes readable at an instant of ``time.monotonic()``."""

    def __init__(self) -> None:
        flags = os.O_NONBLOCK | os.O_CLOEXEC
        self._descriptor = _check(_libc.timerfd_create(time.CLOCK_MONOTONIC, flags), "timerfd_create")

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def arm(self, at_s: float) -> None:
        """Become readable at an instant, or at once if it has passed; 0 for never."""
        seconds, nanoseconds = divmod(round(at_s * 1e9), 10**9)
        setting = struct.pack("=4q", 0, 0, seconds, nanoseconds)
        _check(_libc.timerfd_settime(self._descriptor, _TFD_TIMER_ABSTIME, setting, None), "timerfd_settime")

    def acknowledge(self) -> None:
        """Be unreadable until armed again."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._descriptor, 8)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)

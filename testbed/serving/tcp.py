"""What the kernel knows of a connection (struct tcp_info, linux/tcp.h), where the program itself can't see it."""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import termios

_HEAD = struct.Struct("=8B24I")
_TIME_OUTS = 2
_TIME_OUT_US = 8
_LAST_DATA_SENT_MS = 8 + 9
_LAST_DATA_RECEIVED_MS = 8 + 11

CUT_OFF_TIME_OUTS = 3
"""In a row, at least. A receiver that is merely slow acknowledges, and of a path that loses every fifth packet this
many are lost once in hundreds."""


def _info(connection: socket.socket) -> tuple[int, ...] | None:
    try:
        data = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _HEAD.size)
    except OSError:
        return None
    return _HEAD.unpack(data) if len(data) == _HEAD.size else None


def is_cut_off(connection: socket.socket, after_s: float) -> bool:
    """Whether TCP has sent the same again and again, unacknowledged, for so long that the path must be broken.

    It sends again when a time-out is over, and doubles that each time. On a path with a long or unsteady round trip the
    first may be a second already, so time decides, not their number: what the time-outs so far sum to, and what has
    passed since the last.

    Args:
        connection: A TCP socket; one that has gone isn't cut off.
        after_s: So long.
    """
    info = _info(connection)
    if info is None or info[_TIME_OUTS] < CUT_OFF_TIME_OUTS:
        return False
    over_s = info[_TIME_OUT_US] * (1 - 2.0 ** -info[_TIME_OUTS]) / 1e6
    return over_s + info[_LAST_DATA_SENT_MS] / 1e3 >= after_s


def silent_s(connection: socket.socket) -> float | None:
    """How long ago the last bytes came in; None if none ever did or the connection has gone."""
    info = _info(connection)
    return None if info is None else info[_LAST_DATA_RECEIVED_MS] / 1000


def unread_bytes(connection: socket.socket) -> int:
    """How much has come in that nobody has read; 0 if the connection has gone."""
    try:
        answer = fcntl.ioctl(connection.fileno(), termios.FIONREAD, bytes(4))
    except (OSError, ValueError):
        return 0
    return int.from_bytes(answer, sys.byteorder)

"""What the kernel knows of a connection (struct tcp_info, linux/tcp.h), where the program itself can't see it."""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import termios

_HEAD = struct.Struct("=8B24I")
_RETRANSMITS = 2
_LAST_DATA_RECEIVED_MS = 8 + 11

CUT_OFF_RETRANSMISSIONS = 4
"""Time-outs in a row, each twice as long as the one before, without an acknowledgement: some 3 s of 200 ms and more.
A receiver that is merely slow acknowledges, and a lost packet in three takes that long once in hundreds of packets."""


def _info(connection: socket.socket) -> tuple[int, ...] | None:
    try:
        data = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _HEAD.size)
    except OSError:
        return None
    return _HEAD.unpack(data) if len(data) == _HEAD.size else None


def is_cut_off(connection: socket.socket) -> bool:
    """Whether what was sent hasn't been acknowledged for so long that the path must be broken."""
    info = _info(connection)
    return info is not None and info[_RETRANSMITS] >= CUT_OFF_RETRANSMISSIONS


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

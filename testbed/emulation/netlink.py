"""The little of netlink that we speak: messages and attributes packed and parsed, and a routing socket.

Used where a tool would cost too much (counters of all links each second) or where its output is rounded (``tc class
show`` prints 2000001bit as 2Mbit, and has no JSON for HTB classes in iproute2 6.1).
Formats: ``man 7 netlink``, ``man 7 rtnetlink``, ``linux/netlink.h``, ``linux/rtnetlink.h``, ``linux/if_link.h``.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass

REQUEST = 0x01
ACK = 0x04
DUMP = 0x300

_ERROR = 2
_DONE = 3
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_NESTED_BITS = 0xC000  # NLA_F_NESTED and NLA_F_NET_BYTEORDER share the type field

RTM_NEWLINK = 16
RTM_GETLINK = 18
_IFINFO = struct.Struct("=BxHiII")
_IFF_UP = 1
_IFLA_IFNAME = 3
_IFLA_STATS64 = 23
_LINK_STATS = struct.Struct("=8Q")  # rx, tx packets; rx, tx bytes; rx, tx errors; rx, tx dropped

_DEADLINE_S = 5.0


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), kind) + payload + b"\0" * (-len(payload) % 4)


def attributes(payload: bytes) -> dict[int, bytes]:
    """All attributes of a message's tail or of a nested attribute; of several of a kind, the last.

    Raises:
        ValueError: If a length leads out of the payload.
    """
    found: dict[int, bytes] = {}
    offset = 0
    while offset + _ATTRIBUTE.size <= len(payload):
        length, kind = _ATTRIBUTE.unpack_from(payload, offset)
        if length < _ATTRIBUTE.size or offset + length > len(payload):
            raise ValueError(f"attribute {kind} claims {length} bytes")
        found[kind & ~_NESTED_BITS] = payload[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return found


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """A message with its header; the kernel fills in the port."""
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body


def messages(datagram: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(kind, sequence, body) of each message in a datagram.

    Raises:
        ValueError: If a length leads out of the datagram.
    """
    offset = 0
    while offset + _HEADER.size <= len(datagram):
        length, kind, _flags, sequence, _port = _HEADER.unpack_from(datagram, offset)
        if length < _HEADER.size or offset + length > len(datagram):
            raise ValueError(f"netlink message of kind {kind} claims {length} bytes")
        yield kind, sequence, datagram[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def error_number(body: bytes) -> int:
    """The errno of an error message's body; 0 is an acknowledgement."""
    return -int(struct.unpack_from("=i", body)[0])


@dataclass(frozen=True, slots=True)
class InterfaceState:
    """An interface as the kernel sees it.

    Attributes:
        index: Its number in its namespace.
        name: Its name.
        up: Whether it is administratively up.
        sent_bytes, sent_packets, send_drops: Totals since it was made.
    """

    index: int
    name: str
    up: bool
    sent_bytes: int
    sent_packets: int
    send_drops: int


def parse_interface(body: bytes) -> InterfaceState:
    """An ``RTM_NEWLINK`` body."""
    _family, _kind, index, flags, _change = _IFINFO.unpack_from(body)
    tail = attributes(body[_IFINFO.size :])
    name = tail[_IFLA_IFNAME].rstrip(b"\0").decode()
    _, sent_packets, _, sent_bytes, _, _, _, dropped = _LINK_STATS.unpack_from(tail[_IFLA_STATS64])
    return InterfaceState(index, name, bool(flags & _IFF_UP), sent_bytes, sent_packets, dropped)


class RouteSocket:
    """A routing socket of the namespace in which it is made (see :func:`testbed.emulation.namespace.entered`).

    It stays there wherever its users go, and keeps the namespace alive until it is closed. Threads may share it: one
    request is answered before the next is made.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.settimeout(_DEADLINE_S)
        self._socket.bind((0, 0))
        self._sequence = 0
        self._lock = threading.Lock()

    def close(self) -> None:
        """Let go of the namespace; twice is fine."""
        self._socket.close()

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """Bodies of all answers to a dump request.

        Raises:
            OSError: The kernel's own error, or a time-out after 5 s.
        """
        with self._lock:
            return self._dump(kind, body)

    def _dump(self, kind: int, body: bytes) -> list[bytes]:
        self._sequence += 1
        self._socket.send(message(kind, REQUEST | DUMP, self._sequence, body))
        found: list[bytes] = []
        while True:
            for answer, sequence, content in messages(self._socket.recv(1 << 18)):
                if sequence != self._sequence:
                    continue
                if answer == _DONE:
                    return found
                if answer == _ERROR:
                    number = error_number(content)
                    raise OSError(number, os.strerror(number))
                found.append(content)

    def interfaces(self) -> list[InterfaceState]:
        """All interfaces of the namespace."""
        return [parse_interface(body) for body in self.dump(RTM_GETLINK, _IFINFO.pack(0, 0, 0, 0, 0))]

    def set_up(self, index: int, up: bool) -> None:
        """Bring an interface up or down; raises as :meth:`request`."""
        self.request(RTM_NEWLINK, _IFINFO.pack(0, 0, index, _IFF_UP if up else 0, _IFF_UP))

    def request(self, kind: int, body: bytes) -> None:
        """Change something that exists, and wait for the kernel's answer.

        Raises:
            OSError: The kernel's own error, or a time-out after 5 s.
        """
        with self._lock:
            self._request(kind, body)

    def _request(self, kind: int, body: bytes) -> None:
        self._sequence += 1
        self._socket.send(message(kind, REQUEST | ACK, self._sequence, body))
        while True:
            for answer, sequence, content in messages(self._socket.recv(1 << 18)):
                if sequence == self._sequence and answer == _ERROR:
                    number = error_number(content)
                    if number:
                        raise OSError(number, os.strerror(number))
                    return

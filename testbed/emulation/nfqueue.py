"""The protocol of nfnetlink_queue: packets wait in the kernel, and a process says when each may go on.

Pure packing and parsing. Formats: ``linux/netfilter/nfnetlink.h``, ``linux/netfilter/nfnetlink_queue.h``; numbers in
attributes are big-endian. Only metadata is asked for, so no packet is ever copied to the process.
"""

from __future__ import annotations

import struct

from testbed.emulation.netlink import ACK, REQUEST, attribute, message

DROP = 0
ACCEPT = 1

NETLINK_NETFILTER = 12
_SUBSYSTEM = 3 << 8
PACKET = _SUBSYSTEM | 0
_VERDICT = _SUBSYSTEM | 1
_CONFIG = _SUBSYSTEM | 2
_VERDICT_BATCH = _SUBSYSTEM | 3
ERROR = 2

_CFG_COMMAND, _CFG_PARAMETERS, _CFG_MAX_LENGTH, _CFG_MASK, _CFG_FLAGS = 1, 2, 3, 4, 5
_BIND = 1
_COPY_META = 1
_FLAG_GSO = 1 << 2
_VERDICT_HEADER = 2
_AF_INET = 2

_GENERIC = struct.Struct(">BBH")  # family, version, queue number
# nlmsghdr, nfgenmsg, then the attribute NFQA_PACKET_HDR, which the kernel always puts first.
_LENGTH_AND_KIND = struct.Struct("=IH")
_QUEUE_AT = 18
_IDENTITY_AT = 24
_QUEUE = struct.Struct(">H")
_IDENTITY = struct.Struct(">I")


def _of_queue(queue: int, payload: bytes) -> bytes:
    return _GENERIC.pack(0, 0, queue) + payload


def configuration(queue: int, *, max_packets: int, whole_segments: bool, sequence: int) -> list[bytes]:
    """Messages that bind a queue to the socket they are sent on; each is acknowledged.

    Args:
        queue: Its number, unique in the network namespace.
        max_packets: How many may wait; the kernel drops what comes beyond.
        whole_segments: As in :func:`segmentation`.
        sequence: Number of the first message; the others count on.
    """
    payloads = [
        attribute(_CFG_COMMAND, struct.pack(">BxH", _BIND, _AF_INET)),
        attribute(_CFG_PARAMETERS, struct.pack(">IB", 0, _COPY_META)),
        attribute(_CFG_MAX_LENGTH, struct.pack(">I", max_packets)),
    ]
    head = [
        message(_CONFIG, REQUEST | ACK, sequence + offset, _of_queue(queue, payload))
        for offset, payload in enumerate(payloads)
    ]
    return [*head, segmentation(queue, whole_segments, sequence + len(head))]


def segmentation(queue: int, whole_segments: bool, sequence: int) -> bytes:
    """Message that says whether a piece of several segments is queued as one packet, or cut up first.

    Random loss needs them cut up: otherwise one draw would decide over a whole piece.
    """
    flags = _FLAG_GSO if whole_segments else 0
    payload = attribute(_CFG_MASK, struct.pack(">I", _FLAG_GSO)) + attribute(_CFG_FLAGS, struct.pack(">I", flags))
    return message(_CONFIG, REQUEST | ACK, sequence, _of_queue(queue, payload))


def verdict(queue: int, packet: int, decision: int) -> bytes:
    """Message that decides over one packet."""
    payload = attribute(_VERDICT_HEADER, struct.pack(">II", decision, packet))
    return message(_VERDICT, REQUEST, 0, _of_queue(queue, payload))


def verdict_up_to(queue: int, packet: int, decision: int) -> bytes:
    """Message that decides over a packet and all that came before it and still wait."""
    payload = attribute(_VERDICT_HEADER, struct.pack(">II", decision, packet))
    return message(_VERDICT_BATCH, REQUEST, 0, _of_queue(queue, payload))


def packets(datagram: bytes | bytearray, length: int) -> list[tuple[int, int]]:
    """(queue, packet) of each queued packet in a datagram; everything else in it is passed over.

    Raises:
        ValueError: If a message is shorter than its header.
    """
    found: list[tuple[int, int]] = []
    offset = 0
    while offset < length:
        size, kind = _LENGTH_AND_KIND.unpack_from(datagram, offset)
        if size < 16:
            raise ValueError(f"netlink message of {size} bytes")
        if kind == PACKET:
            found.append(
                (
                    _QUEUE.unpack_from(datagram, offset + _QUEUE_AT)[0],
                    _IDENTITY.unpack_from(datagram, offset + _IDENTITY_AT)[0],
                )
            )
        offset += (size + 3) & ~3
    return found

"""Frames: what every connection of the system carries.

A frame is a fixed header of 32 bytes, a JSON object (``meta``) and a binary payload::

    offset  size  field
         0     4  magic, b"EIT1"
         4     1  kind
         5     3  zero
         8     4  plan epoch, big-endian, as all numbers
        12     8  request id
        20     4  length of meta
        24     8  length of the payload

Tensors travel in the payload, each starting at a multiple of 64 bytes; ``meta["tensors"]`` lists their dtypes and
shapes. Nothing is ever unpickled. Sending and receiving copy no payload: buffers go to ``sendmsg`` as they are and the
payload is received into one fresh buffer.
"""

from __future__ import annotations

import json
import select
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NoReturn

import numpy

from testbed.errors import ProtocolError

MAGIC = b"EIT1"
HEADER = struct.Struct("!4sB3xIQIQ")
ALIGNMENT = 64
WAKE_UP_BYTES = 64 << 10

Buffer = bytes | bytearray | memoryview


class FrameKind(IntEnum):
    """What a frame is; the comment says who sends it to whom."""

    CHALLENGE = 1  # acceptor → connector: a nonce to sign
    HELLO = 2  # connector → acceptor: role and name, signed
    WELCOME = 3  # acceptor → connector: the greeting was accepted
    PREPARE = 4  # dispatcher → node: take these stages of a new epoch
    WANT = 5  # node → dispatcher: these chunks of the weights are missing here
    CHUNK = 6  # dispatcher → node: one of them
    READY = 7  # node → dispatcher: its stages can serve
    FAILED = 8  # node → dispatcher: it can't, and why
    DATA = 9  # dispatcher → node → … → dispatcher: tensors of a request
    SUBMIT = 10  # client → dispatcher: a request
    ANSWER = 11  # dispatcher → client: its answer
    REJECTED = 12  # dispatcher → client: it will not be answered, and why
    STATE = 13  # dispatcher → client: the service's state has changed
    HOLDINGS = 14  # node → dispatcher: the chunks of weights that it has in its storage, all of them
    KEEP = 15  # dispatcher → node: store these chunks in case they are needed; those that lack are asked for by WANT
    KEPT = 16  # node → dispatcher: they are stored
    LEAVE = 17  # node → dispatcher: it wants to go
    RELEASED = 18  # dispatcher → node: it is needed no more
    FENCED = 19  # dispatcher → node: all epochs before this one are over


@dataclass(frozen=True, slots=True)
class Limits:
    """What a reader accepts; longer frames are a protocol error before a byte of them is stored."""

    meta_bytes: int = 8 << 20
    payload_bytes: int = 1 << 30


GREETING_LIMITS = Limits(meta_bytes=4096, payload_bytes=0)


@dataclass(slots=True)
class Frame:
    """One frame.

    Attributes:
        kind: What it is.
        epoch: The plan epoch that it belongs to; 0 where there is none.
        request_id: The request that it belongs to; 0 where there is none.
        meta: A JSON object.
        payload: Buffers that are sent one after another; a received frame has exactly one.
    """

    kind: FrameKind
    epoch: int = 0
    request_id: int = 0
    meta: Mapping[str, Any] = field(default_factory=dict)
    payload: Sequence[Buffer] = ()

    @property
    def payload_bytes(self) -> int:
        """Length of the payload."""
        return sum(len(part) for part in self.payload)

    @property
    def body(self) -> memoryview:
        """The payload of a received frame, without a copy."""
        return memoryview(self.payload[0]) if self.payload else memoryview(b"")


def encode_head(frame: Frame) -> bytes:
    """Header and meta of a frame, as they go before its payload."""
    meta = json.dumps(frame.meta, separators=(",", ":")).encode() if frame.meta else b""
    header = HEADER.pack(MAGIC, frame.kind, frame.epoch, frame.request_id, len(meta), frame.payload_bytes)
    return header + meta


def send_frame(connection: socket.socket, frame: Frame) -> int:
    """Send a whole frame; returns its length in bytes.

    Raises:
        ConnectionError: If the peer has gone.
        TimeoutError: If nothing could be sent for the socket's time-out.
    """
    pending = [memoryview(encode_head(frame)), *(memoryview(part).cast("B") for part in frame.payload if len(part))]
    total = sum(len(part) for part in pending)
    while pending:
        sent = connection.sendmsg(pending[:64])
        while pending and sent >= len(pending[0]):
            sent -= len(pending.pop(0))
        if sent:
            pending[0] = pending[0][sent:]
    return total


def _receive_into(connection: socket.socket, buffer: memoryview) -> None:
    """Fill the buffer, waking up once in 64 KiB.

    A slow link brings a frame segment by segment. To wake up for each would cost a host with a tenth of a core more
    than the computation: 416 times for an image of 224 x 224.
    """
    received = 0
    watermark = 1
    while received < len(buffer):
        wanted = min(len(buffer) - received, WAKE_UP_BYTES)
        if wanted != watermark:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wanted)
            watermark = wanted
        count = connection.recv_into(buffer[received:])
        if count == 0:
            raise ConnectionResetError("the peer closed the connection within a frame")
        received += count
    if watermark != 1:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)


@dataclass(frozen=True, slots=True)
class Header:
    """A frame's header, checked."""

    kind: FrameKind
    epoch: int
    request_id: int
    meta_bytes: int
    payload_bytes: int


def decode_header(data: Buffer, limits: Limits) -> Header:
    """The header in ``data`` (32 bytes).

    Raises:
        ProtocolError: If it is no legal header or the frame is longer than the limits allow.
    """
    magic, kind, epoch, request_id, meta_bytes, payload_bytes = HEADER.unpack(data)
    if magic != MAGIC:
        raise ProtocolError(f"not a frame: it starts with {magic!r} instead of {MAGIC!r}")
    try:
        known = FrameKind(kind)
    except ValueError:
        raise ProtocolError(f"unknown kind of frame: {kind}") from None
    if meta_bytes > limits.meta_bytes or payload_bytes > limits.payload_bytes:
        raise ProtocolError(
            f"{known.name} frame of {meta_bytes} + {payload_bytes} bytes is over the limit of "
            f"{limits.meta_bytes} + {limits.payload_bytes}"
        )
    return Header(known, epoch, request_id, meta_bytes, payload_bytes)


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def decode_meta(data: Buffer) -> dict[str, Any]:
    """The JSON object in ``data``; empty data is an empty object.

    Raises:
        ProtocolError: If it is no JSON object.
    """
    if not len(data):
        return {}
    try:
        meta = json.loads(bytes(data), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a frame's meta is no JSON: {str(error)[:200]}") from None
    if not isinstance(meta, dict):
        raise ProtocolError("a frame's meta is no JSON object")
    return meta


def receive_header(connection: socket.socket, limits: Limits) -> Header | None:
    """Wait for the next frame's header, for as long as it takes; None when the peer has closed the connection.

    Raises:
        ProtocolError: If what comes is no legal header.
        ConnectionError: If the connection broke.
        TimeoutError: If the header began and then stalled.
    """
    buffer = memoryview(bytearray(HEADER.size))
    _await_readable(connection)
    if connection.recv_into(buffer[:1]) == 0:
        return None
    _receive_into(connection, buffer[1:])
    return decode_header(buffer, limits)


def _await_readable(connection: socket.socket) -> None:
    """Wait for a byte, the end or an error, however long that takes.

    The socket's own time-out stays as it is: another thread may be sending on it, and would lose its time-out or fail
    when the socket turned from blocking to non-blocking under its hands.
    """
    waiting = select.poll()
    waiting.register(connection, select.POLLIN)
    waiting.poll()


def receive_body(connection: socket.socket, header: Header) -> Frame:
    """The frame whose header has just been received.

    Raises:
        ProtocolError: If its meta is no JSON object.
        ConnectionError: If the connection broke.
        TimeoutError: If the frame stalled.
        MemoryError: If there is no room for it.
    """
    meta = memoryview(bytearray(header.meta_bytes))
    _receive_into(connection, meta)
    # Not a bytearray, which writes zeros to all of it first: a peer that announces a gigabyte must also send one.
    payload = numpy.empty(header.payload_bytes, numpy.uint8).data
    _receive_into(connection, payload)
    return Frame(header.kind, header.epoch, header.request_id, decode_meta(meta), (payload,))


def receive_frame(connection: socket.socket, limits: Limits) -> Frame | None:
    """The next frame; None when the peer has closed the connection between two frames.

    Raises:
        ProtocolError: If what comes is no legal frame.
        ConnectionError: If the connection broke.
        TimeoutError: If the frame began and then stalled.
    """
    header = receive_header(connection, limits)
    return None if header is None else receive_body(connection, header)


def aligned(length: int) -> int:
    """The next multiple of the tensors' alignment."""
    return -(-length // ALIGNMENT) * ALIGNMENT


PADDING = memoryview(bytes(ALIGNMENT))


def pack_buffers(buffers: Sequence[Buffer]) -> list[Buffer]:
    """Buffers with the padding between them that puts each at a multiple of 64 bytes."""
    packed: list[Buffer] = []
    for index, buffer in enumerate(buffers):
        packed.append(buffer)
        gap = aligned(len(buffer)) - len(buffer)
        if gap and index < len(buffers) - 1:
            packed.append(PADDING[:gap])
    return packed

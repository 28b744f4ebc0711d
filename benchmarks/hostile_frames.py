"""Valid frames, broken in every way that a stranger, a bug or a bad cable could break them; seeded."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from testbed.errors import ProtocolError
from testbed.serving.auth import Greeting
from testbed.serving.connection import connect
from testbed.serving.wire import HEADER, MAGIC, Frame, FrameKind, encode_head

TIMEOUT_S = 20.0
FAR_EPOCH = 4_000_000_000

WRONG_VALUES: Sequence[Any] = (
    *(None, True, False, -1, 0, 1.5, 2**63, 10**30, -(10**300), "", "x", "\ud800", "\x00" * 9, "9" * 2000),
    *([], [None], [[]], {}, {"v": 0}, [["float32", [2**31, 2**31]]], [["object", [1]]], [{}] * 50),
)
WRONG_METAS = (
    b"[]",
    b"1",
    b"null",
    b'"a"',
    b"{",
    b"[" * 4000,
    b"\xff\xfe\x00",
    b'{"a":NaN}',
    b'{"sent_s":1e999}',
    b"{}{}",
)


def examples() -> tuple[Frame, ...]:
    """A frame of each kind, well formed but of no use to anybody: of an epoch that never comes."""
    epoch = FAR_EPOCH
    chunk = "0" * 64
    tensors = [["float32", [1, 4]]]
    hop = {
        "host": "node1",
        "stage": 0,
        "bytes": 16,
        "transfer_s": None,
        "received_s": 1.0,
        "started_s": 1.0,
        "finished_s": 2.0,
        "compute_s": 1.0,
    }
    prepare = {
        "stage": 0,
        "first_op": 0,
        "last_op": 1,
        "next_host": "node1",
        "next_address": ["127.0.0.1", 9],
        "program_bytes": 2,
        "manifest_bytes": 2,
    }
    return (
        Frame(FrameKind.CHALLENGE, meta={"nonce": "00"}),
        Frame(FrameKind.HELLO, meta={"role": "data", "name": "x", "epoch": 1, "to": [], "nonce": "00", "mac": "00"}),
        Frame(FrameKind.WELCOME, meta={"host": "x", "mac": "00"}),
        Frame(FrameKind.PREPARE, epoch, meta={"stages": [prepare]}, payload=(b"{}[]",)),
        Frame(FrameKind.WANT, epoch, meta={"chunks": [chunk]}),
        Frame(FrameKind.CHUNK, epoch, meta={"chunk": chunk}, payload=(bytes(100),)),
        Frame(FrameKind.READY, epoch, meta={"bytes": 1, "transfer_s": 1.0}),
        Frame(FrameKind.FAILED, epoch, meta={"reason": "none", "suspect": "nobody"}),
        Frame(FrameKind.DATA, epoch, 7, {"tensors": tensors, "hops": [hop]}, (bytes(16),)),
        Frame(FrameKind.SUBMIT, 0, 2**62, {"tensors": tensors, "deadline_s": 1.0}, (bytes(16),)),
        Frame(FrameKind.ANSWER, epoch, 7, {"tensors": tensors, "attempts": 1, "path": ["x"]}, (bytes(16),)),
        Frame(FrameKind.REJECTED, epoch, 7, {"reason": "none"}),
        Frame(FrameKind.STATE, epoch, meta={"state": "serving"}),
        Frame(FrameKind.HOLDINGS, epoch, meta={"chunks": [chunk]}),
        Frame(FrameKind.KEEP, epoch, meta={"sizes": {chunk: 100}}),
        Frame(FrameKind.KEPT, epoch),
    )


@dataclass(frozen=True, slots=True)
class Broken:
    """What is sent, and in which way it is broken."""

    how: str
    data: bytes


class Mutator:
    """Breaks frames; the same seed gives the same sequence."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)  # noqa: S311 - a repeatable choice, not a secret
        self._examples = examples()
        self._ways: dict[str, Callable[[], bytes]] = {
            "random bytes": self._random,
            "flipped bits": self._flipped,
            "truncated": self._truncated,
            "foreign magic": lambda: self._packed(magic=self._draw.randbytes(4)),
            "unknown kind": lambda: self._packed(kind=self._draw.choice([0, *range(100, 256)])),
            "oversized meta": lambda: self._packed(meta_bytes=self._draw.randrange(1 << 24, 1 << 32)),
            "oversized payload": lambda: self._packed(payload_bytes=self._draw.randrange(1 << 31, 1 << 64)),
            "wrong length": lambda: self._packed(meta_bytes=self._draw.randrange(1, 64)),
            "meta no object": lambda: self._with_meta(self._draw.choice(WRONG_METAS)),
            "wrong type": self._wrong_type,
            "missing key": self._missing_key,
            "wrong place": lambda: self._whole(self._draw.choice(self._examples)),
        }

    @property
    def ways(self) -> tuple[str, ...]:
        """All ways of breaking a frame."""
        return tuple(self._ways)

    def broken(self) -> Broken:
        """The next one."""
        how = self._draw.choice(self.ways)
        return Broken(how, self._ways[how]())

    @staticmethod
    def _whole(frame: Frame) -> bytes:
        return b"".join((encode_head(frame), *map(bytes, frame.payload)))

    def _random(self) -> bytes:
        return self._draw.randbytes(self._draw.randrange(1, 400))

    def _flipped(self) -> bytes:
        data = bytearray(self._whole(self._draw.choice(self._examples)))
        for _ in range(self._draw.randrange(1, 9)):
            data[self._draw.randrange(len(data))] ^= 1 << self._draw.randrange(8)
        return bytes(data)

    def _truncated(self) -> bytes:
        data = self._whole(self._draw.choice(self._examples))
        return data[: self._draw.randrange(1, len(data))]

    def _packed(self, **changed: Any) -> bytes:
        frame = self._draw.choice(self._examples)
        meta = json.dumps(frame.meta).encode()
        fields = {
            "magic": MAGIC,
            "kind": int(frame.kind),
            "epoch": frame.epoch,
            "request_id": frame.request_id,
            "meta_bytes": len(meta),
            "payload_bytes": frame.payload_bytes,
        }
        return HEADER.pack(*{**fields, **changed}.values()) + meta + b"".join(map(bytes, frame.payload))

    def _with_meta(self, meta: bytes) -> bytes:
        frame = self._draw.choice(self._examples)
        header = HEADER.pack(MAGIC, frame.kind, frame.epoch, frame.request_id, len(meta), frame.payload_bytes)
        return header + meta + b"".join(map(bytes, frame.payload))

    def _wrong_type(self) -> bytes:
        frame = self._draw.choice([frame for frame in self._examples if frame.meta])
        key = self._draw.choice(list(frame.meta))
        return self._with_changed(frame, {**frame.meta, key: self._draw.choice(WRONG_VALUES)})

    def _missing_key(self) -> bytes:
        frame = self._draw.choice([frame for frame in self._examples if frame.meta])
        gone = self._draw.choice(list(frame.meta))
        return self._with_changed(frame, {key: value for key, value in frame.meta.items() if key != gone})

    def _with_changed(self, frame: Frame, meta: dict[str, Any]) -> bytes:
        return self._whole(Frame(frame.kind, frame.epoch, frame.request_id, meta, frame.payload))


def send_and_await_end(connection: socket.socket, data: bytes) -> bool:
    """Send bytes, end the sending, read until the peer has closed; tells whether it did in time."""
    deadline_s = time.monotonic() + TIMEOUT_S
    try:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while time.monotonic() < deadline_s:
            connection.settimeout(max(0.01, deadline_s - time.monotonic()))
            if not connection.recv(65536):
                return True
    except TimeoutError:
        return False
    except OSError:
        return True  # reset: it didn't even read to the end
    return False


def attack_as_stranger(address: tuple[str, int], data: bytes) -> bool:
    """Send bytes in place of a greeting; tells whether the peer dropped the connection."""
    with socket.create_connection(address, timeout=TIMEOUT_S) as connection:
        return send_and_await_end(connection, data)


def attack_as_insider(address: tuple[str, int], token: str, role: str, data: bytes) -> bool:
    """The same after a proper greeting, as somebody who holds the token and has gone mad."""
    try:
        connection, _ = connect(address, token, Greeting(role, "mad", FAR_EPOCH))
    except (OSError, ProtocolError):
        return False
    with connection:
        return send_and_await_end(connection, data)


def attack_with_datagrams(address: tuple[str, int], count: int, mutator: Mutator) -> None:
    """Send rubbish where heartbeats are expected."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(address)
        for _ in range(count):
            with contextlib.suppress(OSError):
                sender.send(mutator.broken().data[:1400])

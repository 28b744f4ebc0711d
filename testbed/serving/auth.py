"""The greeting: both sides prove that they hold the run's token before anything else is read or sent.

The acceptor sends a random nonce; the connector answers with its role and name, the address it means to reach, a nonce
of its own and an HMAC-SHA256 of all that under the token; the acceptor's welcome is signed over both nonces. So a
foreign process on the emulated network can neither deploy a stage nor inject an answer, nor pass for a node that has
died; a recorded greeting is worth nothing, as nonces never repeat; and one that is passed on to another host is refused
there, as it names another address (there is no address translation between the hosts of a cluster).

The frames that follow are not signed one by one: who can rewrite the packets of a living TCP connection is the network
itself, which is out of scope.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from testbed.errors import ProtocolError
from testbed.serving.events import now_s
from testbed.serving.patience import PATIENCE, Patience
from testbed.serving.wire import GREETING_LIMITS, HEADER, Frame, FrameKind, decode_header, decode_meta, send_frame

NONCE_BYTES = 32
MAC_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True, slots=True)
class Greeting:
    """Who a peer is: its role (``control``, ``data`` or ``client``), its name and the plan epoch it speaks for."""

    role: str
    name: str
    epoch: int = 0


def new_token() -> str:
    """A fresh token for a run, in hexadecimal digits."""
    return secrets.token_hex(32)


def sign(token: str, *parts: bytes) -> bytes:
    """HMAC-SHA256 of the parts under the token; each part is preceded by its length."""
    mac = hmac.new(token.encode(), digestmod=hashlib.sha256)
    for part in parts:
        mac.update(len(part).to_bytes(4, "big"))
        mac.update(part)
    return mac.digest()


def _signature(token: str, purpose: str, nonces: Sequence[str], said: Mapping[str, Any]) -> str:
    parts = (purpose, json.dumps(nonces), json.dumps(said, sort_keys=True))
    return sign(token, *(part.encode() for part in parts)).hex()


def _is_signed(mac: object, expected: str) -> bool:
    return isinstance(mac, str) and hmac.compare_digest(mac.encode(errors="replace"), expected.encode())


def _place(name: Any) -> list[Any]:
    """Address and port of a socket's name; nothing for sockets that have none."""
    return list(name[:2]) if isinstance(name, tuple) else []


class _Steps:
    """The steps of one greeting, which has one deadline: a peer that sends a byte now and then gains nothing by it."""

    def __init__(self, connection: socket.socket, greeting_s: float) -> None:
        self._connection = connection
        self._deadline_s = now_s() + greeting_s

    def _set_timeout(self) -> None:
        left_s = self._deadline_s - now_s()
        if left_s <= 0:
            raise TimeoutError("the greeting took too long")
        self._connection.settimeout(left_s)

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            self._set_timeout()
            part = self._connection.recv(count - len(data))
            if not part:
                raise ConnectionResetError("the peer closed the connection during the greeting")
            data += part
        return data

    def receive(self, kind: FrameKind) -> dict[str, Any]:
        header = decode_header(self._read(HEADER.size), GREETING_LIMITS)
        if header.kind is not kind:
            raise ProtocolError(f"expected {kind.name} in the greeting, got {header.kind.name}")
        return decode_meta(self._read(header.meta_bytes))

    def send(self, frame: Frame) -> None:
        self._set_timeout()
        send_frame(self._connection, frame)


def greet(
    connection: socket.socket, token: str, greeting: Greeting, patience: Patience = PATIENCE
) -> Mapping[str, Any]:
    """Connector's side; returns what the acceptor tells of itself.

    Raises:
        ProtocolError: If the peer doesn't follow the protocol or doesn't hold the token.
        OSError: If the connection breaks or the greeting takes too long.
    """
    steps = _Steps(connection, patience.greeting_s)
    theirs = steps.receive(FrameKind.CHALLENGE).get("nonce")
    if not isinstance(theirs, str):
        raise ProtocolError("a challenge without a nonce")
    nonce = secrets.token_hex(NONCE_BYTES)
    said = {
        "role": greeting.role,
        "name": greeting.name,
        "epoch": greeting.epoch,
        "to": _place(connection.getpeername()),
        "nonce": nonce,
    }
    mac = _signature(token, "hello", [theirs], said)
    steps.send(Frame(FrameKind.HELLO, meta={**said, "mac": mac}))
    about = steps.receive(FrameKind.WELCOME)
    if not _is_signed(about.pop("mac", None), _signature(token, "welcome", [theirs, nonce], about)):
        raise ProtocolError("a welcome whose signature is wrong")
    connection.settimeout(patience.stall_s)
    return about


def admit(connection: socket.socket, token: str, about: Mapping[str, Any], patience: Patience = PATIENCE) -> Greeting:
    """Acceptor's side; tells the peer ``about`` itself once the peer has proved itself.

    Raises:
        ProtocolError: If the peer doesn't follow the protocol or doesn't hold the token.
        OSError: If the connection breaks or the greeting takes too long.
    """
    steps = _Steps(connection, patience.greeting_s)
    ours = secrets.token_hex(NONCE_BYTES)
    steps.send(Frame(FrameKind.CHALLENGE, meta={"nonce": ours}))
    hello = steps.receive(FrameKind.HELLO)
    if not _is_signed(hello.pop("mac", None), _signature(token, "hello", [ours], hello)):
        raise ProtocolError("a greeting whose signature is wrong")
    match hello:
        case {"role": str(role), "name": str(name), "epoch": int(epoch), "to": to, "nonce": str(theirs)}:
            greeting = Greeting(role, name, epoch)
        case _:
            raise ProtocolError("a greeting without role, name, epoch, address and nonce")
    if to != _place(connection.getsockname()):
        raise ProtocolError(f"a greeting that was meant for {to!r:.80}")
    mac = _signature(token, "welcome", [ours, theirs], about)
    steps.send(Frame(FrameKind.WELCOME, meta={**about, "mac": mac}))
    connection.settimeout(patience.stall_s)
    return greeting

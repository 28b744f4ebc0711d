"""The greeting: a peer proves that it holds the run's token before anything else is read from it.

The acceptor sends a random nonce; the connector answers with its role and name and an HMAC-SHA256 of nonce and answer
under the token. A foreign process on the emulated network can neither deploy a stage nor inject an answer.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from testbed.errors import ProtocolError
from testbed.serving.patience import PATIENCE, Patience
from testbed.serving.wire import GREETING_LIMITS, Frame, FrameKind, receive_frame, send_frame

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


def _signature(token: str, nonce: str, greeting: Mapping[str, Any]) -> str:
    return sign(token, nonce.encode(), json.dumps(greeting, sort_keys=True).encode()).hex()


def _receive(connection: socket.socket, kind: FrameKind, patience: Patience) -> Frame:
    # receive_frame waits without end for a frame to begin, which a greeting must not.
    connection.settimeout(patience.greeting_s)
    if not connection.recv(1, socket.MSG_PEEK):
        raise ConnectionResetError("the peer closed the connection during the greeting")
    frame = receive_frame(connection, GREETING_LIMITS)
    if frame is None or frame.kind is not kind:
        raise ProtocolError(
            f"expected {kind.name} in the greeting, got {'nothing' if frame is None else frame.kind.name}"
        )
    return frame


def greet(
    connection: socket.socket, token: str, greeting: Greeting, patience: Patience = PATIENCE
) -> Mapping[str, Any]:
    """Connector's side; returns what the acceptor tells of itself.

    Raises:
        ProtocolError: If the peer doesn't follow the protocol.
        OSError: If the connection breaks or nothing comes within the time-out.
    """
    nonce = _receive(connection, FrameKind.CHALLENGE, patience).meta.get("nonce")
    if not isinstance(nonce, str):
        raise ProtocolError("a challenge without a nonce")
    about = {"role": greeting.role, "name": greeting.name, "epoch": greeting.epoch}
    send_frame(connection, Frame(FrameKind.HELLO, meta={**about, "mac": _signature(token, nonce, about)}))
    welcome = _receive(connection, FrameKind.WELCOME, patience)
    connection.settimeout(patience.stall_s)
    return welcome.meta


def admit(connection: socket.socket, token: str, about: Mapping[str, Any], patience: Patience = PATIENCE) -> Greeting:
    """Acceptor's side; tells the peer ``about`` itself once the peer has proved itself.

    Raises:
        ProtocolError: If the peer doesn't follow the protocol or doesn't hold the token.
        OSError: If the connection breaks or nothing comes within the time-out.
    """
    nonce = secrets.token_hex(NONCE_BYTES)
    connection.settimeout(patience.greeting_s)
    send_frame(connection, Frame(FrameKind.CHALLENGE, meta={"nonce": nonce}))
    hello = dict(_receive(connection, FrameKind.HELLO, patience).meta)
    mac = hello.pop("mac", "")
    if not isinstance(mac, str) or not hmac.compare_digest(mac.encode(), _signature(token, nonce, hello).encode()):
        raise ProtocolError("a greeting whose signature is wrong")
    match hello:
        case {"role": str(role), "name": str(name), "epoch": int(epoch)}:
            greeting = Greeting(role, name, epoch)
        case _:
            raise ProtocolError("a greeting without role, name and epoch")
    send_frame(connection, Frame(FrameKind.WELCOME, meta=about))
    connection.settimeout(patience.stall_s)
    return greeting

"""The dispatcher's connections to its nodes.

Everything that happens on them becomes a message to the dispatcher's one controlling thread.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from testbed.errors import ProtocolError
from testbed.planning.plan import Plan
from testbed.serving.auth import Greeting
from testbed.serving.connection import Arrival, Writer, arrivals, connect, shut_down
from testbed.serving.patience import PATIENCE, Patience
from testbed.serving.wire import Frame, Limits


@dataclass(frozen=True, slots=True)
class Joined:
    """A node answered the greeting."""

    member: Member


@dataclass(frozen=True, slots=True)
class Gone:
    """A node can't be reached, has closed its connection, or has been silent for too long."""

    host: str
    how: str
    detail: str


@dataclass(frozen=True, slots=True)
class FromNode:
    """A node sent a frame on its control connection."""

    host: str
    arrival: Arrival


@dataclass(frozen=True, slots=True)
class FromClient:
    """A client submitted a request."""

    client: str
    frame: Frame


@dataclass(frozen=True, slots=True)
class ClientJoined:
    """A client has connected."""

    name: str
    writer: Writer


@dataclass(frozen=True, slots=True)
class ClientGone:
    """A client has closed its connection."""

    name: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The last node of a pipeline sent an answer."""

    arrival: Arrival


@dataclass(frozen=True, slots=True)
class Planned:
    """Planning for an epoch has ended: with a plan, or with the reason why there is none."""

    epoch: int
    plan: Plan | None
    reason: str


@dataclass(frozen=True, slots=True)
class PipelineOpened:
    """The connection into an epoch's first stage stands, or failed."""

    epoch: int
    host: str
    writer: Writer | None
    detail: str = ""


Message = Joined | Gone | FromNode | FromClient | ClientJoined | ClientGone | Answered | Planned | PipelineOpened
Post = Callable[[Message], None]

CONTROL_LIMITS = Limits(meta_bytes=1 << 20, payload_bytes=0)
CONTROL_DEPTH = 16


@dataclass(slots=True)
class Member:
    """A node that is connected.

    Attributes:
        host: Its name.
        address: Its address and port.
        writer: Sends frames on the control connection.
        holdings: Runs of segments ``(first, last)`` whose weights it has in its storage.
    """

    host: str
    address: tuple[str, int]
    writer: Writer
    connection: socket.socket
    holdings: list[tuple[int, int]] = field(default_factory=list)

    def send(self, item: Frame | Iterable[Frame]) -> bool:
        """Queue frames; False if the connection has gone or doesn't drain."""
        return self.writer.offer(item)

    def close(self) -> None:
        """End the connection."""
        self.writer.close()
        shut_down(self.connection)


def join(
    host: str, address: tuple[str, int], token: str, dispatcher: str, post: Post, patience: Patience = PATIENCE
) -> None:
    """Connect to a node on a thread of its own; posts :class:`Joined`, then frames, and :class:`Gone` at the end."""

    def run() -> None:
        try:
            connection, _ = connect(address, token, Greeting("control", dispatcher), patience)
        except (OSError, ProtocolError) as error:
            post(Gone(host, "connection", f"can't be reached at {address[0]}: {error}"))
            return
        writer = Writer(connection, depth=CONTROL_DEPTH, name=f"control {host}")
        post(Joined(Member(host, address, writer, connection)))
        detail = "closed its connection"
        try:
            for arrival in arrivals(connection, CONTROL_LIMITS):
                post(FromNode(host, arrival))
        except (OSError, ProtocolError) as error:
            detail = str(error)
        # A failed writer ends the connection, which looks here as if the peer had done so.
        if writer.failure is not None:
            detail = f"nothing can be sent to it: {writer.failure}"
        writer.close()
        connection.close()
        post(Gone(host, "connection", detail))

    threading.Thread(target=run, name=f"control {host}", daemon=True).start()


def open_pipeline(
    host: str,
    address: tuple[str, int],
    token: str,
    dispatcher: str,
    epoch: int,
    depth: int,
    post: Post,
    patience: Patience = PATIENCE,
) -> None:
    """Connect to an epoch's first stage on a thread of its own; posts :class:`PipelineOpened`."""

    def run() -> None:
        try:
            connection, _ = connect(address, token, Greeting("data", dispatcher, epoch), patience)
        except (OSError, ProtocolError) as error:
            post(PipelineOpened(epoch, host, None, f"its stage can't be reached: {error}"))
            return
        post(PipelineOpened(epoch, host, Writer(connection, depth=depth, name=f"stage 0 on {host}")))

    threading.Thread(target=run, name=f"open epoch {epoch}", daemon=True).start()

"""The dispatcher's connections to its nodes.

Everything that happens on them becomes a message to the dispatcher's one controlling thread.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from testbed.errors import ProtocolError
from testbed.serving.auth import Greeting
from testbed.serving.connection import CONNECT_ATTEMPTS, Writer, arrivals, connect
from testbed.serving.lobby import shut_down
from testbed.serving.messages import FromNode, Gone, Joined, PipelineOpened, Post
from testbed.serving.patience import PATIENCE, Patience
from testbed.serving.wire import Frame, FrameKind, Limits

CONTROL_LIMITS = Limits(meta_bytes=1 << 20, payload_bytes=0)
CONTROL_DEPTH = 16


@dataclass(slots=True, eq=False)
class Member:
    """A node that is connected; one object for each connection.

    Attributes:
        host: Its name.
        address: Its address and port.
        writer: Sends frames on the control connection.
        start: Tells this start of its server from others, as its heartbeats do (in hexadecimal digits).
        holdings: Ids of the chunks of weights that it has in its storage, as it told.
        newest_epoch: The latest epoch that it had heard of when it was greeted.
    """

    host: str
    address: tuple[str, int]
    writer: Writer
    connection: socket.socket
    start: str | None
    holdings: set[str] = field(default_factory=set)
    newest_epoch: int = 0

    def send(self, item: Frame | Iterable[Frame]) -> bool:
        """Queue frames; False if the connection has gone or doesn't drain."""
        return self.writer.offer(item)

    def close(self) -> None:
        """End the connection."""
        self.writer.close()
        shut_down(self.connection)


def holdings_of(frame: Frame) -> set[str]:
    """The chunks that a HOLDINGS frame lists.

    Raises:
        ProtocolError: If it is no such frame.
    """
    chunks = frame.meta.get("chunks")
    if frame.kind is not FrameKind.HOLDINGS or not isinstance(chunks, list):
        raise ProtocolError(f"{frame.kind.name} where a node has to tell what it holds")
    return {str(chunk_id) for chunk_id in chunks}


class Liaison:
    """Keeps the dispatcher connected to a node for as long as the process lives, on a thread of its own.

    Posts :class:`Joined` when the node has told what it holds, then its frames, and :class:`Gone` when the connection
    ends. Then it tries again: soon at first, later once in ``patience.retry_most_s``. That it can't be reached is
    posted once, after some attempts.
    """

    def __init__(
        self,
        host: str,
        address: tuple[str, int],
        token: str,
        dispatcher: str,
        post: Post,
        patience: Patience = PATIENCE,
    ) -> None:
        self._host = host
        self._address = address
        self._token = token
        self._greeting = Greeting("control", dispatcher)
        self._post = post
        self._patience = patience
        self._end = threading.Event()
        threading.Thread(target=self._run, name=f"control {host}", daemon=True).start()

    def close(self) -> None:
        """Try no more; a connection that stands is left to its :class:`Member`."""
        self._end.set()

    def _run(self) -> None:
        wait_s = self._patience.retry_s
        failures = 0
        while not self._end.is_set():
            try:
                connection, about = connect(self._address, self._token, self._greeting, self._patience, attempts=1)
            except (OSError, ProtocolError) as error:
                failures += 1
                if failures == CONNECT_ATTEMPTS:
                    self._post(Gone(self._host, "connection", f"can't be reached at {self._address[0]}: {error}"))
            else:
                start = about.get("start")
                if self._serve(connection, start if isinstance(start, str) else None):
                    failures = 0
                    wait_s = self._patience.retry_s
            self._end.wait(wait_s)
            wait_s = min(2 * wait_s, self._patience.retry_most_s)

    def _serve(self, connection: socket.socket, start: str | None) -> bool:
        """Read until the connection ends; tells whether the node had joined."""
        writer = Writer(connection, depth=CONTROL_DEPTH, name=f"control {self._host}")
        member = Member(self._host, self._address, writer, connection, start)
        joined = False
        detail = "closed its connection"
        try:
            for arrival in arrivals(connection, CONTROL_LIMITS):
                if arrival.frame.kind is FrameKind.HOLDINGS:
                    holdings = holdings_of(arrival.frame)
                    if not joined:
                        member.holdings = holdings
                        member.newest_epoch = arrival.frame.epoch
                        joined = True
                        self._post(Joined(member))
                        continue
                elif not joined:
                    raise ProtocolError(f"{arrival.frame.kind.name} before it told what it holds")
                self._post(FromNode(self._host, arrival))
        except (OSError, ProtocolError) as error:
            detail = str(error)
        # A failed writer ends the connection, which looks here as if the peer had done so.
        if writer.failure is not None:
            detail = f"nothing can be sent to it: {writer.failure}"
        member.close()
        connection.close()
        self._post(Gone(self._host, "connection", detail, member if joined else None))
        return joined


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
        post(PipelineOpened(epoch, host, Writer(connection, depth=depth, name=f"stage 0 on {host}", owns=True)))

    threading.Thread(target=run, name=f"open epoch {epoch}", daemon=True).start()

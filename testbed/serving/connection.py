"""Connections: one reader thread and one writer thread each, with bounded queues between them and the rest.

A full queue blocks whoever feeds it, and so pushes back along the pipeline: that is how a slow stage slows its
predecessors instead of filling their memory.
"""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from testbed.errors import ProtocolError
from testbed.serving.auth import Greeting, admit, greet
from testbed.serving.events import now_s
from testbed.serving.lobby import Lobby, shut_down
from testbed.serving.mailbox import Closed, Mailbox
from testbed.serving.patience import PATIENCE, Patience
from testbed.serving.schema import check_frame, check_header
from testbed.serving.tcp import is_cut_off, unread_bytes
from testbed.serving.wire import HEADER, Frame, Limits, receive_body, receive_header, send_frame

CONNECT_ATTEMPTS = 3
KEEP_ALIVE_PROBES = 3
MOST_UNREAD = 0.25
"""Of a frame: who finds more of it there already has come to read it too late to tell how long its transfer took."""

Sent = Callable[[Frame, float, float], None]
"""Called by the writer after a frame with the times when its sending began and ended."""


def prepare_socket(connection: socket.socket, patience: Patience) -> None:
    """Settings of every connection: small frames leave at once, and a stalled or vanished peer is given up.

    A peer whose power is cut says nothing; without keep-alive a reader would wait for its next frame for ever.
    """
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    step_s = max(1, round(patience.stall_s / (KEEP_ALIVE_PROBES + 1)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, step_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, step_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEP_ALIVE_PROBES)
    connection.settimeout(patience.stall_s)


def connect(
    address: tuple[str, int],
    token: str,
    greeting: Greeting,
    patience: Patience = PATIENCE,
    attempts: int = CONNECT_ATTEMPTS,
) -> tuple[socket.socket, dict[str, Any]]:
    """An authenticated connection to a peer, and what the peer told of itself.

    A lost first segment is tried again, a bounded number of times, and so is a greeting that the peer has broken off:
    others may have crowded into its lobby.

    Raises:
        ProtocolError: If the peer doesn't follow the protocol.
        OSError: If the peer can't be reached.
    """
    for attempt in range(1, attempts + 1):
        try:
            connection = socket.create_connection(address, timeout=patience.connect_s)
        except TimeoutError:
            if attempt == attempts:
                raise
            continue
        try:
            prepare_socket(connection, patience)
            return connection, dict(greet(connection, token, greeting, patience))
        except (ConnectionResetError, BrokenPipeError):
            connection.close()
            if attempt == attempts:
                raise
        except BaseException:
            connection.close()
            raise
    raise AssertionError("unreachable")


class Arrival:
    """A received frame, with when its transfer can have begun and when it was complete.

    Attributes:
        frame: The frame.
        received_s: When its last byte was here.
        transfer_s: How long its transfer occupied the path: from when the sender handed it over, or from the end of
            the frame before it if that was later. None when this side had stopped reading meanwhile, as the time then
            tells of the reader and not of the path.
    """

    __slots__ = ("frame", "received_s", "transfer_s")

    def __init__(self, frame: Frame, received_s: float, transfer_s: float | None) -> None:
        self.frame = frame
        self.received_s = received_s
        self.transfer_s = transfer_s


def arrivals(connection: socket.socket, limits: Limits) -> Iterator[Arrival]:
    """All frames of a connection until the peer closes it between two frames; each says what its kind must.

    Raises:
        ProtocolError: If what comes is no legal frame, or too large for this host's memory.
        OSError: If the connection breaks or a frame stalls.
    """
    previous_s = 0.0
    unread = unread_bytes(connection)
    while (header := receive_header(connection, limits)) is not None:
        check_header(header)
        try:
            frame = receive_body(connection, header)
        except MemoryError:
            raise ProtocolError(f"no memory for a {header.kind.name} frame of {header.payload_bytes} bytes") from None
        check_frame(frame)
        received_s = now_s()
        handed_s = frame.meta.get("sent_s")
        # Of frames that follow each other closely, the head of one comes along with the tail of the one before.
        in_time = unread <= MOST_UNREAD * (HEADER.size + header.meta_bytes + header.payload_bytes)
        transfer_s = received_s - max(handed_s, previous_s) if in_time and isinstance(handed_s, float) else None
        previous_s = received_s
        yield Arrival(frame, received_s, transfer_s)
        unread = unread_bytes(connection)


class Writer:
    """Sends frames from a bounded mailbox on a thread of its own.

    Every frame gets the time when its sending began as ``meta["sent_s"]``, from which its receiver learns how long the
    transfer took.

    Args:
        connection: The socket; the writer shuts it down when sending fails, so that its reader notices too.
        depth: How many frames may wait.
        name: For the thread's name.
        on_sent: Called after each frame, on the writer's thread.
        on_error: Called once when sending failed, on the writer's thread.
        owns: Whether nobody else has to do with the connection: then the writer closes it at its own end, whereas one
            with a reader is closed by that.
    """

    def __init__(
        self,
        connection: socket.socket,
        *,
        depth: int,
        name: str,
        on_sent: Sent | None = None,
        on_error: Callable[[OSError], None] | None = None,
        owns: bool = False,
    ) -> None:
        self._connection = connection
        self._owns = owns
        self._waiting: Mailbox[Frame | Iterable[Frame]] = Mailbox(depth)
        self._on_sent = on_sent
        self._on_error = on_error
        self._failure: OSError | None = None
        threading.Thread(target=self._run, name=f"write {name}", daemon=True).start()

    @property
    def failure(self) -> OSError | None:
        """Why sending failed, if it did."""
        return self._failure

    def is_cut_off(self, after_s: float) -> bool:
        """Whether the peer has acknowledged nothing of what was sent for so long that the path must be broken."""
        return is_cut_off(self._connection, after_s)

    def put(self, item: Frame | Iterable[Frame]) -> None:
        """Queue a frame, or frames that are made as they are sent; blocks while the queue is full.

        Raises:
            Closed: If the connection has gone.
        """
        self._waiting.put(item)

    def offer(self, item: Frame | Iterable[Frame]) -> bool:
        """Queue without blocking; tells whether there was room and the connection lives."""
        return self._waiting.offer(item)

    def close(self) -> None:
        """Stop at once; frames that wait are dropped."""
        self._waiting.close()
        shut_down(self._connection)

    def _run(self) -> None:
        try:
            while True:
                item = self._waiting.get()
                for frame in (item,) if isinstance(item, Frame) else item:
                    began_s = now_s()
                    frame.meta = {**frame.meta, "sent_s": began_s}
                    send_frame(self._connection, frame)
                    if self._on_sent is not None:
                        self._on_sent(frame, began_s, now_s())
        except Closed:
            pass
        except OSError as error:
            self._failure = error
            self.close()
            if self._on_error is not None:
                self._on_error(error)
        finally:
            if self._owns:
                self._connection.close()


Serve = Callable[[socket.socket, Greeting], None]
"""Serves one peer until it has gone; may raise OSError, ProtocolError, and Closed when the peer can't be answered."""

SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
CROWDED_OUT = "shown out for others before it had greeted"
RECOVERY_S = 0.1
"""How long to accept nobody when descriptors or memory have run out."""


class Listener:
    """Accepts peers, each greeted and served on a thread of its own, so that a silent one holds up nobody.

    Args:
        address: Where to listen.
        token: The run's token.
        about: What admitted peers are told.
        roles: Who serves a peer that greets with this role. The connection is closed afterwards, however that ends.
        note: Told a line for people, and its topic, when a peer was turned away or its connection broke.
        patience: How long to wait for a peer.
        max_greetings: Peers that may be in their greeting at a time; see :class:`~testbed.serving.lobby.Lobby`.
    """

    def __init__(
        self,
        address: tuple[str, int],
        token: str,
        about: Mapping[str, Any],
        roles: Mapping[str, Serve],
        note: Callable[[str, str], None],
        *,
        patience: Patience = PATIENCE,
        max_greetings: int = 64,
    ) -> None:
        self._socket = socket.create_server(address, backlog=128)
        self._token = token
        self._about = about
        self._roles = roles
        self._note = note
        self._patience = patience
        self._lobby = Lobby(max_greetings)
        self._closed = threading.Event()
        threading.Thread(target=self._accept, name="listen", daemon=True).start()

    @property
    def port(self) -> int:
        """The port it listens on."""
        port: int = self._socket.getsockname()[1]
        return port

    def close(self) -> None:
        """Accept nobody any more."""
        self._closed.set()
        shut_down(self._socket)
        self._socket.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                connection, peer = self._socket.accept()
            except OSError as error:
                # accept() also tells of connections that broke while they waited, and of shortages that pass.
                if not self._closed.is_set() and error.errno in SHORTAGES:
                    self._note(f"nobody can be accepted: {error.strerror}", "accept")
                    self._closed.wait(RECOVERY_S)
                continue
            self._lobby.enter(connection, peer[0])
            try:
                threading.Thread(
                    target=self._meet, args=(connection, peer[0]), name=f"peer {peer[0]}", daemon=True
                ).start()
            except RuntimeError as error:  # no more threads
                self._note(f"{peer[0]}: {error}", "accept")
                self._lobby.leave(connection)
                connection.close()

    def _meet(self, connection: socket.socket, address: str) -> None:
        who = address
        try:
            prepare_socket(connection, self._patience)
            greeting = admit(connection, self._token, self._about, self._patience)
            if self._lobby.leave(connection):
                raise ConnectionAbortedError(CROWDED_OUT)
            who = f"{greeting.role} connection of {greeting.name}"
            serve = self._roles.get(greeting.role)
            if serve is None:
                raise ProtocolError("there is no such role")
            serve(connection, greeting)
        except (OSError, ProtocolError) as error:
            self._note(f"{who}: {CROWDED_OUT if self._lobby.leave(connection) else error}", who)
        except Closed:
            self._note(f"{who}: it ended while it was to be answered", who)
        finally:
            self._lobby.leave(connection)
            shut_down(connection)
            connection.close()

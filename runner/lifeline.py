"""The client's connection to the dispatcher, which comes back when it breaks.

The dispatcher may be killed and started again, or be cut off for a while. A closed connection is noticed at once, a
peer that went silently by the probes of TCP (:func:`testbed.serving.connection.prepare_socket`). Then the client
connects again, with pauses that double up to a bound, until it succeeds or is told to stop; and everything that has no
outcome yet is sent again. The dispatcher takes a request in once, however often it comes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
from collections.abc import Callable

from testbed.errors import ProtocolError
from testbed.serving.auth import Greeting
from testbed.serving.connection import Writer, arrivals, connect
from testbed.serving.mailbox import Closed
from testbed.serving.patience import Patience
from testbed.serving.wire import Frame, Limits

DEPTH = 64
HASTE = 4
"""A client has one peer to look for and people who wait, so it tries so many times as often as a dispatcher does."""

LIMITS = Limits(meta_bytes=1 << 20, payload_bytes=1 << 30)

Take = Callable[[Frame, float], None]
"""Told of each frame and when it was here, on the connection's thread; a ProtocolError ends the connection."""


class Lifeline:
    """One connection after the other.

    Args:
        address: The dispatcher's.
        token: The run's.
        name: The client's own.
        patience: How long to wait for the dispatcher, and between attempts to reach it.
        take: Takes what comes.
        resume: Called on a thread of its own whenever there is a new connection, but for the first.
        note: Told a line for people.
    """

    def __init__(
        self,
        address: tuple[str, int],
        token: str,
        name: str,
        patience: Patience,
        take: Take,
        resume: Callable[[], None],
        note: Callable[[str], None],
    ) -> None:
        self._address = address
        self._token = token
        self._greeting = Greeting("client", name)
        self._patience = patience
        self._take = take
        self._resume = resume
        self._note = note
        self._lock = threading.Lock()
        self._writer: Writer | None = None
        self._generation = 0
        self._stopped = threading.Event()

    @property
    def generation(self) -> int:
        """The number of the connection, from 1: what was sent on an earlier one may not have arrived."""
        with self._lock:
            return self._generation

    def open(self) -> None:
        """Connect for the first time.

        Raises:
            ProtocolError: If the peer doesn't follow the protocol.
            OSError: If the dispatcher can't be reached.
        """
        connection, _ = connect(self._address, self._token, self._greeting, self._patience)
        self._take_up(connection)
        threading.Thread(target=self._live, args=(connection,), name="answers", daemon=True).start()

    def send(self, frame: Frame, generation: int) -> None:
        """Send a frame on the connection of that number, if it is still the one; blocks while too much waits."""
        with self._lock:
            writer = self._writer if generation == self._generation else None
        if writer is not None:
            with contextlib.suppress(Closed):  # what has no outcome is sent again on the next connection
                writer.put(frame)

    def close(self) -> None:
        """Give the connection up and don't connect again."""
        self._stopped.set()
        with self._lock:
            writer = self._writer
        if writer is not None:
            writer.close()

    def _take_up(self, connection: socket.socket) -> None:
        writer = Writer(connection, depth=DEPTH, name="dispatcher")
        with self._lock:
            self._writer = writer
            self._generation += 1

    def _live(self, first: socket.socket) -> None:
        connection: socket.socket | None = first
        while connection is not None:
            with connection:
                reason = self._read(connection)
            with self._lock:
                writer, self._writer = self._writer, None
            if writer is not None:
                writer.close()
            if self._stopped.is_set():
                return
            self._note(f"lost the dispatcher: {reason}")
            connection = self._reconnect()

    def _read(self, connection: socket.socket) -> str:
        """Take what comes until the connection breaks; returns why."""
        try:
            for arrival in arrivals(connection, LIMITS):
                self._take(arrival.frame, arrival.received_s)
        except (OSError, ProtocolError) as error:
            return str(error)
        return "it closed the connection"

    def _reconnect(self) -> socket.socket | None:
        """The next connection; None if nobody wants it any more."""
        pause_s = self._patience.retry_s
        # A host that is off answers nothing: short attempts find it soon after it is back.
        patience = dataclasses.replace(self._patience, connect_s=self._patience.retry_most_s)
        while not self._stopped.wait(pause_s):
            pause_s = min(2 * pause_s, self._patience.retry_most_s / HASTE)
            try:
                connection, _ = connect(self._address, self._token, self._greeting, patience)
            except (OSError, ProtocolError):
                continue
            self._take_up(connection)
            self._note("reached the dispatcher again")
            threading.Thread(target=self._resume, name="resubmit", daemon=True).start()
            return connection
        return None

"""The data connections that come into a process, by the epoch that they belong to.

An epoch that has ended must not go on through a connection that somebody forgot to close: a host whose power was cut
never closes one, and a host that was paused wakes up with those of an epoch long past.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from testbed.errors import ProtocolError
from testbed.serving.connection import shut_down


class Inlets:
    """Open data connections; may be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._epoch = 0
        self._open: dict[socket.socket, int] = {}

    @property
    def epoch(self) -> int:
        """The latest epoch heard of."""
        with self._lock:
            return self._epoch

    @contextlib.contextmanager
    def admit(self, connection: socket.socket, epoch: int) -> Iterator[None]:
        """Hold a connection as open while the block runs.

        Raises:
            ProtocolError: If its epoch has been fenced off.
        """
        with self._lock:
            if epoch < self._epoch:
                raise ProtocolError(f"a connection of epoch {epoch}, which was fenced off by epoch {self._epoch}")
            self._open[connection] = epoch
        try:
            yield
        finally:
            with self._lock:
                del self._open[connection]

    def fence(self, epoch: int) -> None:
        """End the connections of earlier epochs, and admit no further ones."""
        with self._lock:
            self._epoch = max(epoch, self._epoch)
            for connection, its_epoch in self._open.items():
                if its_epoch < self._epoch:
                    shut_down(connection)

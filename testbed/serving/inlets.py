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
from testbed.serving.lobby import shut_down
from testbed.serving.tcp import silent_s


class Inlets:
    """Open data connections; may be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._epoch = 0
        self._open: dict[socket.socket, tuple[str, int]] = {}

    @property
    def epoch(self) -> int:
        """The latest epoch heard of."""
        with self._lock:
            return self._epoch

    @contextlib.contextmanager
    def admit(self, connection: socket.socket, peer: str, epoch: int) -> Iterator[None]:
        """Hold a peer's connection as open while the block runs.

        Raises:
            ProtocolError: If its epoch has been fenced off.
        """
        with self._lock:
            if epoch < self._epoch:
                raise ProtocolError(f"a connection of epoch {epoch}, which was fenced off by epoch {self._epoch}")
            self._open[connection] = peer, epoch
        try:
            yield
        finally:
            with self._lock:
                del self._open[connection]

    def fence(self, epoch: int) -> None:
        """End the connections of earlier epochs, and admit no further ones."""
        with self._lock:
            self._epoch = max(epoch, self._epoch)
            for connection, (_, its_epoch) in self._open.items():
                if its_epoch < self._epoch:
                    shut_down(connection)

    def heard(self, within_s: float) -> tuple[str, ...]:
        """Peers of which bytes have come in within this time, whether or not somebody has read them."""
        with self._lock:
            return tuple(
                sorted(
                    {
                        peer
                        for connection, (peer, _) in self._open.items()
                        if (silence_s := silent_s(connection)) is not None and silence_s <= within_s
                    }
                )
            )

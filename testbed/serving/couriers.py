"""Weights that travel ahead of need: chunks for a node's storage, over a connection of their own.

Copies for a standby must not slow the serving. They leave at a bounded pace (SO_MAX_PACING_RATE, which TCP keeps by
itself) and marked for throughput rather than delay, so what they take of a link is bounded whatever its queues do.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Mapping

from testbed.errors import ModelError, ProtocolError
from testbed.serving.auth import Greeting
from testbed.serving.connection import arrivals, connect
from testbed.serving.lobby import shut_down
from testbed.serving.messages import Post, Supplied
from testbed.serving.package import Package
from testbed.serving.patience import Patience
from testbed.serving.wire import Frame, FrameKind, Limits, send_frame

SUPPLY_LIMITS = Limits(meta_bytes=1 << 20, payload_bytes=0)
SO_MAX_PACING_RATE = 47
_THROUGHPUT = 0x08  # IP_TOS; SO_PRIORITY 2 (bulk) is what Linux derives from it


class Courier:
    """Brings chunks to a node that lacks them, on a thread of its own; posts :class:`Supplied` at the end.

    Args:
        host, address: The node.
        token, dispatcher: For the greeting.
        package: Where the chunks come from.
        sizes: The chunks to bring, and the bytes of each.
        pace_bps: Most bits a second; None means as fast as it goes.
        post: Takes the message.
        patience: How long to wait for the node.
    """

    def __init__(
        self,
        host: str,
        address: tuple[str, int],
        token: str,
        dispatcher: str,
        package: Package,
        sizes: Mapping[str, int],
        pace_bps: float | None,
        post: Post,
        patience: Patience,
    ) -> None:
        self._host = host
        self._address = address
        self._token = token
        self._greeting = Greeting("storage", dispatcher)
        self._package = package
        self._sizes = dict(sizes)
        self._pace_bps = pace_bps
        self._post = post
        self._patience = patience
        self._lock = threading.Lock()
        self._cancelled = False
        self._connection: socket.socket | None = None
        threading.Thread(target=self._run, name=f"supply {host}", daemon=True).start()

    def cancel(self) -> None:
        """Stop; what has arrived stays in the node's storage."""
        with self._lock:
            self._cancelled = True
            if self._connection is not None:
                shut_down(self._connection)

    def _run(self) -> None:
        sent_bytes, detail = 0, ""
        try:
            connection, _ = connect(self._address, self._token, self._greeting, self._patience)
            with contextlib.closing(connection):
                with self._lock:
                    self._connection = connection
                    if self._cancelled:
                        raise ConnectionAbortedError("cancelled")
                sent_bytes = self._supply(connection)
        except (OSError, ProtocolError, ModelError) as error:
            detail = str(error) or type(error).__name__
        with self._lock:
            self._connection = None
        self._post(Supplied(self, self._host, sent_bytes, detail))

    def _supply(self, connection: socket.socket) -> int:
        """Offer, hear what is wanted, send that, and wait until it is stored; returns the bytes sent."""
        connection.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, _THROUGHPUT)
        if self._pace_bps is not None:
            connection.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, max(1, round(self._pace_bps / 8)))
        send_frame(connection, Frame(FrameKind.KEEP, meta={"sizes": self._sizes}))
        sent_bytes = 0
        for arrival in arrivals(connection, SUPPLY_LIMITS):
            match arrival.frame.kind, arrival.frame.meta:
                case FrameKind.WANT, {"chunks": [*wanted]} if self._sizes.keys() >= set(map(str, wanted)):
                    for chunk_id in wanted:
                        data = self._package.chunk(chunk_id)
                        send_frame(connection, Frame(FrameKind.CHUNK, meta={"chunk": chunk_id}, payload=(data,)))
                        sent_bytes += len(data)
                case FrameKind.KEPT, _:
                    return sent_bytes
                case FrameKind.FAILED, {"reason": str(reason)}:
                    raise ProtocolError(reason)
                case kind, _:
                    raise ProtocolError(f"{kind.name} where chunks are to be stored")
        raise ConnectionResetError("closed its connection")

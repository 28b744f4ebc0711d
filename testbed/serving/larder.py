"""A node's side of weights that travel ahead of need: what a courier brings goes into the storage."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable

from testbed.errors import ProtocolError
from testbed.serving.connection import arrivals
from testbed.serving.store import ChunkStore, StorageFull, check_chunk_id
from testbed.serving.wire import Frame, FrameKind, Limits, send_frame


def stock(connection: socket.socket, store: ChunkStore, limits: Limits, stocked: Callable[[], None]) -> None:
    """Serve a courier until it closes the connection.

    Args:
        connection: The courier's.
        store: Where chunks go. Those that the present stage needs don't make room for them.
        limits: What the courier may send.
        stocked: Called when all that a KEEP named is stored.

    Raises:
        ProtocolError: If what comes is no legal frame, or not what was asked for.
        OSError: If the connection breaks.
    """
    sizes: dict[str, int] = {}
    missing: set[str] = set()
    for arrival in arrivals(connection, limits):
        frame = arrival.frame
        try:
            match frame.kind, frame.meta:
                case FrameKind.KEEP, {"sizes": dict(offered)}:
                    sizes = {check_chunk_id(chunk_id): int(size) for chunk_id, size in offered.items()}
                    held = store.holdings()
                    missing = sizes.keys() - held
                    send_frame(connection, Frame(FrameKind.WANT, meta={"chunks": sorted(missing)}))
                case FrameKind.CHUNK, {"chunk": str(chunk_id)} if chunk_id in missing:
                    if hashlib.sha256(frame.body).hexdigest() != chunk_id:
                        raise ProtocolError(f"chunk {chunk_id[:12]} is corrupt: its bytes have another digest")
                    if not store.write(chunk_id, frame.body, keep=sizes):
                        raise StorageFull("the storage can't be written")
                    missing.discard(chunk_id)
                case kind, _:
                    raise ProtocolError(f"{kind.name} on a storage connection")
        except (OSError, StorageFull) as error:
            send_frame(connection, Frame(FrameKind.FAILED, meta={"reason": str(error)[:500]}))
            return
        if not missing:
            stocked()
            send_frame(connection, Frame(FrameKind.KEPT))

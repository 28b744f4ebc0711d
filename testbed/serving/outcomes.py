"""Answers that were handed to a client's connection and that the client has not acknowledged."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from testbed.serving.wire import Frame

MOST_BYTES = 16 << 20
MOST_OUTCOMES = 4096


class Outcomes:
    """Kept in memory, for a request that comes again because its answer was lost with a connection.

    The oldest go when there are too many, and all of them with the dispatcher; a request that comes again then is
    computed again. Either way its client takes the first answer only.

    Args:
        most_bytes: Of the payloads kept.
        most: Of the answers kept.
    """

    def __init__(self, most_bytes: int = MOST_BYTES, most: int = MOST_OUTCOMES) -> None:
        self._most_bytes = most_bytes
        self._most = most
        self._frames: OrderedDict[int, Frame] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._frames)

    def keep(self, frame: Frame) -> None:
        """Keep an answer."""
        self._forget(frame.request_id)
        self._frames[frame.request_id] = frame
        self._bytes += frame.payload_bytes
        while self._bytes > self._most_bytes or len(self._frames) > self._most:
            self._forget(next(iter(self._frames)))

    def get(self, request_id: int) -> Frame | None:
        """The answer to a request; None if it isn't kept."""
        return self._frames.get(request_id)

    def acknowledge(self, request_ids: Iterable[int]) -> None:
        """Forget the answers that their client has seen."""
        for request_id in request_ids:
            self._forget(request_id)

    def _forget(self, request_id: int) -> None:
        frame = self._frames.pop(request_id, None)
        if frame is not None:
            self._bytes -= frame.payload_bytes

"""The dispatcher's ledger: every accepted request until its answer has been handed on.

A request is *waiting* or *in flight*. Fencing off an epoch puts everything in flight back in front of the waiting ones,
in the order of acceptance. An answer counts only if its request is in flight in the answer's own epoch; so late answers
of an old epoch and doubled ones fall through, and every request is answered at most once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from testbed.serving.wire import Buffer


@dataclass(slots=True)
class Request:
    """An accepted request.

    Attributes:
        id: Unique within the run.
        client: Who is to get the answer.
        tensors: Dtypes and shapes of the payload's tensors, as in frames.
        payload: The input.
        deadline_s: When it is to be rejected instead; None means never.
        attempts: How often it was sent into the pipeline.
        epoch: The epoch it is in flight in; None while it waits.
        journalled: Whether it is in the journal; until then it may be computed but not answered.
    """

    id: int
    client: str
    tensors: list[object]
    payload: Buffer = field(repr=False)
    deadline_s: float | None = None
    attempts: int = 0
    epoch: int | None = None
    journalled: bool = False


class Ledger:
    """Requests that have not been answered.

    Args:
        window: How many may be in flight.
        queue: How many more may wait.
    """

    def __init__(self, window: int, queue: int) -> None:
        self._window = window
        self._queue = queue
        self._waiting: OrderedDict[int, Request] = OrderedDict()
        self._in_flight: OrderedDict[int, Request] = OrderedDict()

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        """Requests in the pipeline."""
        return len(self._in_flight)

    def __contains__(self, request_id: int) -> bool:
        return request_id in self._waiting or request_id in self._in_flight

    def accept(self, request: Request) -> bool:
        """Take a request in; False if the queue is full. One that is here already is not taken twice."""
        if request.id in self:
            return True
        if len(self._waiting) + len(self._in_flight) >= self._window + self._queue:
            return False
        self._waiting[request.id] = request
        return True

    def restore(self, requests: Iterable[Request]) -> int:
        """Take in what an earlier dispatcher had accepted, before what waits and whatever the bounds; returns how many.

        Requests that are here already, because their client was faster, are not taken twice.
        """
        restored = {request.id: request for request in requests if request.id not in self}
        self._waiting = OrderedDict([*restored.items(), *self._waiting.items()])
        return len(restored)

    def journalled(self, request_id: int) -> None:
        """A request is in the journal."""
        request = self._waiting.get(request_id) or self._in_flight.get(request_id)
        if request is not None:
            request.journalled = True

    def remove(self, request_id: int) -> Request | None:
        """Take out a request that can't be kept; None if it isn't here."""
        return self._waiting.pop(request_id, None) or self._in_flight.pop(request_id, None)

    def send(self, epoch: int, *, unjournalled: bool = True) -> Iterator[Request]:
        """Move waiting requests into the window, oldest first, and yield each.

        Args:
            epoch: In which they are in flight then.
            unjournalled: Whether to send requests that are on their way into the journal; otherwise they are waited
                for.
        """
        while self._waiting and len(self._in_flight) < self._window:
            if not unjournalled and not next(iter(self._waiting.values())).journalled:
                return
            _, request = self._waiting.popitem(last=False)
            request.epoch = epoch
            request.attempts += 1
            self._in_flight[request.id] = request
            yield request

    def answer(self, request_id: int, epoch: int) -> Request | None:
        """Take out the request that an answer belongs to; None if the answer doesn't count."""
        request = self._in_flight.get(request_id)
        if request is None or request.epoch != epoch:
            return None
        del self._in_flight[request_id]
        return request

    def fence(self) -> int:
        """Put everything in flight back to the front of the queue; returns how many."""
        count = len(self._in_flight)
        for request in self._in_flight.values():
            request.epoch = None
        self._waiting = OrderedDict([*self._in_flight.items(), *self._waiting.items()])
        self._in_flight.clear()
        return count

    def next_deadline_s(self) -> float | None:
        """The earliest deadline of all requests."""
        deadlines = (r.deadline_s for r in (*self._waiting.values(), *self._in_flight.values()))
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def expire(self, now_s: float) -> list[Request]:
        """Take out every request whose deadline has passed."""
        expired = [
            request
            for request in (*self._waiting.values(), *self._in_flight.values())
            if request.deadline_s is not None and request.deadline_s <= now_s
        ]
        for request in expired:
            self._waiting.pop(request.id, None)
            self._in_flight.pop(request.id, None)
        return expired

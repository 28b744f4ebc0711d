"""The dispatcher's clients and their requests: taken in, sent into the pipeline, answered or rejected.

A part of the dispatcher: everything here runs on its one controlling thread.
"""

from __future__ import annotations

from collections.abc import Callable

from testbed.serving.connection import Writer
from testbed.serving.events import now_s
from testbed.serving.ledger import Ledger, Request
from testbed.serving.wire import Frame, FrameKind


class Requests:
    """Every request from its acceptance to its one outcome.

    Args:
        window: Most requests in flight.
        queue: Most requests that wait besides.
        note: Told a line for people.
    """

    def __init__(self, window: int, queue: int, note: Callable[[str], None]) -> None:
        self._ledger = Ledger(window, queue)
        self._note = note
        self._clients: dict[str, Writer] = {}
        self._pipeline: Writer | None = None
        self._epoch = 0
        self._state = ""

    # Clients ---------------------------------------------------------------------------------------------------------

    def join(self, client: str, writer: Writer) -> None:
        """A client has connected; it is told the service's state."""
        self._clients[client] = writer
        self._tell(writer)

    def leave(self, client: str) -> None:
        """A client has gone, and what it asked for with it."""
        self._clients.pop(client).close()
        self._ledger.forget_client(client)

    def tell(self, state: str) -> None:
        """Tell every client the service's state."""
        self._state = state
        for writer in self._clients.values():
            self._tell(writer)

    def _tell(self, client: Writer) -> None:
        client.offer(Frame(FrameKind.STATE, self._epoch, meta={"state": self._state}))

    # The pipeline ----------------------------------------------------------------------------------------------------

    def fence(self, epoch: int) -> int:
        """End the pipeline; its answers don't count in the new ``epoch``. Returns how many requests were in flight."""
        self._epoch = epoch
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None
        return self._ledger.fence()

    def flow(self, pipeline: Writer) -> None:
        """Send requests into a pipeline from now on."""
        self._pipeline = pipeline
        self._feed()

    def _feed(self) -> None:
        if self._pipeline is None:
            return
        for request in self._ledger.send(self._epoch):
            # A pipeline that has broken takes no more; its host will be reported as lost and the request sent again.
            self._pipeline.offer(
                Frame(FrameKind.DATA, self._epoch, request.id, {"tensors": request.tensors}, (request.payload,))
            )

    # Requests --------------------------------------------------------------------------------------------------------

    def submit(self, client: str, frame: Frame) -> None:
        """Take in a client's request, or reject it when too many wait."""
        within_s = frame.meta.get("deadline_s")
        request = Request(
            id=frame.request_id,
            client=client,
            tensors=list(frame.meta.get("tensors", ())),
            payload=frame.payload[0],
            deadline_s=now_s() + within_s if isinstance(within_s, float) else None,
        )
        if self._ledger.accept(request):
            self._feed()
        else:
            self._reject(request, "the queue is full")

    def answer(self, frame: Frame) -> None:
        """Hand an answer of the pipeline on, unless its epoch has been fenced off."""
        request = self._ledger.answer(frame.request_id, frame.epoch)
        if request is None:
            self._note(f"fenced off an answer to request {frame.request_id} of epoch {frame.epoch}")
            return
        meta = {
            "tensors": frame.meta.get("tensors"),
            "attempts": request.attempts,
            "epoch": frame.epoch,
            "path": [hop["host"] for hop in frame.meta.get("hops", [])],
        }
        self._reply(request, Frame(FrameKind.ANSWER, frame.epoch, request.id, meta, frame.payload))
        self._feed()

    def next_deadline_s(self) -> float | None:
        """When :meth:`expire` will have something to do; None if never."""
        return self._ledger.next_deadline_s()

    def expire(self) -> None:
        """Reject what is past its deadline."""
        for request in self._ledger.expire(now_s()):
            self._reject(request, "its deadline has passed")

    def _reject(self, request: Request, reason: str) -> None:
        meta = {"reason": reason, "attempts": request.attempts}
        self._reply(request, Frame(FrameKind.REJECTED, self._epoch, request.id, meta))

    def _reply(self, request: Request, frame: Frame) -> None:
        client = self._clients.get(request.client)
        if client is not None and not client.offer(frame):
            client.close()  # it doesn't read its answers

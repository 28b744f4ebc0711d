"""The dispatcher's clients and their requests: taken in, journalled, sent into the pipeline, answered or rejected.

A part of the dispatcher: everything here runs on its one controlling thread.

A client that has lost its connection submits again what it has no outcome of. A request that is still here is not taken
twice; of one that was answered the answer is kept until the client acknowledges it (with its next request), and is sent
again. Past the bounds of that, and in a dispatcher that was started since, such a request is new and is computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from testbed.serving.connection import Writer
from testbed.serving.events import now_s
from testbed.serving.ledger import Ledger, Request
from testbed.serving.outcomes import Outcomes
from testbed.serving.package import Package
from testbed.serving.scribe import Scribe
from testbed.serving.wire import Frame, FrameKind


class Requests:
    """Every request from its acceptance to its one outcome.

    Args:
        window: Most requests in flight.
        queue: Most requests that wait besides.
        package: The model, which says what its inputs are.
        scribe: Keeps the journal.
        note: Told a line for people, and its topic.
    """

    def __init__(
        self, window: int, queue: int, package: Package, scribe: Scribe, note: Callable[[str, str], None]
    ) -> None:
        self._ledger = Ledger(window, queue)
        self._package = package
        self._most_held = window + queue
        self._held: dict[int, tuple[Request, Frame]] = {}
        """Requests that are answered and not journalled yet, with their answers."""
        self._outcomes = Outcomes()
        self._scribe = scribe
        self._journal_fails = False
        self._restored = 0
        self._note = note
        self._clients: dict[str, Writer] = {}
        self._pipeline: Writer | None = None
        self._degraded = False
        self._epoch = 0
        self._state = ""

    # Clients ---------------------------------------------------------------------------------------------------------

    def join(self, client: str, writer: Writer) -> None:
        """A client has connected; it is told the service's state."""
        self._clients[client] = writer
        self._tell(writer)

    def leave(self, client: str, writer: Writer) -> None:
        """A client's connection has ended; what it asked for is kept, as it may come back."""
        writer.close()
        if self._clients.get(client) is writer:
            del self._clients[client]

    def tell(self, state: str) -> None:
        """Tell every client the service's state."""
        self._state = state
        for writer in self._clients.values():
            self._tell(writer)

    def _tell(self, client: Writer) -> None:
        client.offer(Frame(FrameKind.STATE, self._epoch, meta={"state": self._state}))

    # The journal -----------------------------------------------------------------------------------------------------

    def restore(self, requests: Iterable[Request]) -> None:
        """Take in what an earlier dispatcher had accepted and not answered."""
        self._restored = self._ledger.restore(requests)
        self._feed()

    def journalled(self, request_ids: Iterable[int]) -> None:
        """Requests are in the journal: they may be answered."""
        self._journal_fails = False
        for request_id in request_ids:
            if held := self._held.pop(request_id, None):
                self._deliver(*held)
            else:
                self._ledger.journalled(request_id)
        self._feed()

    def unjournalled(self, request_id: int, reason: str) -> None:
        """A request can't be journalled, so it is not accepted; until one can be, none is computed before it is."""
        self._journal_fails = True
        held = self._held.pop(request_id, None)
        request = held[0] if held else self._ledger.remove(request_id)
        if request is not None:
            self._reject(request, reason)

    # The pipeline ----------------------------------------------------------------------------------------------------

    def fence(self, epoch: int) -> int:
        """End the pipeline; its answers don't count in the new ``epoch``. Returns how many requests are sent again.

        Those are what was in flight, and what an earlier dispatcher had left.
        """
        self._epoch = epoch
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None
        restored, self._restored = self._restored, 0
        return restored + self._ledger.fence()

    def flow(self, pipeline: Writer, *, degraded: bool) -> None:
        """Send requests into a pipeline from now on.

        Args:
            pipeline: Its first stage.
            degraded: Whether some of the model's operations are left out; answers are marked then.
        """
        self._pipeline = pipeline
        self._degraded = degraded
        self._feed()

    def is_cut_off(self, after_s: float) -> bool:
        """Whether nothing has got through to the first stage for so long."""
        return self._pipeline is not None and self._pipeline.is_cut_off(after_s)

    def _feed(self) -> None:
        if self._pipeline is None:
            return
        for request in self._ledger.send(self._epoch, unjournalled=not self._journal_fails):
            # A pipeline that has broken takes no more; its host will be reported as lost and the request sent again.
            self._pipeline.offer(
                Frame(FrameKind.DATA, self._epoch, request.id, {"tensors": request.tensors}, (request.payload,))
            )

    # Requests --------------------------------------------------------------------------------------------------------

    @property
    def unanswered(self) -> int:
        """Requests that wait or are computed."""
        return self._ledger.waiting + self._ledger.in_flight

    def submit(self, client: str, frame: Frame) -> bool:
        """Take in a client's request, or reject it when too many wait or it isn't what the model takes.

        Returns:
            Whether it is asked for the first time, as far as is remembered.
        """
        if isinstance(seen := frame.meta.get("acknowledged"), list):
            self._outcomes.acknowledge(number for number in seen if isinstance(number, int))
        if (answer := self._outcomes.get(frame.request_id)) is not None:
            self._hand(client, answer)
            return False
        if frame.request_id in self._ledger or frame.request_id in self._held:
            return False
        within_s = frame.meta.get("deadline_s")
        request = Request(
            id=frame.request_id,
            client=client,
            tensors=list(frame.meta.get("tensors", ())),
            payload=frame.payload[0],
            deadline_s=now_s() + within_s if within_s is not None else None,
        )
        # A stage that can't take its input fails, and its host would be blamed: one bad request could end them all.
        if not self._package.describes_input(request.tensors, frame.payload_bytes):
            self._reject(request, "its tensors are not the model's inputs")
        elif len(self._held) >= self._most_held:
            self._reject(request, "the journal doesn't keep up")
        elif self._ledger.accept(request):
            self._feed()
            self._scribe.accept(request)
        else:
            self._reject(request, "the queue is full")
        return True

    def answer(self, frame: Frame) -> None:
        """Hand an answer of the pipeline on, unless its epoch has been fenced off."""
        request = self._ledger.answer(frame.request_id, frame.epoch)
        if request is None:
            self._note(f"fenced off an answer to request {frame.request_id} of epoch {frame.epoch}", "fenced")
            return
        meta = {
            "tensors": frame.meta.get("tensors"),
            "attempts": request.attempts,
            "epoch": frame.epoch,
            "path": [hop["host"] for hop in frame.meta.get("hops", [])],
            "degraded": self._degraded,
        }
        answer = Frame(FrameKind.ANSWER, frame.epoch, request.id, meta, frame.payload)
        if request.journalled:
            self._deliver(request, answer)
        else:
            self._held[request.id] = (request, answer)
        self._feed()

    def _deliver(self, request: Request, answer: Frame) -> None:
        self._outcomes.keep(answer)
        self._hand(request.client, answer)
        self._scribe.finish(request.id)

    def next_deadline_s(self) -> float | None:
        """When :meth:`expire` will have something to do; None if never."""
        return self._ledger.next_deadline_s()

    def expire(self) -> None:
        """Reject what is past its deadline."""
        for request in self._ledger.expire(now_s()):
            self._scribe.finish(request.id)
            self._reject(request, "its deadline has passed")

    def _reject(self, request: Request, reason: str) -> None:
        meta = {"reason": reason, "attempts": request.attempts}
        self._hand(request.client, Frame(FrameKind.REJECTED, self._epoch, request.id, meta))

    def _hand(self, client: str, frame: Frame) -> None:
        writer = self._clients.get(client)
        if writer is not None and not writer.offer(frame):
            writer.close()  # it doesn't read its answers

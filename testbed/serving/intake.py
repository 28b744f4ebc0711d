"""The stages that a node serves, and what waits for each of them: one processor, a bounded queue for every stage.

Nothing ever waits for its turn behind a request that can't be computed yet. Were there one queue for all stages, or did
the processor wait until an output can leave, hosts could wait for each other in a ring: this one's first stage for room
at the next host, whose output waits for room in front of this one's third stage. So each stage's input has a queue of
its own, which its own connection fills, and a request is taken only when its output will find room; of the stages that
can go on the last one does, which empties the pipeline from its end. The dispatcher takes every answer, so the last
stage always has room, and by induction every stage before it gets room.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from testbed.serving.computing import Stage
from testbed.serving.connection import Arrival, Writer
from testbed.serving.events import now_s

INBOX_DEPTH = 2
OUTBOX_DEPTH = 2
UNSENT = OUTBOX_DEPTH + 1
"""Outputs of a stage that are computed and not sent: what waits, and what is on its way."""


@dataclass(slots=True, eq=False)
class Slot:
    """A stage that a node serves in an epoch.

    Attributes:
        epoch: The epoch.
        index: The stage's place in the pipeline.
        stage: What is computed.
        next_host: Where its output goes.
        writer: Sends it; None until it is connected, and once the epoch is over.
        cut_off: Whether it was told that nothing gets through to the next host.
        waiting: Requests that have arrived.
        unsent: Outputs that were handed to the writer, or will be, and are not sent.
        room_s: Since when an output finds room.
    """

    epoch: int
    index: int
    stage: Stage
    next_host: str
    writer: Writer | None = None
    cut_off: bool = False
    waiting: deque[Arrival] = field(default_factory=deque)
    unsent: int = 0
    room_s: float = 0.0


def stage_of(arrival: Arrival) -> int:
    """The place in the pipeline of the stage that a request is for: as many as have computed it stand before."""
    return len(arrival.frame.meta.get("hops", ()))


class Intake:
    """The slots of one node, all of one epoch; may be used from any thread."""

    def __init__(self) -> None:
        self._slots: tuple[Slot, ...] = ()
        self._changed = threading.Condition()

    @property
    def slots(self) -> tuple[Slot, ...]:
        """What is served, in the pipeline's order; also after the epoch's end, until something else is."""
        return self._slots

    def serve(self, slots: Sequence[Slot]) -> None:
        """Serve these stages and no others."""
        with self._changed:
            self._end(self._slots)
            self._slots = tuple(sorted(slots, key=lambda slot: slot.index))
            self._changed.notify_all()

    def retire(self, epoch: int) -> None:
        """End the traffic of earlier epochs; the stages themselves stay until it is known whether they are needed."""
        with self._changed:
            self._end([slot for slot in self._slots if slot.epoch < epoch])
            self._changed.notify_all()

    def slot_for(self, arrival: Arrival) -> Slot | None:
        """The stage that a request is for; None if it isn't served here and now."""
        index, epoch = stage_of(arrival), arrival.frame.epoch
        found = (slot for slot in self._slots if slot.index == index and slot.epoch == epoch)
        return next((slot for slot in found if slot.writer is not None), None)

    def put(self, arrival: Arrival) -> bool:
        """Queue a request for its stage, once there is room; False if that isn't, or is no longer, served."""
        with self._changed:
            while (slot := self.slot_for(arrival)) is not None:
                if len(slot.waiting) < INBOX_DEPTH:
                    slot.waiting.append(arrival)
                    self._changed.notify_all()
                    return True
                self._changed.wait()
            return False

    def take(self) -> tuple[Arrival, float]:
        """Wait for a request whose output will find room, and since when it could have been computed."""
        with self._changed:
            while True:
                ready = [slot for slot in self._slots if slot.waiting and slot.unsent < UNSENT]
                if ready:
                    slot = ready[-1]
                    arrival = slot.waiting.popleft()
                    slot.unsent += 1
                    self._changed.notify_all()
                    return arrival, max(arrival.received_s, slot.room_s)
                self._changed.wait()

    def sent(self, epoch: int, index: int) -> None:
        """An output of a stage has left, or there is none: one more may be computed."""
        with self._changed:
            for slot in self._slots:
                if slot.epoch == epoch and slot.index == index:
                    if slot.unsent == UNSENT:
                        slot.room_s = now_s()
                    slot.unsent -= 1
            self._changed.notify_all()

    def _end(self, slots: Sequence[Slot]) -> None:
        for slot in slots:
            slot.waiting.clear()
            if slot.writer is not None:
                slot.writer.close()
                slot.writer = None

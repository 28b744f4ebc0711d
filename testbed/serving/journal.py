"""The dispatcher's journal: what must survive its death, append-only, in segments in a folder of its own storage.

Three kinds of records (:mod:`testbed.serving.records`): *standing* (epoch numbers up to here may be in use; the plan's
decision), *accepted* (a request, whole) and *finished* (ids of requests that are answered or rejected). Who holds which
weights is not journalled: the nodes tell that themselves when they are greeted.

What a dying dispatcher leaves is a last record without its end: it is cut off on opening, silently. Damage is told and
what is whole behind it is taken. A request lost with it comes again from its client, which keeps what it has no answer
to; an epoch number must not come again, so damage makes the numbers leap.

Segments bound the size. A new one begins with the standing; the oldest goes as soon as none of its requests is open,
and when too many are left the open requests of the oldest are copied to the end. What is left is what is open and a few
segments.

Durability: a record that was appended is with the kernel and survives the process (``kill -9``). :meth:`Journal.sync`
brings it to the disk; how often that happens is its caller's policy (:mod:`testbed.serving.scribe`).

No file is held open from one record to the next. So a disk that was taken away and came back is written again as soon
as it is there, and one can be made read-only, which no kernel does to a file that is open for writing.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from testbed.planning.plan import Assignment
from testbed.serving.ledger import Request
from testbed.serving.records import Kind, Record, encode, scan
from testbed.serving.wire import Buffer

SEGMENT_BYTES = 8 << 20
MOST_CLOSED = 3
"""Closed segments before the open requests of the oldest are copied to the end."""

EPOCH_BLOCK = 16
"""Epoch numbers are journalled so many at a time, so that a recovery need not wait for a disk."""

EPOCH_LEAP = 1000
"""Numbers that are left out when some of the journal is damaged: the record of the last block may be lost."""

_SEGMENT = re.compile(r"(\d{8})\.journal")


@dataclass(frozen=True, slots=True)
class Standing:
    """What a dispatcher that starts again takes up.

    Attributes:
        epoch_limit: Epoch numbers up to this one may have been used.
        decision: The last plan's; None if there was none.
    """

    epoch_limit: int = 0
    decision: tuple[Assignment, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "epoch_limit": self.epoch_limit,
            "decision": None if self.decision is None else [[a.host, a.first, a.last] for a in self.decision],
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Standing:
        """The standing that :meth:`to_json` made plain."""
        decision = plain["decision"]
        return cls(
            epoch_limit=int(plain["epoch_limit"]),
            decision=None if decision is None else tuple(Assignment(*one) for one in decision),
        )


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was in a journal on opening.

    Attributes:
        standing: As the last dispatcher left it, past any damage.
        requests: Those that are accepted and not finished, in the order of acceptance.
        damage: What could not be read, for people.
    """

    standing: Standing
    requests: tuple[Request, ...]
    damage: tuple[str, ...]


class Journal:
    """The journal of one dispatcher; opening it recovers what the last one left.

    Every method that writes raises OSError when the disk doesn't take it, and the journal is then as it was before: the
    caller may try again. :meth:`sync` may be called from another thread. Nothing has to be closed.

    Args:
        folder: Its own; made if it doesn't exist.
        segment_bytes: Size from which on a segment is followed by a new one.

    Attributes:
        recovered: What was in it.

    Raises:
        OSError: If it can't be read or written.
    """

    def __init__(self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._lock = threading.Lock()
        self._open: dict[int, int] = {}  # request → the segment that its record is in
        self._serial = 0
        self._written: set[int] = set()  # numbers of segments with something that is not on the disk
        self._closed: list[int] = []  # numbers of segments, oldest first
        self._standing = Standing()
        self._end = 0  # of the last record
        self._torn = False  # whether there may be bytes behind it
        folder.mkdir(parents=True, exist_ok=True)
        numbers = sorted(int(found[1]) for path in folder.iterdir() if (found := _SEGMENT.fullmatch(path.name)))
        self.recovered = self._recover(numbers)
        self._closed = numbers[:-1]
        self._number = numbers[-1] if numbers else 0
        with self._opened() as fd:
            os.ftruncate(fd, self._end)
        _sync(self._folder)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08}.journal"

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """The last segment's descriptor for writing; the segment is made if there is none."""
        fd = os.open(self._path(self._number), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield fd
        finally:
            os.close(fd)

    # Reading ---------------------------------------------------------------------------------------------------------

    def _recover(self, numbers: Sequence[int]) -> Recovered:
        requests: dict[int, tuple[int, Request]] = {}
        damage: list[str] = []
        for number in numbers:
            found = scan(self._path(number).read_bytes())
            damage += [f"{self._path(number).name}: {what}" for what in found.damage]
            if found.torn and number != numbers[-1]:
                damage.append(f"{self._path(number).name}: its last record was cut off")
            for record in found.records:
                self._replay(record, number, requests)
            self._end = found.end
        if damage:
            self._standing = replace(self._standing, epoch_limit=self._standing.epoch_limit + EPOCH_LEAP)
        in_order = sorted(requests.values(), key=lambda numbered: numbered[0])
        self._serial = in_order[-1][0] + 1 if in_order else 0
        return Recovered(self._standing, tuple(request for _, request in in_order), tuple(damage))

    def _replay(self, record: Record, number: int, requests: dict[int, tuple[int, Request]]) -> None:
        meta = record.meta
        match record.kind:
            case Kind.STANDING:
                standing = Standing.from_json(meta)
                self._standing = replace(standing, epoch_limit=max(self._standing.epoch_limit, standing.epoch_limit))
            case Kind.ACCEPTED:
                request = Request(
                    id=meta["id"],
                    client=meta["client"],
                    tensors=meta["tensors"],
                    payload=bytes(record.payload),
                    deadline_s=meta["deadline_s"],
                    journalled=True,
                )
                requests[request.id] = (meta["serial"], request)
                self._open[request.id] = number
            case Kind.FINISHED:
                for request_id in meta["ids"]:
                    requests.pop(request_id, None)
                    self._open.pop(request_id, None)

    # Writing ---------------------------------------------------------------------------------------------------------

    @property
    def segments(self) -> int:
        """How many segments there are."""
        return len(self._closed) + 1

    @property
    def standing(self) -> Standing:
        """As journalled last."""
        return self._standing

    def stand(self, standing: Standing) -> None:
        """Journal what the next dispatcher has to take up."""
        self._append(*encode(Kind.STANDING, standing.to_json()))
        self._standing = standing

    def accept(self, request: Request) -> None:
        """Journal a request; its payload must not change afterwards."""
        meta = {
            "id": request.id,
            "serial": self._serial,
            "client": request.client,
            "tensors": request.tensors,
            "deadline_s": request.deadline_s,
        }
        self._append(*encode(Kind.ACCEPTED, meta, request.payload))
        self._serial += 1
        self._open[request.id] = self._number

    def finish(self, request_ids: Collection[int]) -> None:
        """Journal that requests are answered or rejected; those that aren't open are left out."""
        finished = [request_id for request_id in request_ids if request_id in self._open]
        if not finished:
            return
        self._append(*encode(Kind.FINISHED, {"ids": finished}))
        for request_id in finished:
            del self._open[request_id]
        self._drop_finished()

    def sync(self) -> None:
        """Bring everything that was appended to the disk.

        Raises:
            OSError: If the disk doesn't take it.
        """
        with self._lock:
            numbers = set(self._written)
            self._written.clear()
        try:
            for number in sorted(numbers):
                self._sync_segment(number)
        except OSError:
            with self._lock:
                self._written |= numbers
            raise

    def _append(self, head: bytes, payload: Buffer) -> None:
        if self._end >= self._segment_bytes:
            self._rotate()
        self._write((head, payload))

    def _write(self, parts: Sequence[Buffer]) -> None:
        """Put bytes behind the last record, all or none."""
        with self._opened() as fd:
            if self._torn:
                os.ftruncate(fd, self._end)
                self._torn = False
            pending = [memoryview(part).cast("B") for part in parts if len(part)]
            at = self._end
            try:
                while pending:
                    count = os.pwritev(fd, pending, at)
                    at += count
                    while pending and count >= len(pending[0]):
                        count -= len(pending.pop(0))
                    if count:
                        pending[0] = pending[0][count:]
            except OSError:
                self._torn = at > self._end
                raise
        self._end = at
        with self._lock:
            self._written.add(self._number)

    # Segments --------------------------------------------------------------------------------------------------------

    def _rotate(self) -> None:
        """Go on in a new segment, which begins with the standing and the open requests of a segment too many."""
        number = self._number + 1
        before = (self._number, self._end, self._torn)
        # What a change that failed may have left of this segment is cut off like a torn record.
        self._number, self._end, self._torn = number, 0, True
        try:
            self._write(encode(Kind.STANDING, self._standing.to_json()))
            copied = [] if len(self._closed) < MOST_CLOSED else self._copy_open(self._closed[0])
            _sync(self._path(number))  # before anything that it replaces is removed
        except OSError:
            with self._lock:
                self._written.discard(number)
            self._number, self._end, self._torn = before
            with contextlib.suppress(OSError):
                self._path(number).unlink()
            raise
        self._open.update(dict.fromkeys(copied, number))
        self._closed.append(before[0])
        self._drop_finished()
        self._settle(before[0])
        _sync(self._folder)

    def _copy_open(self, number: int) -> list[int]:
        """Append the records of a segment's open requests; returns their ids."""
        copied = []
        data = self._path(number).read_bytes()
        for record in scan(data).records:
            if record.kind is Kind.ACCEPTED and self._open.get(record.meta["id"]) == number:
                self._write((memoryview(data)[record.start : record.end],))
                copied.append(record.meta["id"])
        return copied

    def _settle(self, number: int) -> None:
        """Bring a segment that gets no more records to the disk; one that was dropped never gets there."""
        with self._lock:
            unsynced = number in self._written
            self._written.discard(number)
        if unsynced and number in self._closed:
            self._sync_segment(number)

    def _sync_segment(self, number: int) -> None:
        with contextlib.suppress(FileNotFoundError):  # nobody needs it any more, or it has gone with its disk
            _sync(self._path(number))

    def _drop_finished(self) -> None:
        """Remove the oldest segments as long as none of their requests is open.

        Only from the oldest on: a later one may say that a request of an earlier one is finished.
        """
        needed = min(self._open.values(), default=self._number)
        with contextlib.suppress(OSError):  # it can wait
            while self._closed and self._closed[0] < needed:
                self._path(self._closed[0]).unlink(missing_ok=True)
                del self._closed[0]


def _sync(path: Path) -> None:
    """Bring a file, or what a folder lists, to the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

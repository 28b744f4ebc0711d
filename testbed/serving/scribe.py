"""Keeps the dispatcher's journal on a thread of its own, so that nobody ever waits for a disk who need not.

A request is handed to the scribe and into the pipeline at the same time; its answer is held until the request is
journalled (:class:`~testbed.serving.messages.Journalled`). So the disk costs a request nothing as long as it is faster
than the pipeline. A request that the journal doesn't take comes back with the reason
(:class:`~testbed.serving.messages.Unjournalled`) and is rejected.

What is journalled is with the kernel and survives the process. The disk itself is synced at most every
:data:`SYNC_PERIOD_S` (group commit), on another thread: a power cut may cost the requests of so long and of one sync
more, which come again from their clients. Only epoch numbers are synced before they are used, a block ahead.

What can't be read or written now is tried again every :data:`RETRY_S`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from testbed.planning.plan import Assignment
from testbed.serving.events import now_s
from testbed.serving.journal import EPOCH_BLOCK, Journal, Standing
from testbed.serving.ledger import Request
from testbed.serving.messages import EpochsReserved, Journalled, JournalOpened, JournalUnready, Post, Unjournalled

SYNC_PERIOD_S = 0.5
"""What is answered and dropped within it never costs the disk anything."""
RETRY_S = 0.1
_LAST = 19
"""Nice value of the journal's thread."""


@dataclass(frozen=True, slots=True)
class _Finished:
    request_id: int


@dataclass(frozen=True, slots=True)
class _Adopted:
    decision: tuple[Assignment, ...]


@dataclass(frozen=True, slots=True)
class _Reserved:
    epoch: int


_Work = Request | _Finished | _Adopted | _Reserved


class Scribe:
    """The journal of a running dispatcher.

    What it finds out is posted: :class:`JournalOpened` once (after :class:`JournalUnready` where that can't be yet),
    for each request :class:`Journalled` or :class:`Unjournalled`, and :class:`EpochsReserved` whenever more epoch
    numbers may be used.

    Args:
        folder: The journal's.
        post: Takes its messages.
        note: Told a line for people when trouble begins and when it ends.
    """

    def __init__(self, folder: Path, post: Post, note: Callable[[str], None]) -> None:
        self._folder = folder
        self._post = post
        self._note = note
        self._changed = threading.Condition()
        self._work: list[_Work] = []
        self._unsynced = threading.Event()
        # Of the journal's thread alone:
        self._journal: Journal | None = None
        self._finished: set[int] = set()
        self._standing = Standing()
        self._reserved = 0
        self._next_try_s = 0.0
        self._trouble = ""
        threading.Thread(target=self._run, name="journal", daemon=True).start()

    def accept(self, request: Request) -> None:
        """Journal a request."""
        self._give(request)

    def finish(self, request_id: int) -> None:
        """Journal that a request is answered or rejected; nobody is told, as nothing waits for it."""
        self._give(_Finished(request_id))

    def adopt(self, decision: tuple[Assignment, ...]) -> None:
        """Journal the plan in force, for the next dispatcher to take up."""
        self._give(_Adopted(decision))

    def reserve(self, epoch: int) -> None:
        """See to it that the numbers of this epoch and of some after it are journalled."""
        self._give(_Reserved(epoch))

    def _give(self, work: _Work) -> None:
        with self._changed:
            self._work.append(work)
            self._changed.notify()

    # The journal's thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        # Whoever sends or receives comes first: a request is computed for longer than it takes to journal it.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LAST)
        while True:
            journal = self._open()
            with self._changed:
                self._changed.wait_for(lambda: bool(self._work), RETRY_S if self._owes else None)
                work, self._work = self._work, []
            if journal is None:
                self._refuse(work)
            else:
                self._write(journal, work)

    @property
    def _owes(self) -> bool:
        """Whether something waits to be tried again."""
        return (
            self._journal is None
            or bool(self._finished)
            or self._standing != self._journal.standing
            or self._standing.epoch_limit > self._reserved
        )

    def _open(self) -> Journal | None:
        if self._journal is not None:
            return self._journal
        if now_s() < self._next_try_s:
            return None
        try:
            journal = Journal(self._folder)
            recovered = journal.recovered
            journal.stand(replace(recovered.standing, epoch_limit=recovered.standing.epoch_limit + EPOCH_BLOCK))
            journal.sync()
        except OSError as error:
            self._next_try_s = now_s() + RETRY_S
            self._suffer(error)
            self._post(JournalUnready(self._trouble))
            return None
        self._trouble = ""
        self._journal = journal
        self._standing = journal.standing
        self._reserved = self._standing.epoch_limit
        for what in recovered.damage:
            self._note(f"the journal is damaged: {what}")
        self._post(JournalOpened(recovered, self._reserved))
        threading.Thread(target=self._sync, args=(journal,), name="journal sync", daemon=True).start()
        return journal

    def _refuse(self, work: Sequence[_Work]) -> None:
        """What can't be journalled because there is no journal: no request is finished then and no plan adopted."""
        for item in work:
            if isinstance(item, Request):
                self._post(Unjournalled(item.id, self._trouble))

    def _write(self, journal: Journal, work: Sequence[_Work]) -> None:
        journalled = []
        for item in work:
            match item:
                case Request():
                    self._finished.discard(item.id)  # it came again
                    if self._tried(journal.accept, item):
                        journalled.append(item.id)
                    else:
                        self._post(Unjournalled(item.id, self._trouble))
                case _Finished(request_id):
                    self._finished.add(request_id)
                case _Adopted(decision):
                    self._standing = replace(self._standing, decision=decision)
                case _Reserved(epoch):
                    if epoch + EPOCH_BLOCK // 2 > self._standing.epoch_limit:
                        self._standing = replace(self._standing, epoch_limit=epoch + EPOCH_BLOCK)
        if journalled:
            self._post(Journalled(tuple(journalled)))
        if self._finished and self._tried(journal.finish, tuple(self._finished)):
            self._finished.clear()
        self._write_standing(journal)
        self._unsynced.set()

    def _write_standing(self, journal: Journal) -> None:
        if self._standing != journal.standing and not self._tried(journal.stand, self._standing):
            return
        limit = journal.standing.epoch_limit
        if limit > self._reserved and self._tried(journal.sync):
            self._reserved = limit
            self._post(EpochsReserved(limit))

    def _tried(self, write: Callable[..., None], *arguments: object) -> bool:
        try:
            write(*arguments)
        except OSError as error:
            self._suffer(error)
            return False
        if self._trouble:
            self._trouble = ""
            self._note("the journal takes records again")
        return True

    def _suffer(self, error: OSError) -> None:
        trouble = f"the journal can't be written: {error.strerror or error}"
        if trouble != self._trouble:
            self._trouble = trouble
            self._note(trouble)

    def _sync(self, journal: Journal) -> None:
        """The thread that brings to the disk what was written; the pause makes one sync of many requests."""
        pause = threading.Event()
        failed = False
        while True:
            self._unsynced.wait()
            pause.wait(SYNC_PERIOD_S)
            self._unsynced.clear()
            try:
                journal.sync()
            except OSError as error:
                if not failed:
                    self._note(f"the journal can't be brought to the disk: {error.strerror or error}")
                failed = True
            else:
                failed = False

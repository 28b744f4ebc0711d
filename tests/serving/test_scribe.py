"""The thread that keeps the journal: what it posts, and what it does while the disk fails."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import pytest

from testbed.planning.plan import Assignment
from testbed.serving import scribe as module
from testbed.serving.journal import EPOCH_BLOCK, Journal
from testbed.serving.ledger import Request
from testbed.serving.messages import EpochsReserved, Journalled, JournalOpened, JournalUnready, Unjournalled
from testbed.serving.scribe import Scribe

TIMEOUT_S = 20.0


def request(number: int) -> Request:
    return Request(id=number, client="c", tensors=[], payload=b"input")


class Office:
    """A scribe and what it posts."""

    def __init__(self, folder: Path) -> None:
        self._posted: queue.Queue[Any] = queue.Queue()
        self.notes: queue.Queue[str] = queue.Queue()
        self.scribe = Scribe(folder, self._posted.put, self.notes.put)

    def next(self, kind: type[Any]) -> Any:
        found = self._posted.get(timeout=TIMEOUT_S)
        assert isinstance(found, kind), found
        return found


def test_requests_are_journalled_in_the_order_of_events(tmp_path: Path) -> None:
    office = Office(tmp_path)
    opened = office.next(JournalOpened)
    assert (opened.recovered.requests, opened.epoch_limit) == ((), EPOCH_BLOCK)
    for number in range(3):
        office.scribe.accept(request(number))
    done: list[int] = []
    while len(done) < 3:
        done += office.next(Journalled).request_ids
    assert done == [0, 1, 2]
    office.scribe.finish(1)
    office.scribe.adopt((Assignment("node1", 0, 4),))
    office.scribe.reserve(EPOCH_BLOCK)
    assert office.next(EpochsReserved).limit == 2 * EPOCH_BLOCK
    recovered = Journal(tmp_path).recovered
    assert [one.id for one in recovered.requests] == [0, 2]
    assert recovered.standing.epoch_limit == 2 * EPOCH_BLOCK
    assert recovered.standing.decision == (Assignment("node1", 0, 4),)


def test_epochs_begin_above_all_that_may_be_in_use(tmp_path: Path) -> None:
    assert Office(tmp_path).next(JournalOpened).recovered.standing.epoch_limit == 0
    again = Office(tmp_path).next(JournalOpened)
    assert (again.recovered.standing.epoch_limit, again.epoch_limit) == (EPOCH_BLOCK, 2 * EPOCH_BLOCK)


def test_what_a_disk_refuses_is_told_and_tried_again_where_it_must(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    office = Office(tmp_path)
    office.next(JournalOpened)
    office.scribe.accept(request(1))
    office.next(Journalled)

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(Journal, "_write", refuse)
        office.scribe.accept(request(2))
        refused = office.next(Unjournalled)
        assert (refused.request_id, refused.reason) == (2, "the journal can't be written: No space left on device")
        assert office.notes.get(timeout=TIMEOUT_S) == refused.reason
        office.scribe.finish(1)
        office.scribe.reserve(EPOCH_BLOCK)
        office.scribe.accept(request(3))
        assert office.next(Unjournalled).request_id == 3
    assert office.next(EpochsReserved).limit == 2 * EPOCH_BLOCK
    assert office.notes.get(timeout=TIMEOUT_S) == "the journal takes records again"
    office.scribe.accept(request(4))
    office.next(Journalled)
    assert [one.id for one in Journal(tmp_path).recovered.requests] == [4]


def test_a_journal_that_cannot_be_opened_refuses_until_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.05)
    folder = tmp_path / "journal"
    folder.write_text("in the way")
    office = Office(folder)
    assert "File exists" in office.next(JournalUnready).reason
    office.scribe.accept(request(1))
    seen = office._posted.get(timeout=TIMEOUT_S)
    while isinstance(seen, JournalUnready):
        seen = office._posted.get(timeout=TIMEOUT_S)
    assert isinstance(seen, Unjournalled)
    folder.unlink()
    while not isinstance(seen := office._posted.get(timeout=TIMEOUT_S), JournalOpened):
        assert isinstance(seen, JournalUnready)
    assert seen.recovered.requests == ()


def test_what_was_written_reaches_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: queue.Queue[None] = queue.Queue()
    sync = Journal.sync

    def watched(journal: Journal) -> None:
        sync(journal)
        synced.put(None)

    monkeypatch.setattr(Journal, "sync", watched)
    office = Office(tmp_path)
    office.next(JournalOpened)
    synced.get(timeout=TIMEOUT_S)  # the epochs, before they are used
    office.scribe.accept(request(1))
    office.next(Journalled)
    synced.get(timeout=TIMEOUT_S)

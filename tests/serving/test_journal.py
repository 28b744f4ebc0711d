"""The dispatcher's journal: what was appended comes back, whatever happens to the end of the file."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.planning.plan import Assignment
from testbed.serving.journal import EPOCH_LEAP, MOST_CLOSED, Journal, Recovered, Standing
from testbed.serving.ledger import Request
from testbed.serving.records import encode, scan


def request(number: int, size: int = 40, deadline_s: float | None = None) -> Request:
    payload = bytes((number + i) % 256 for i in range(size))
    return Request(
        id=number, client="c", tensors=[["uint8", [size]]], payload=payload, deadline_s=deadline_s, journalled=True
    )


def reopened(folder: Path) -> Recovered:
    return Journal(folder).recovered


def ids(recovered: Recovered) -> list[int]:
    return [one.id for one in recovered.requests]


def only_segment(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("accept"), st.integers(0, 12)),
        st.tuples(st.just("finish"), st.integers(0, 12)),
        st.tuples(st.just("stand"), st.integers(1, 50)),
    ),
    min_size=1,
    max_size=25,
)


class Model:
    """What a journal should know after each step; requests in the order of their last acceptance."""

    def __init__(self) -> None:
        self.open: dict[int, int] = {}
        self.epoch_limit = 0

    def take(self, journal: Journal, verb: str, number: int) -> None:
        match verb:
            case "accept":
                journal.accept(request(number, 30 + number))
                self.open.pop(number, None)
                self.open[number] = number
            case "finish":
                journal.finish([number])
                self.open.pop(number, None)
            case "stand":
                journal.stand(Standing(max(self.epoch_limit, number)))
                self.epoch_limit = max(self.epoch_limit, number)

    @property
    def state(self) -> tuple[list[int], int]:
        return list(self.open), self.epoch_limit


def build(folder: Path, steps: Sequence[tuple[str, int]], segment_bytes: int = 1 << 20) -> list[tuple[list[int], int]]:
    """Take the steps; the journal's state before the first and after each of them."""
    model = Model()
    states = [model.state]
    journal = Journal(folder, segment_bytes=segment_bytes)
    for verb, number in steps:
        model.take(journal, verb, number)
        states.append(model.state)
    return states


def state(recovered: Recovered) -> tuple[list[int], int]:
    return ids(recovered), recovered.standing.epoch_limit


def test_what_was_accepted_and_not_finished_comes_back_whole(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    assert journal.recovered == Recovered(Standing(), (), ())
    sent = [request(n, deadline_s=12.5 if n == 3 else None) for n in range(5)]
    for one in sent:
        journal.accept(one)
    journal.finish([1, 4, 77])
    standing = Standing(32, (Assignment("node1", 0, 3), Assignment("node2", 3, 7)))
    journal.stand(standing)
    journal.sync()
    recovered = reopened(tmp_path / "j")
    assert recovered == Recovered(standing, (sent[0], sent[2], sent[3]), ())


@settings(max_examples=60, deadline=None)
@given(STEPS, st.data())
def test_any_truncation_recovers_a_prefix_and_goes_on(steps: list[tuple[str, int]], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        states = build(folder, steps)
        path = only_segment(folder)
        whole = path.read_bytes()
        cut = data.draw(st.integers(0, len(whole)))
        os.truncate(path, cut)
        records = len(scan(whole[:cut]).records)
        recovered = reopened(folder)
        assert recovered.damage == ()
        # A step that changed nothing wrote no record, so prefixes are counted in records.
        written = [0]
        for (verb, number), before in zip(steps, states, strict=False):
            written.append(written[-1] + (verb != "finish" or number in before[0]))
        assert state(recovered) == states[max(i for i, count in enumerate(written) if count == records)]
        journal = Journal(folder)
        journal.accept(request(99))
        again = reopened(folder)
        assert again.damage == ()
        assert ids(again) == [*ids(recovered), 99]


@settings(max_examples=120, deadline=None)
@given(STEPS, st.data())
def test_a_flipped_byte_is_told_and_costs_no_other_record(steps: list[tuple[str, int]], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder, [*steps, ("accept", 3)])
        path = only_segment(folder)
        whole = bytearray(path.read_bytes())
        before = scan(bytes(whole)).records
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(whole)
        found = scan(bytes(whole))
        assert [record.start for record in found.records] == [r.start for r in before if not r.start <= at < r.end]
        assert len(found.damage) == 1
        recovered = reopened(folder)
        assert recovered.damage
        assert recovered.standing.epoch_limit >= EPOCH_LEAP


@settings(max_examples=60, deadline=None)
@given(STEPS, st.integers(1, 300))
def test_segments_and_compaction_keep_exactly_what_is_open(steps: list[tuple[str, int]], segment_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        *_, (open_requests, epoch_limit) = build(folder, steps, segment_bytes)
        recovered = reopened(folder)
        assert sorted(ids(recovered)) == sorted(open_requests)
        assert recovered.standing.epoch_limit == epoch_limit
        for one in recovered.requests:
            assert one == request(one.id, 30 + one.id)


def test_the_size_is_bounded_by_what_is_open(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=1000)
    journal.accept(request(0, 300))  # stays open all the time
    for number in range(1, 300):
        journal.accept(request(number, 300))
        journal.finish([number])
        assert journal.segments <= MOST_CLOSED + 1
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) < (MOST_CLOSED + 2) * 2000
    assert ids(reopened(tmp_path)) == [0]


def test_requests_come_back_in_the_order_of_acceptance_also_after_compaction(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=500)
    for number in (9, 2, 5):
        journal.accept(request(number, 300))
    for number in range(100, 140):
        journal.accept(request(number, 300))
        journal.finish([number])
    assert ids(reopened(tmp_path)) == [9, 2, 5]


def test_a_segment_that_was_made_and_never_written_is_none(tmp_path: Path) -> None:
    build(tmp_path, [("stand", 7), ("accept", 1)])
    (tmp_path / "00000001.journal").touch()
    recovered = reopened(tmp_path)
    assert state(recovered) == ([1], 7)
    assert recovered.damage == ()


class Disk:
    """A disk that takes so many bytes more, then fails as it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._pwritev = os.pwritev
        self.room: int | None = None
        self.error = errno.ENOSPC
        monkeypatch.setattr("testbed.serving.journal.os.pwritev", self.write)

    def write(self, fd: int, parts: Sequence[memoryview], at: int) -> int:
        if self.room is None:
            return self._pwritev(fd, parts, at)
        data = b"".join(parts)[: self.room]
        if not data:
            raise OSError(self.error, os.strerror(self.error))
        self.room -= len(data)
        return self._pwritev(fd, [data], at)


@pytest.mark.parametrize("room", [0, 1, 100])
def test_a_full_disk_refuses_the_record_and_leaves_the_journal_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    disk = Disk(monkeypatch)
    journal = Journal(tmp_path)
    journal.accept(request(1))
    disk.room = room
    with pytest.raises(OSError, match="No space left"):
        journal.accept(request(2, 500))
    with pytest.raises(OSError, match="No space left"):
        journal.finish([1])
    disk.room = None
    journal.accept(request(3, 20))
    recovered = reopened(tmp_path)
    assert ids(recovered) == [1, 3]
    assert recovered.damage == ()


def test_a_disk_that_fills_up_during_a_change_of_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    journal = Journal(tmp_path, segment_bytes=200)
    journal.stand(Standing(5))
    journal.accept(request(1, 300))
    disk.room = 50
    with pytest.raises(OSError, match="No space left"):
        journal.accept(request(2))
    disk.room = None
    journal.accept(request(3))
    assert journal.segments == 2
    assert state(reopened(tmp_path)) == ([1, 3], 5)


def test_no_file_stays_open_so_that_a_disk_can_be_made_read_only_or_be_replaced(tmp_path: Path) -> None:
    folder, gone = tmp_path / "j", tmp_path / "gone"
    journal = Journal(folder, segment_bytes=500)
    for number in range(4):
        journal.accept(request(number, 200))
        open_files = {os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()}
        assert not any(path.startswith(str(folder)) for path in open_files)
    folder.rename(gone)
    with pytest.raises(FileNotFoundError):
        journal.accept(request(4))
    folder.mkdir()
    journal.accept(request(5))
    journal.sync()
    assert ids(reopened(folder)) == [5]


def test_a_folder_that_cannot_be_made_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory"):
        Journal(tmp_path / "file" / "journal")


def test_a_tail_of_zeros_is_damage_and_not_a_torn_record(tmp_path: Path) -> None:
    build(tmp_path, [("stand", 4), ("accept", 1)])
    with only_segment(tmp_path).open("ab") as file:
        file.write(bytes(4096))
    recovered = reopened(tmp_path)
    assert ids(recovered) == [1]
    assert len(recovered.damage) == 1
    assert recovered.standing.epoch_limit == 4 + EPOCH_LEAP


def test_a_record_of_an_unknown_kind_is_damage() -> None:
    whole = b"".join(bytes(part) for part in encode(1, {}))  # type: ignore[arg-type]
    strange = b"".join(bytes(part) for part in encode(9, {"a": 1}, b"xyz"))  # type: ignore[arg-type]
    found = scan(whole + strange + whole)
    assert len(found.records) == 2
    assert len(found.damage) == 1

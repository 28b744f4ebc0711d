"""A node's storage: within its capacity, checked at every reading, and never the end of a stage when its disk fails."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from testbed.errors import ProtocolError
from testbed.serving.store import ChunkStore, StorageFull


def chunk(number: int, size: int = 100) -> tuple[str, bytes]:
    data = (number + 1).to_bytes(4, "big") + bytes(size - 4)
    return hashlib.sha256(data).hexdigest(), data


CHUNKS = [chunk(number) for number in range(6)]
IDS = [chunk_id for chunk_id, _ in CHUNKS]


class Disk:
    """Fails writing as a real one does, at will."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails: int | None = None
        self.room_bytes: int | None = None
        self._write: Callable[[Path, bytes], int] = Path.write_bytes
        monkeypatch.setattr(Path, "write_bytes", lambda path, data: self.write(path, data))

    def write(self, path: Path, data: bytes) -> int:
        if self.fails is not None:
            raise OSError(self.fails, os.strerror(self.fails), str(path))
        used_bytes = sum(found.stat().st_size for found in path.parent.iterdir())
        if self.room_bytes is not None and used_bytes + len(data) > self.room_bytes:
            self._write(path, data[: self.room_bytes - used_bytes])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return self._write(path, data)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
def told() -> list[str]:
    return []


def fill(store: ChunkStore, count: int) -> None:
    for chunk_id, data in CHUNKS[:count]:
        assert store.write(chunk_id, data)


def on_disk(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_was_written_is_read_also_after_a_restart(tmp_path: Path) -> None:
    fill(ChunkStore(tmp_path / "a" / "b"), 3)
    again = ChunkStore(tmp_path / "a" / "b")
    assert [again.read(chunk_id) for chunk_id in IDS[:4]] == [*(data for _, data in CHUNKS[:3]), None]
    assert again.used_bytes == 300


def test_a_chunk_written_twice_counts_once(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path, 250)
    fill(store, 2)
    fill(store, 2)
    assert store.used_bytes == 200
    assert on_disk(tmp_path) == set(IDS[:2])


def test_the_longest_unused_make_room_and_what_is_needed_stays(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path, 300)
    fill(store, 3)
    store.read(IDS[0])
    store.write(*CHUNKS[3])
    assert on_disk(tmp_path) == {IDS[0], IDS[2], IDS[3]}
    store.write(*CHUNKS[4], keep={IDS[2]})
    assert on_disk(tmp_path) == {IDS[2], IDS[3], IDS[4]}


def test_a_stage_over_the_capacity_does_not_fit(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path, 300)
    fill(store, 3)
    with pytest.raises(StorageFull, match=r"300 bytes of storage, 300 of them in use"):
        store.write(*CHUNKS[3], keep=set(IDS))
    assert on_disk(tmp_path) == set(IDS[:3])


def test_a_damaged_chunk_is_missing_and_told(tmp_path: Path, told: list[str]) -> None:
    store = ChunkStore(tmp_path, tell=lambda text, _: told.append(text))
    fill(store, 2)
    (tmp_path / IDS[0]).write_bytes(bytes(100))
    assert store.read(IDS[0]) is None
    assert store.read(IDS[1]) == CHUNKS[1][1]
    for _ in range(2):
        store.tell_damage()
    assert told == ["1 chunks in the storage are damaged: their bytes have other hashes"]
    assert on_disk(tmp_path) == {IDS[1]}
    assert store.write(*CHUNKS[0])
    assert store.read(IDS[0]) == CHUNKS[0][1]


def test_a_full_disk_takes_what_fits_and_no_more(tmp_path: Path, disk: Disk, told: list[str]) -> None:
    store = ChunkStore(tmp_path, 10_000, lambda text, over: told.append(f"{text}{' (over)' * over}"))
    fill(store, 2)
    disk.room_bytes = 250
    assert store.write(*CHUNKS[2], keep={IDS[1]})
    assert on_disk(tmp_path) == {IDS[1], IDS[2]}
    assert not told
    assert not store.write(*CHUNKS[3], keep=set(IDS))
    assert on_disk(tmp_path) == {IDS[1], IDS[2]}  # nothing half written either
    assert told == ["the storage can't be written: No space left on device; weights are in memory only"]
    disk.room_bytes = None
    assert store.write(*CHUNKS[3], keep=set(IDS))
    assert told[1:] == ["the storage can be written again (over)"]


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO])
def test_a_disk_that_fails_is_told_once_and_spares_the_rest(
    number: int, tmp_path: Path, disk: Disk, told: list[str]
) -> None:
    store = ChunkStore(tmp_path, tell=lambda text, _: told.append(text))
    fill(store, 2)
    disk.fails = number
    assert not store.write(*CHUNKS[2])
    assert not store.write(*CHUNKS[3])
    assert told == [f"the storage can't be written: {os.strerror(number)}; weights are in memory only"]
    assert store.read(IDS[0]) == CHUNKS[0][1]
    assert store.read(IDS[2]) is None
    assert store.used_bytes == 200
    disk.fails = None
    assert store.write(*CHUNKS[2])


def test_a_disk_that_cannot_be_read_at_all(tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    store = ChunkStore(tmp_path / "weights", tell=lambda text, _: told.append(text))
    fill(store, 1)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as gone:
        for name in ("read_bytes", "write_bytes", "iterdir", "unlink"):
            gone.setattr(Path, name, fail)
        assert store.read(IDS[0]) is None
        assert not store.write(*CHUNKS[1])
        restarted: list[str] = []
        assert ChunkStore(tmp_path / "weights", tell=lambda text, _: restarted.append(text)).read(IDS[0]) is None
    assert [line.partition(":")[0] for line in told] == ["the storage can't be read", "the storage can't be written"]
    assert len(restarted) == 1
    assert store.read(IDS[0]) == CHUNKS[0][1]


def test_a_disk_that_comes_back_without_the_folder(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path / "weights")
    fill(store, 1)
    (tmp_path / "weights" / IDS[0]).unlink()
    (tmp_path / "weights").rmdir()
    assert store.read(IDS[0]) is None
    fill(store, 2)
    assert store.used_bytes == 200


def test_no_other_file_name_becomes_a_path(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path / "weights")
    for name in ("../secret", "x" * 64, IDS[0].upper(), ""):
        with pytest.raises(ProtocolError):
            store.read(name)
        with pytest.raises(ProtocolError):
            store.write(name, b"")
    assert on_disk(tmp_path) == {"weights"}

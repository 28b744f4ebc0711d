"""A node's own storage: chunks of weights by their content hash, within a capacity.

A node computes with what it holds in memory; its storage only spares the network a second transfer. So a disk that
fails never fails a stage: what can't be read is fetched again, what can't be written is not kept. Whatever is read back
is checked against its hash, so a damaged file counts as missing; for that reason nothing is synced, and a power cut may
cost a chunk but never an answer. When room is needed, chunks that the current stage doesn't use go first, longest
unused first. That holds for the node's capacity, which a stage must fit, and for a disk that is full of other things,
which it need not.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import threading
from collections.abc import Callable, Collection
from pathlib import Path

from testbed.errors import ProtocolError

_CHUNK_ID = re.compile(r"[0-9a-f]{64}")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class StorageFull(Exception):  # noqa: N818 - a state of the storage, handled by the caller
    """The chunks that are needed don't fit into the storage."""


def is_chunk_id(value: object) -> bool:
    """Whether it is 64 hexadecimal digits."""
    return isinstance(value, str) and _CHUNK_ID.fullmatch(value) is not None


def check_chunk_id(chunk_id: str) -> str:
    """The id, if it is one: it becomes a file name.

    Raises:
        ProtocolError: If it is not 64 hexadecimal digits.
    """
    if not is_chunk_id(chunk_id):
        raise ProtocolError(f"{chunk_id[:80]!r} is no chunk id")
    return chunk_id


class ChunkStore:
    """Chunks in a folder, one file each.

    Args:
        folder: Made if it doesn't exist.
        capacity_bytes: None means unlimited.
        tell: Told for people, and whether it is good news, each change of what ails the disk, and of damage found.
    """

    def __init__(
        self, folder: Path, capacity_bytes: int | None = None, tell: Callable[[str, bool], None] = lambda *_: None
    ) -> None:
        self._folder = folder
        self._capacity_bytes = capacity_bytes
        self._tell = tell
        self._trouble: str | None = None
        self._damaged = 0
        self._lock = threading.Lock()
        self._pinned: frozenset[str] = frozenset()
        self._sizes: dict[str, int] = {}
        try:
            self._sizes = self._found()
        except OSError as error:
            self._ails("read", error)

    @property
    def used_bytes(self) -> int:
        """Bytes of all chunks."""
        return sum(self._sizes.values())

    def holdings(self) -> frozenset[str]:
        """Ids of all chunks; whether each is undamaged shows when it is read."""
        with self._lock:
            return frozenset(self._sizes)

    def pin(self, chunk_ids: Collection[str]) -> None:
        """From now on these, and no others but those that a write names, must not make room for what is written."""
        with self._lock:
            self._pinned = frozenset(chunk_ids)

    def read(self, chunk_id: str) -> bytes | None:
        """A chunk, or None if it isn't here, can't be read or is damaged."""
        check_chunk_id(chunk_id)
        with self._lock:
            if chunk_id not in self._sizes:
                return None
            try:
                data = (self._folder / chunk_id).read_bytes()
            except FileNotFoundError:
                del self._sizes[chunk_id]
                return None
            except OSError as error:
                self._ails("read", error)
                return None
            if hashlib.sha256(data).hexdigest() != chunk_id:
                self._damaged += 1
                self._drop(chunk_id)
                return None
            self._sizes[chunk_id] = self._sizes.pop(chunk_id)  # the last one was used last
            return data

    def tell_damage(self) -> None:
        """Tell how many damaged chunks were found since the last time, if any."""
        with self._lock:
            count, self._damaged = self._damaged, 0
        if count:
            self._tell(f"{count} chunks in the storage are damaged: their bytes have other hashes", False)

    def write(self, chunk_id: str, data: bytes | bytearray | memoryview, keep: Collection[str] = ()) -> bool:
        """Keep a chunk whose hash was checked.

        Args:
            chunk_id: Its id.
            data: Its bytes.
            keep: Chunks that must not make room for it.

        Returns:
            Whether it is kept; not if the disk fails, or is full of what isn't this storage's.

        Raises:
            StorageFull: If the capacity doesn't hold it beside the chunks to keep.
        """
        check_chunk_id(chunk_id)
        with self._lock:
            return self._write(chunk_id, data, {chunk_id, *keep})

    def _write(self, chunk_id: str, data: bytes | bytearray | memoryview, keep: Collection[str]) -> bool:
        self._make_room(len(data) - self._sizes.get(chunk_id, 0), keep)
        while True:
            try:
                self._put(chunk_id, data)
            except OSError as error:
                if error.errno in _FULL and (oldest := self._oldest(keep)) is not None:
                    self._drop(oldest)
                    continue
                self._ails("written", error)
                return False
            self._sizes[chunk_id] = len(data)
            if self._trouble is not None:
                self._trouble = None
                self._tell("the storage can be written again", True)
            return True

    def _found(self) -> dict[str, int]:
        """The chunks that are there already, the longest unused first."""
        self._folder.mkdir(parents=True, exist_ok=True)
        chunks = [path for path in self._folder.iterdir() if _CHUNK_ID.fullmatch(path.name)]
        stats = sorted(((path.stat(), path.name) for path in chunks), key=lambda found: found[0].st_mtime_ns)
        return {name: stat.st_size for stat, name in stats}

    def _put(self, chunk_id: str, data: bytes | bytearray | memoryview) -> None:
        path = self._folder / chunk_id
        partial = path.with_suffix(".part")
        try:
            try:
                partial.write_bytes(data)
            except FileNotFoundError:
                # A disk that was away may come back without a folder that was made shortly before.
                self._folder.mkdir(parents=True, exist_ok=True)
                partial.write_bytes(data)
            partial.rename(path)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise

    def _drop(self, chunk_id: str) -> None:
        del self._sizes[chunk_id]
        try:
            (self._folder / chunk_id).unlink(missing_ok=True)
        except OSError as error:
            self._ails("written", error)

    def _oldest(self, keep: Collection[str]) -> str | None:
        return next((name for name in self._sizes if name not in keep and name not in self._pinned), None)

    def _make_room(self, needed_bytes: int, keep: Collection[str]) -> None:
        if self._capacity_bytes is None:
            return
        while self.used_bytes + needed_bytes > self._capacity_bytes:
            oldest = self._oldest(keep)
            if oldest is None:
                raise StorageFull(
                    f"a chunk of {needed_bytes} bytes doesn't fit: {self._capacity_bytes} bytes of storage, "
                    f"{self.used_bytes} of them in use"
                )
            self._drop(oldest)

    def _ails(self, what: str, error: OSError) -> None:
        """Say it once; a disk that fails does so at every chunk."""
        trouble = f"the storage can't be {what}: {os.strerror(error.errno) if error.errno else error}"
        if trouble != self._trouble:
            self._trouble = trouble
            self._tell(f"{trouble}; weights are in memory only", False)

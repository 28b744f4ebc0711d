"""A node's own storage: chunks of weights by their content hash, within a capacity.

Whatever is read back is checked against its hash, so a damaged file counts as missing and is fetched again; for that
reason nothing is synced, and a power cut may cost a chunk but never an answer. When room
is needed, chunks that the current stage doesn't use go first, longest unused first.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Collection
from pathlib import Path

from testbed.errors import ProtocolError

_CHUNK_ID = re.compile(r"[0-9a-f]{64}")


class StorageFull(Exception):  # noqa: N818 - a state of the storage, handled by the caller
    """The chunks that are needed don't fit into the storage."""


def check_chunk_id(chunk_id: str) -> str:
    """The id, if it is one: it becomes a file name.

    Raises:
        ProtocolError: If it is not 64 hexadecimal digits.
    """
    if not _CHUNK_ID.fullmatch(chunk_id):
        raise ProtocolError(f"{chunk_id[:80]!r} is no chunk id")
    return chunk_id


class ChunkStore:
    """Chunks in a folder, one file each.

    May be used from several threads.

    Args:
        folder: Made if it doesn't exist.
        capacity_bytes: None means unlimited.
    """

    def __init__(self, folder: Path, capacity_bytes: int | None = None) -> None:
        self._folder = folder
        self._capacity_bytes = capacity_bytes
        self._lock = threading.Lock()
        self._pinned: frozenset[str] = frozenset()
        folder.mkdir(parents=True, exist_ok=True)
        self._sizes = {
            path.name: path.stat().st_size
            for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
            if _CHUNK_ID.fullmatch(path.name)
        }

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
        """A chunk, or None if it isn't here or its file is damaged."""
        with self._lock:
            if check_chunk_id(chunk_id) not in self._sizes:
                return None
            path = self._folder / chunk_id
            try:
                data = path.read_bytes()
            except OSError:
                data = b""
            if hashlib.sha256(data).hexdigest() != chunk_id:
                path.unlink(missing_ok=True)
                del self._sizes[chunk_id]
                return None
            self._sizes[chunk_id] = self._sizes.pop(chunk_id)  # the last one was used last
            return data

    def write(self, chunk_id: str, data: bytes | bytearray | memoryview, keep: Collection[str] = ()) -> None:
        """Keep a chunk whose hash was checked.

        Args:
            chunk_id: Its id.
            data: Its bytes.
            keep: Chunks that must not make room for it.

        Raises:
            StorageFull: If it doesn't fit beside the chunks to keep.
            OSError: If the storage can't be written.
        """
        with self._lock:
            check_chunk_id(chunk_id)
            self._make_room(len(data), keep)
            path = self._folder / chunk_id
            partial = path.with_suffix(".part")
            partial.write_bytes(data)
            partial.rename(path)
            self._sizes[chunk_id] = len(data)

    def _make_room(self, needed_bytes: int, keep: Collection[str]) -> None:
        if self._capacity_bytes is None:
            return
        excess = self.used_bytes + needed_bytes - self._capacity_bytes
        for chunk_id in [name for name in self._sizes if name not in keep and name not in self._pinned]:
            if excess <= 0:
                return
            (self._folder / chunk_id).unlink(missing_ok=True)
            excess -= self._sizes.pop(chunk_id)
        if excess > 0:
            raise StorageFull(
                f"a chunk of {needed_bytes} bytes doesn't fit: {self._capacity_bytes} bytes of storage, "
                f"{self.used_bytes} of them in use"
            )

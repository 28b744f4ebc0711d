"""The records of the dispatcher's journal.

A record is a header of 28 bytes, a JSON object (meta) and a payload::

    offset  size  field
         0     4  magic, b"EIJ1"
         4     1  kind
         5     3  zero
         8     4  length of meta, big-endian, as all numbers
        12     8  length of the payload
        20     4  CRC-32 of meta and payload
        24     4  CRC-32 of the 24 bytes before

The header has a checksum of its own, so that a damaged length is not taken for a record that was cut off. Whatever
doesn't fit its checksum is *damage*: it is skipped, and the next whole record is looked for.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from testbed.serving.wire import Buffer

MAGIC = b"EIJ1"
HEADER = struct.Struct("!4sB3xIQI")
CHECKSUM = struct.Struct("!I")
HEAD_BYTES = HEADER.size + CHECKSUM.size


class Kind(IntEnum):
    """What a record says."""

    STANDING = 1
    ACCEPTED = 2
    FINISHED = 3


_KINDS = frozenset(Kind)


@dataclass(frozen=True, slots=True)
class Record:
    """A whole record, and the bytes ``start``..``end`` where it stands."""

    kind: Kind
    meta: Mapping[str, Any]
    payload: memoryview
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Scan:
    """What a segment holds.

    Attributes:
        records: Its whole records, in order.
        end: Where the next one may be appended; what is behind is no record.
        torn: Whether it ends with a record that was cut off.
        damage: For each run of bytes that is no record, where it is and what is wrong.
    """

    records: tuple[Record, ...]
    end: int
    torn: bool
    damage: tuple[str, ...]


def encode(kind: Kind, meta: Mapping[str, Any], payload: Buffer = b"") -> tuple[bytes, Buffer]:
    """A record: header and meta, and its payload."""
    said = json.dumps(meta, separators=(",", ":")).encode()
    head = HEADER.pack(MAGIC, kind, len(said), len(payload), zlib.crc32(payload, zlib.crc32(said)))
    return head + CHECKSUM.pack(zlib.crc32(head)) + said, payload


def _lengths(data: memoryview, at: int) -> tuple[int, int, int, int] | None:
    """Kind, both lengths and checksum of the header at ``at``; None if there is no whole, sound one."""
    head = data[at : at + HEADER.size]
    check = data[at + HEADER.size : at + HEAD_BYTES]
    if len(check) < CHECKSUM.size or CHECKSUM.unpack(check)[0] != zlib.crc32(head):
        return None
    magic, kind, meta_bytes, payload_bytes, checksum = HEADER.unpack(head)
    return (kind, meta_bytes, payload_bytes, checksum) if magic == MAGIC and kind in _KINDS else None


def scan(data: bytes) -> Scan:
    """The records of a segment, past whatever is damaged."""
    view = memoryview(data)
    records: list[Record] = []
    damage: list[str] = []
    at = 0
    while at < len(view):
        lengths = _lengths(view, at)
        if lengths is None:
            rest = bytes(view[at : at + len(MAGIC)])
            if len(view) - at < HEAD_BYTES and MAGIC.startswith(rest):
                return Scan(tuple(records), at, True, tuple(damage))
            following = data.find(MAGIC, at + 1)
            while following >= 0 and _lengths(view, following) is None:
                following = data.find(MAGIC, following + 1)
            until = following if following >= 0 else len(view)
            damage.append(f"{until - at} bytes at {at} are no record")
            if following < 0:
                break
            at = following
            continue
        kind, meta_bytes, payload_bytes, checksum = lengths
        body = at + HEAD_BYTES
        end = body + meta_bytes + payload_bytes
        if end > len(view):
            return Scan(tuple(records), at, True, tuple(damage))
        if zlib.crc32(view[body:end]) == checksum:
            meta = json.loads(bytes(view[body : body + meta_bytes]))
            records.append(Record(Kind(kind), meta, view[body + meta_bytes : end], at, end))
        else:
            damage.append(f"the record of {end - at} bytes at {at} doesn't fit its checksum")
        at = end
    return Scan(tuple(records), at, False, tuple(damage))

"""What a frame of each kind must say in its meta, and how long its payload may be.

A connection checks every frame as it arrives, so that whoever handles it never meets a word where a number should be:
what is malformed ends the connection that it came on and nothing else. Further keys are legal and ignored.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from testbed.errors import ProtocolError
from testbed.model.chunks import CHUNK_BYTES
from testbed.model.program import MAX_JSON_BYTES
from testbed.serving.store import is_chunk_id
from testbed.serving.wire import Frame, FrameKind, Header

MOST_HOPS = 1024
MOST_CHUNKS = 1 << 20
MOST_SECONDS = 1e9

Check = Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a kind of frame.

    Attributes:
        required: What each key's value must be.
        optional: The same of keys that may be missing.
        payload_bytes: Most bytes of the payload; None leaves it to the connection's limits.
    """

    required: Mapping[str, Check] = field(default_factory=dict)
    optional: Mapping[str, Check] = field(default_factory=dict)
    payload_bytes: int | None = 0


def is_text(value: Any) -> bool:
    """A text that can be encoded: JSON can spell halves of characters, which can't."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def is_count(value: Any) -> bool:
    """An integer of at most 63 bits, not below 0."""
    return type(value) is int and 0 <= value < 1 << 63


def is_number(value: Any) -> bool:
    """A finite number; JSON can spell others."""
    return type(value) in (int, float) and -MOST_SECONDS <= value <= MOST_SECONDS and math.isfinite(value)


def is_flag(value: Any) -> bool:
    """True or false, and no number."""
    return isinstance(value, bool)


def is_duration(value: Any) -> bool:
    """Seconds, not below 0."""
    return is_number(value) and value >= 0


def is_endpoint(value: Any) -> bool:
    """An IP address, never a name that somebody would have to resolve, and a port."""
    if not (isinstance(value, list) and len(value) == 2 and is_text(value[0]) and type(value[1]) is int):
        return False
    try:
        ipaddress.ip_address(value[0])
    except ValueError:
        return False
    return 0 < value[1] < 1 << 16


def optional(check: Check) -> Check:
    """Null, or what the check says."""
    return lambda value: value is None or check(value)


def list_of(check: Check, most: int) -> Check:
    """A list of at most so many items, each as the check says."""
    return lambda value: isinstance(value, list) and len(value) <= most and all(map(check, value))


def is_list(value: Any) -> bool:
    """Any list; what tensors are is checked where they are unpacked."""
    return isinstance(value, list)


_HOP: Mapping[str, Check] = {
    "host": is_text,
    "stage": is_count,
    "bytes": is_count,
    "transfer_s": optional(is_number),
    "received_s": is_number,
    "started_s": is_number,
    "finished_s": is_number,
    "compute_s": is_duration,
}


_STAGE: Mapping[str, Check] = {
    "stage": is_count,
    "first_op": is_count,
    "last_op": is_count,
    "next_host": is_text,
    "next_address": is_endpoint,
    "program_bytes": is_count,
    "manifest_bytes": is_count,
}


def _has(value: Any, checks: Mapping[str, Check]) -> bool:
    return isinstance(value, dict) and all(key in value and check(value[key]) for key, check in checks.items())


def is_hop(value: Any) -> bool:
    """What a node tells of a request that passed it."""
    return _has(value, _HOP)


def is_stage(value: Any) -> bool:
    """What a node is told of a stage that it is to serve."""
    return _has(value, _STAGE)


def is_sizes(value: Any) -> bool:
    """Bytes of chunks by their ids."""
    return isinstance(value, dict) and all(is_chunk_id(key) and is_count(size) for key, size in value.items())


SHAPES: Mapping[FrameKind, Shape] = {
    FrameKind.CHALLENGE: Shape({"nonce": is_text}),
    FrameKind.HELLO: Shape({"role": is_text, "name": is_text, "epoch": is_count, "mac": is_text}),
    FrameKind.WELCOME: Shape({"mac": is_text}),
    FrameKind.PREPARE: Shape({"stages": list_of(is_stage, MOST_HOPS)}, payload_bytes=2 * MAX_JSON_BYTES),
    FrameKind.WANT: Shape({"chunks": list_of(is_chunk_id, MOST_CHUNKS)}),
    FrameKind.CHUNK: Shape({"chunk": is_chunk_id}, payload_bytes=CHUNK_BYTES),
    FrameKind.READY: Shape({}, {"bytes": is_count, "transfer_s": is_duration}),
    FrameKind.FAILED: Shape({"reason": is_text}, {"suspect": is_text}),
    FrameKind.DATA: Shape({"tensors": is_list}, {"hops": list_of(is_hop, MOST_HOPS)}, None),
    FrameKind.SUBMIT: Shape(
        {"tensors": is_list},
        {"deadline_s": optional(is_duration), "acknowledged": list_of(is_count, MOST_CHUNKS)},
        None,
    ),
    FrameKind.ANSWER: Shape(
        {"tensors": is_list},
        {"attempts": is_count, "epoch": is_count, "path": list_of(is_text, MOST_HOPS), "degraded": is_flag},
        None,
    ),
    FrameKind.REJECTED: Shape({"reason": is_text}, {"attempts": is_count}),
    FrameKind.STATE: Shape({"state": is_text}),
    FrameKind.HOLDINGS: Shape({"chunks": list_of(is_chunk_id, MOST_CHUNKS)}),
    FrameKind.KEEP: Shape({"sizes": is_sizes}),
    FrameKind.KEPT: Shape(),
    FrameKind.LEAVE: Shape(),
    FrameKind.RELEASED: Shape(),
    FrameKind.FENCED: Shape(),
}
_ANY = Shape()
_ALWAYS: Mapping[str, Check] = {"sent_s": is_number}


def check_header(header: Header) -> None:
    """Before a frame's body is received.

    Raises:
        ProtocolError: If its payload is longer than any of its kind.
    """
    most = SHAPES.get(header.kind, _ANY).payload_bytes
    if most is not None and header.payload_bytes > most:
        raise ProtocolError(f"{header.kind.name} frame with a payload of {header.payload_bytes} bytes; at most {most}")


def check_frame(frame: Frame) -> None:
    """Once a frame is here.

    Raises:
        ProtocolError: If its meta doesn't say what a frame of its kind must, each in its type.
    """
    shape = SHAPES.get(frame.kind, _ANY)
    for checks in (shape.required, shape.optional, _ALWAYS):
        for key, check in checks.items():
            if key not in frame.meta:
                if checks is shape.required:
                    raise ProtocolError(f"{frame.kind.name} frame without {key!r}")
            elif not check(frame.meta[key]):
                raise ProtocolError(f"{frame.kind.name} frame whose {key!r} is {str(frame.meta[key])!r:.80}")

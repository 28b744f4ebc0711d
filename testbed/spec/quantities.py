"""Types of the experiment file's scalars: quantities with units, names, paths.

In a file a quantity is text with a unit (``20Mbit/s``). Objects built in Python take plain numbers in the unit that the
attribute's name carries. Validation knows the difference by its context: `FileContext` means that a file is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ValidationInfo, WithJsonSchema

from testbed.units import (
    DURATION_UNITS,
    FREQUENCY_UNITS,
    LENGTH_UNITS,
    POWER_UNITS,
    RATE_UNITS,
    SIZE_UNITS,
    UnitError,
    format_duration,
    format_frequency,
    format_length,
    format_power,
    format_rate,
    format_size,
    parse_duration,
    parse_fraction,
    parse_frequency,
    parse_length,
    parse_power,
    parse_rate,
    parse_size,
)

MAX_NAME_LENGTH = 10  # Linux limits an interface's name to 15 characters; Mininet adds "-eth0"
MAX_TAG_LENGTH = 32
_NUMBER = r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?"
_NODE_NAME = r"[A-Za-z][A-Za-z0-9_-]*"
_PACKETS = re.compile(r"\s*(?P<count>[0-9]{1,9})\s*packets?\s*")
_RUN_NAME = r"[a-z0-9][a-z0-9-]*"
_ARGUMENT = r"[A-Za-z_][A-Za-z0-9_]*"
_FACTORY = r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*"


@dataclass(frozen=True)
class FileContext:
    """Validation context while a file is read: units are required, paths are relative to its folder.

    Attributes:
        source: The absolute path of the file.
    """

    source: Path


def _reader(parse: Callable[[object], float]) -> BeforeValidator:
    def read(value: object, info: ValidationInfo) -> object:
        if info.context is None and isinstance(value, (int, float)):
            return value
        return parse(value)

    return BeforeValidator(read)


def _within(lowest: float, highest: float, show: Callable[[float], str], what: str) -> AfterValidator:
    def check(value: float) -> float:
        if not lowest <= value <= highest:
            raise ValueError(f"{show(value)} is out of range; {what} lies between {show(lowest)} and {show(highest)}")
        return value

    return AfterValidator(check)


def _above_zero(what: str) -> AfterValidator:
    def check(value: float) -> float:
        if value <= 0:
            raise ValueError(f"{what} must be above 0")
        return value

    return AfterValidator(check)


def _below_one(value: float) -> float:
    if value >= 1:
        raise ValueError("a loss must be below 1 (100%); to cut a link off, use a fault")
    return value


def _text_pattern(units: Any, example: str) -> dict[str, Any]:
    legal = "|".join(re.escape(unit).replace(r"\ ", " ") for unit in units)
    return {"type": "string", "pattern": rf"^\s*{_NUMBER}\s*({legal})\s*$", "examples": [example]}


def _text_schema(units: Any, example: str) -> WithJsonSchema:
    return WithJsonSchema(_text_pattern(units, example))


FRACTION_TEXT: Mapping[str, Any] = {"type": "string", "pattern": rf"^\s*{_NUMBER}\s*%?\s*$"}
"""JSON Schema of a fraction as text."""
_FRACTION_SCHEMA = WithJsonSchema(
    {
        "anyOf": [{"type": "number", "minimum": 0, "exclusiveMaximum": 1}, dict(FRACTION_TEXT)],
        "examples": ["0.1%", 0.001],
    }
)
DURATION_TEXT: Mapping[str, Any] = _text_pattern(DURATION_UNITS, "5ms")
"""JSON Schema of a duration."""
_DURATION_SCHEMA = WithJsonSchema(dict(DURATION_TEXT))
_DURATION_READER = _reader(parse_duration)
_WEEK_S = 7 * 24 * 3600.0


def _show_hours(duration_s: float) -> str:
    return f"{duration_s / 3600:g}h" if duration_s >= 3600 else format_duration(duration_s)


Rate = Annotated[
    int,
    _within(8_000, 10**10, format_rate, "the rate of a link"),
    _reader(parse_rate),
    _text_schema(RATE_UNITS, "20Mbit/s"),
]
"""Bit/s."""
Size = Annotated[
    int,
    _within(2**20, 2**44, format_size, "the memory or storage of a host"),
    _reader(parse_size),
    _text_schema(SIZE_UNITS, "64MiB"),
]
"""Bytes."""
Instant = Annotated[float, _within(0, _WEEK_S, _show_hours, "a time"), _DURATION_READER, _DURATION_SCHEMA]
"""Seconds since the start of the workload."""
Duration = Annotated[
    float,
    _above_zero("a duration"),
    _within(0, _WEEK_S, _show_hours, "a duration"),
    _DURATION_READER,
    _DURATION_SCHEMA,
]
"""Seconds, above 0."""
LinkDelay = Annotated[float, _within(0, 10, format_duration, "the delay of a link"), _DURATION_READER, _DURATION_SCHEMA]
"""Seconds, one way."""
Length = Annotated[
    float, _within(0.1, 1e5, format_length, "a length"), _reader(parse_length), _text_schema(LENGTH_UNITS, "75m")
]
"""Metres."""
CpuPeriod = Annotated[
    float, _within(1e-3, 1, format_duration, "the period of the CPU quota"), _DURATION_READER, _DURATION_SCHEMA
]
"""Seconds; what the kernel takes as the period of a CPU quota."""
HeartbeatInterval = Annotated[
    float, _within(1e-3, 60, format_duration, "the time between heartbeats"), _DURATION_READER, _DURATION_SCHEMA
]
"""Seconds."""
RequestRate = Annotated[
    float,
    _within(1e-3, 1e6, format_frequency, "the rate of requests"),
    _reader(parse_frequency),
    _text_schema(FREQUENCY_UNITS, "5/s"),
]
"""Requests a second."""
Power = Annotated[
    float,
    _within(0, 1e5, format_power, "the power of a host"),
    _reader(parse_power),
    _text_schema(POWER_UNITS, "6.4W"),
]
"""Watts."""
Noise = Annotated[
    float,
    _within(0, 0.5, lambda share: f"{share:.0%}", "the noise of service times"),
    _reader(parse_fraction),
    _FRACTION_SCHEMA,
]
"""Standard deviation relative to the mean, 0 to 0.5."""
Loss = Annotated[float, AfterValidator(_below_one), _reader(parse_fraction), _FRACTION_SCHEMA]
"""Share of packets lost, 0 up to but not including 1."""
Probability = Annotated[
    float,
    _within(0, 1, lambda share: f"{share:g}", "a probability"),
    _reader(parse_fraction),
    WithJsonSchema(
        {
            "anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, dict(FRACTION_TEXT)],
            "examples": ["0.1%", 0.001],
        }
    ),
]
"""A number from 0 to 1."""


@dataclass(frozen=True, slots=True)
class QueueLimit:
    """What may wait in a queue: a number of bytes, or of packets whatever their size; the other one is None."""

    bytes: int | None = None
    packets: int | None = None


def _queue_limit(value: object) -> object:
    if isinstance(value, QueueLimit):
        return value
    match = _PACKETS.fullmatch(value) if isinstance(value, str) else None
    if match is not None:
        limit = QueueLimit(packets=int(match["count"]))
        if not 1 <= int(match["count"]) <= 1_000_000:
            raise ValueError(f"{match['count']} packets are out of range; a queue has 1 to 1000000")
        return limit
    try:
        size = parse_size(value)
    except UnitError as error:
        raise UnitError(f"{error}; or in packets, like 50 packets") from error
    if not 1_514 <= size <= 2**30:
        raise ValueError(
            f"{format_size(size)} is out of range; a queue holds one full frame (1514B) at least, and 1GiB at most"
        )
    return QueueLimit(bytes=size)


QueueLimitField = Annotated[
    QueueLimit,
    BeforeValidator(_queue_limit),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": rf"^\s*{_NUMBER}\s*({'|'.join(SIZE_UNITS)}|packets?)\s*$",
            "examples": ["100kB", "50 packets"],
        }
    ),
]
"""How much may wait in the queue of a link."""


def _node_name(value: str) -> str:
    if not re.fullmatch(_NODE_NAME, value):
        raise ValueError(
            f"{value!r} is no legal name; a name starts with a letter and has letters, digits, _ and - only"
        )
    if len(value) > MAX_NAME_LENGTH:
        raise ValueError(
            f"the name {value!r} has {len(value)} characters; at most {MAX_NAME_LENGTH} are legal, "
            "because Linux limits interface names to 15 and Mininet appends -eth0"
        )
    return value


def _tag_name(value: str) -> str:
    if not re.fullmatch(_NODE_NAME, value) or len(value) > MAX_TAG_LENGTH:
        raise ValueError(
            f"{value!r:.60} is no legal tag; a tag starts with a letter and has at most {MAX_TAG_LENGTH} letters, "
            "digits, _ and -"
        )
    return value


def _run_name(value: str) -> str:
    if not re.fullmatch(_RUN_NAME, value) or len(value) > 32:
        raise ValueError(
            f"{value!r} is no legal name of an experiment; it names files, so it has at most 32 small letters, "
            "digits and -, and starts with a letter or digit"
        )
    return value


def _argument_name(value: str) -> str:
    if not re.fullmatch(_ARGUMENT, value) or len(value) > 64:
        raise ValueError(f"{value!r:.80} can't be the name of an argument of the model's forward")
    return value


def _factory(value: str) -> str:
    if not re.fullmatch(_FACTORY, value):
        raise ValueError(f"{value!r} names no factory; write it like package.module:factory")
    return value


def _beside_the_file(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str):
        if not value or "\0" in value:
            raise ValueError("needs the name of a file or folder")
        value = Path(value)
    if isinstance(value, Path) and isinstance(info.context, FileContext):
        return info.context.source.parent / value
    return value


NodeName = Annotated[
    str,
    AfterValidator(_node_name),
    WithJsonSchema({"type": "string", "pattern": f"^{_NODE_NAME}$", "maxLength": MAX_NAME_LENGTH}),
]
"""Name of a host or switch."""
TagName = Annotated[
    str,
    AfterValidator(_tag_name),
    WithJsonSchema({"type": "string", "pattern": f"^{_NODE_NAME}$", "maxLength": MAX_TAG_LENGTH}),
]
"""A word that several hosts may have."""
RunName = Annotated[
    str,
    AfterValidator(_run_name),
    WithJsonSchema({"type": "string", "pattern": f"^{_RUN_NAME}$", "maxLength": 32, "examples": ["quickstart"]}),
]
"""Name of an experiment, safe as a file name."""
ArgumentName = Annotated[
    str,
    AfterValidator(_argument_name),
    WithJsonSchema({"type": "string", "pattern": f"^{_ARGUMENT}$", "maxLength": 64, "examples": ["input_ids"]}),
]
"""Name of an argument of the model's `forward`."""
Factory = Annotated[
    str,
    AfterValidator(_factory),
    WithJsonSchema({"type": "string", "pattern": f"^{_FACTORY}$", "examples": ["package.module:factory"]}),
]
"""A callable that makes the model."""
BesideFile = Annotated[
    Path,
    BeforeValidator(_beside_the_file),
    WithJsonSchema({"type": "string", "minLength": 1}),
]
"""A path, relative to the folder of the experiment file."""

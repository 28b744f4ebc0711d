"""When a run is suspect, and when invalid: the thresholds of the verdict, all in this one place.

Each is two values, ``[suspect, invalid]``; a run is as bad as its worst check (:mod:`runner.verdict`). A file may set
them otherwise::

    verdict: {rate_error: [1%, 5%], generator_lateness: [50ms, 500ms]}

Like all quantities of an experiment they are in declared, virtual units, whatever its time scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationInfo, WithJsonSchema

from testbed.spec.quantities import DURATION_TEXT, FRACTION_TEXT, Probability
from testbed.spec.section import Section
from testbed.units import parse_duration, parse_fraction

Level = Literal["valid", "suspect", "invalid"]
LEVELS: tuple[Level, ...] = ("valid", "suspect", "invalid")
"""What a run can be, from good to bad."""

_MOST = 10.0
_SHARE_SCHEMA = {"anyOf": [{"type": "number", "minimum": 0, "maximum": _MOST}, dict(FRACTION_TEXT)]}


@dataclass(frozen=True, slots=True)
class Bar:
    """Above ``suspect`` a run is suspect, above ``invalid`` it is invalid."""

    suspect: float
    invalid: float

    def level(self, value: float) -> Level:
        """The verdict on a value; what is no number can't be trusted."""
        if math.isnan(value) or value > self.invalid:
            return "invalid"
        return "suspect" if value > self.suspect else "valid"


def _bar(parse: Callable[[object], float], example: str) -> BeforeValidator:
    def read(value: object, info: ValidationInfo) -> object:
        if isinstance(value, Bar):
            return value
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            raise ValueError(f"is above what a run is suspect, and above what it is invalid, like {example}")
        suspect, invalid = (
            float(end) if info.context is None and isinstance(end, (int, float)) else parse(end) for end in value
        )
        if suspect > invalid:
            raise ValueError(f"a run is suspect before it is invalid; the smaller value comes first, like {example}")
        return Bar(suspect, invalid)

    return BeforeValidator(read)


def _schema(value: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"type": "array", "items": value, "minItems": 2, "maxItems": 2})


_WRITTEN = PlainSerializer(lambda bar: [bar.suspect, bar.invalid])
ShareBar = Annotated[
    Bar, _bar(lambda text: parse_fraction(text, most=_MOST), "[3%, 10%]"), _WRITTEN, _schema(_SHARE_SCHEMA)
]
"""Relative to what was asked for, or a share of the time; 0 to 10."""
TimeBar = Annotated[Bar, _bar(parse_duration, "[20ms, 200ms]"), _WRITTEN, _schema(dict(DURATION_TEXT))]
"""Seconds."""


class VerdictSpec(Section):
    """Above what each check makes a run suspect, and invalid: two values each."""

    noun: ClassVar[str] = "verdict"

    rate_error: Annotated[ShareBar, Field(description="A link's rate against the request, either way.")] = Bar(
        0.03, 0.10
    )
    round_trip_error: Annotated[
        ShareBar,
        Field(description="A link's round trip against the request, either way, or the slack if that is more."),
    ] = Bar(0.05, 0.20)
    round_trip_slack_s: Annotated[
        TimeBar, Field(alias="round_trip_slack", description="So much a round trip may be off, however short it is.")
    ] = Bar(0.0007, 0.003)
    saturated_idle: Annotated[
        Probability, Field(description="A second in which less of the machine was idle counts as saturated.")
    ] = 0.05
    saturated: Annotated[ShareBar, Field(description="Share of the workload's seconds that were saturated.")] = Bar(
        0.10, 0.50
    )
    steal: Annotated[ShareBar, Field(description="Share of the CPU time that a hypervisor gave to others.")] = Bar(
        0.03, 0.10
    )
    pressure: Annotated[
        ShareBar,
        Field(description="Share of the time in which a task waited for a CPU; judged only if no host has a quota."),
    ] = Bar(0.20, 0.50)
    cpu_excess: Annotated[ShareBar, Field(description="A host's CPU time above its share, relative to that.")] = Bar(
        0.10, 0.30
    )
    overshoot: Annotated[
        ShareBar,
        Field(
            description="calibrated: how much later than due a host released its results, relative to the time from "
            "one request to the next at the plan's bottleneck."
        ),
    ] = Bar(0.03, 0.10)
    real_overshoot: Annotated[
        ShareBar,
        Field(
            description="real: the same. Receiving and sending may take more than a small share has to spare; that is "
            "what a slow host does, so a run is hardly ever invalid for it."
        ),
    ] = Bar(0.10, _MOST)
    service_time: Annotated[
        ShareBar,
        Field(
            description="real: by how much a host's mean time for its stage before the workload, under its fitted "
            "quota, exceeds the stage's time on a whole core over the host's share."
        ),
    ] = Bar(0.03, 0.20)
    fault_lateness_s: Annotated[
        TimeBar,
        Field(
            alias="fault_lateness",
            description="A fault's start against when it was due, either way; and the 99th percentile of the timed "
            "changes of links that follow a recording, or flap.",
        ),
    ] = Bar(0.020, 0.200)
    generator_lateness_s: Annotated[
        TimeBar,
        Field(
            alias="generator_lateness",
            description="99th percentile of the requests' real times of sending after the intended ones.",
        ),
    ] = Bar(0.020, 0.200)
    delay_lateness_s: Annotated[
        TimeBar,
        Field(alias="delay_lateness", description="99th percentile of the delay line's releases after they were due."),
    ] = Bar(0.002, 0.010)
    scheduling_lateness_s: Annotated[
        TimeBar,
        Field(
            alias="scheduling_lateness",
            description="99th percentile of a sentinel's wake-ups after they were due: how late the machine runs what "
            "is ready to run.",
        ),
    ] = Bar(0.005, 0.020)

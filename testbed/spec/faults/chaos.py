"""Random campaigns of faults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationInfo, WithJsonSchema

from testbed.spec.quantities import DURATION_TEXT, Instant, RequestRate
from testbed.spec.section import Section
from testbed.units import format_duration, parse_duration


@dataclass(frozen=True, slots=True)
class Span:
    """From how long to how long, in seconds."""

    least: float
    most: float


def _span(value: object, info: ValidationInfo) -> object:
    if isinstance(value, Span):
        return value
    ends = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(ends) != 2:
        raise ValueError("is a duration like 2s, or the shortest and the longest like [1s, 5s]")
    least, most = (
        float(end) if info.context is None and isinstance(end, (int, float)) else parse_duration(end) for end in ends
    )
    if not 0.01 <= least <= most <= 86_400:
        raise ValueError(
            f"{format_duration(least)} to {format_duration(most)} is out of range; faults last from 10ms to a day, "
            "and the shortest comes first"
        )
    return Span(least, most)


def _written(span: Span) -> Any:
    return [span.least, span.most]


Lasting = Annotated[
    Span,
    BeforeValidator(_span),
    PlainSerializer(_written),
    WithJsonSchema({"anyOf": [DURATION_TEXT, {"type": "array", "items": DURATION_TEXT, "minItems": 2, "maxItems": 2}]}),
]


class ChaosSpec(Section):
    """Faults at random times, of random kinds, on random targets; the seed makes them the same each time."""

    noun: ClassVar[str] = "chaos"

    rate_rps: Annotated[
        RequestRate, Field(alias="rate", description="How often something breaks on average, such as 6/min.")
    ]
    kinds: Annotated[tuple[str, ...], Field(min_length=1, description="Verbs of faults to draw from.")]
    seed: Annotated[
        int | None, Field(ge=0, le=2**32 - 1, description="Seed of the draws; the experiment's when absent.")
    ] = None
    from_s: Annotated[Instant, Field(alias="from", description="When the campaign begins.")] = 0.0
    until_s: Annotated[
        Instant | None, Field(alias="until", description="When nothing new breaks any more; the end when absent.")
    ] = None
    lasting: Annotated[
        Lasting, Field(alias="for", description="How long faults last: one duration, or the range to draw from.")
    ] = Span(1.0, 5.0)

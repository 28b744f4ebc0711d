"""Which hosts a fault strikes, as the experiment file says it.

- ``node2`` or ``[node1, node2]``: hosts by name;
- ``edge``: all hosts that have the tag;
- ``{stage: 1}``: whichever host has that stage (from 0) in the plan in force when the fault strikes;
- ``bottleneck``: whichever host has the slowest stage of that plan;
- ``{random: 2 of workers}``, ``{random: 1 of edge}``: drawn with the experiment's seed, before the run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from testbed.spec.quantities import MAX_NAME_LENGTH

BOTTLENECK = "bottleneck"
WORKERS = "workers"
"""Words that can't be tags, because they mean something else in a target."""

_NAME = r"[A-Za-z][A-Za-z0-9_-]*"
_DRAW = re.compile(rf"\s*(?P<count>[1-9][0-9]{{0,5}})\s+of\s+(?P<among>{_NAME})\s*")
_FORMS = "a host, [host, host], a tag, bottleneck, {stage: 1} or {random: 2 of workers}"


@dataclass(frozen=True, slots=True)
class Named:
    """Hosts by name; one word alone may be a tag instead (`tagged_hosts` tells)."""

    names: tuple[str, ...]

    def __str__(self) -> str:
        return ", ".join(self.names)


@dataclass(frozen=True, slots=True)
class OfStage:
    """The host that has a stage, numbered from 0, in the plan in force."""

    stage: int

    def __str__(self) -> str:
        return f"stage {self.stage}"


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """The host that has the slowest stage in the plan in force."""

    def __str__(self) -> str:
        return BOTTLENECK


@dataclass(frozen=True, slots=True)
class Drawn:
    """So many hosts drawn at random among all workers, or those with a tag."""

    count: int
    among: str = WORKERS

    def __str__(self) -> str:
        return f"{self.count} of {self.among}"


HostTarget = Named | OfStage | Bottleneck | Drawn


def written(target: HostTarget) -> Any:
    """As the file has it: text, a list of texts, or a mapping."""
    match target:
        case Named(names):
            return names[0] if len(names) == 1 else list(names)
        case OfStage(stage):
            return {"stage": stage}
        case Bottleneck():
            return BOTTLENECK
        case Drawn():
            return {"random": str(target)}


def _read(value: object) -> HostTarget:
    match value:
        case Named() | OfStage() | Bottleneck() | Drawn():
            return value
        case str():
            return Bottleneck() if value == BOTTLENECK else Named((_name(value),))
        case tuple() | list() if value:
            names = tuple(_name(name) for name in value)
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{twice[0]!r} is there twice")
            return Named(names)
        case Mapping() if len(value) == 1:
            ((word, inner),) = value.items()
            if word == "stage":
                return _stage(inner)
            if word == "random":
                return _draw(inner)
    raise ValueError(f"{_shown(value)} says no hosts; write {_FORMS}")


def _name(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(_NAME, value):
        raise ValueError(f"{_shown(value)} is no name of a host; write {_FORMS}")
    return value


def _stage(value: object) -> OfStage:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 10_000:
        raise ValueError(f"{_shown(value)} is no number of a stage; stages are numbered from 0")
    return OfStage(value)


def _draw(value: object) -> Drawn:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return Drawn(value)
    match = _DRAW.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{_shown(value)} doesn't say how many of which; write it like 2 of workers, or 1 of a tag")
    return Drawn(int(match["count"]), match["among"])


def _shown(value: object) -> str:
    text = repr(dict(value)) if isinstance(value, Mapping) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_WORD_SCHEMA = {"type": "string", "pattern": f"^{_NAME}$"}
HostTargetField = Annotated[
    HostTarget,
    BeforeValidator(_read),
    PlainSerializer(written),
    WithJsonSchema(
        {
            "anyOf": [
                _WORD_SCHEMA,
                {"type": "array", "items": {**_WORD_SCHEMA, "maxLength": MAX_NAME_LENGTH}, "minItems": 1},
                {
                    "type": "object",
                    "properties": {"stage": {"type": "integer", "minimum": 0}},
                    "required": ["stage"],
                    "additionalProperties": False,
                },
                {
                    "type": "object",
                    "properties": {
                        "random": {
                            "anyOf": [
                                {"type": "integer", "minimum": 1},
                                {"type": "string", "pattern": rf"^\s*[1-9][0-9]*\s+of\s+{_NAME}\s*$"},
                            ]
                        }
                    },
                    "required": ["random"],
                    "additionalProperties": False,
                },
            ],
            "examples": ["node2", "bottleneck", {"stage": 1}, {"random": "2 of workers"}],
        }
    ),
]
"""Hosts that a fault strikes."""

"""From recorded events to virtual time: what a run with a time scale says of the experiment as it was declared.

The history (``events.jsonl``) holds what happened, in real seconds. With a time scale of k, tables, figures, summary
and verdict are made of the same events with every time divided by k and everything per second multiplied by k. CPU
seconds stay what they are: a host that used 0.0125 CPU seconds in each real second used 0.1 in each virtual one, which
is the share that was declared. Texts (details, notes) stay as they were written, in real units.

:class:`~runner.events.Check` is in virtual units already, because its bars are; only its instant is converted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, TypeVar

from runner.events import Check, RunStarted
from testbed.serving.events import Event

CPU_SECONDS = frozenset({"cpu_usage_s", "busy_s", "idle_s", "steal_s"})
"""Counters of work, not of time."""

TIMES = ("_s", "_ms")
PER_SECOND = ("_rps", "_bps", "cpu_share")

_E = TypeVar("_E", bound=Event)


def time_scale_of(events: Iterable[Event]) -> float:
    """The time scale of a history; 1 if its workload never started."""
    return next((event.time_scale for event in events if isinstance(event, RunStarted)), 1.0)


def in_virtual_time(events: Iterable[Event], time_scale: float) -> tuple[Event, ...]:
    """The events in declared units; unchanged for a time scale of 1."""
    if time_scale == 1:
        return tuple(events)
    return tuple(virtual(event, time_scale) for event in events)


def virtual(event: _E, time_scale: float) -> _E:
    """One event in declared units."""
    if time_scale == 1:
        return event
    if isinstance(event, Check):
        return dataclasses.replace(event, t_s=event.t_s / time_scale)
    converted: _E = _converted(event, time_scale)
    return converted


def _converted(record: Any, k: float) -> Any:
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            changes[field.name] = tuple(_converted(part, k) for part in value)
        elif isinstance(value, tuple) and field.name.endswith(TIMES):
            changes[field.name] = tuple(part / k for part in value)
        elif value is None or field.name in CPU_SECONDS or not isinstance(value, (int, float)):
            continue
        elif field.name.endswith(PER_SECOND):
            changes[field.name] = value * k
        elif field.name.endswith(TIMES):
            changes[field.name] = value / k
    return dataclasses.replace(record, **changes)

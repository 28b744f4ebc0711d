"""The table of faults: a row for each, with what :mod:`runner.disturbances` finds followed it."""

from __future__ import annotations

from collections.abc import Sequence

from runner import tables
from runner.csvfile import Row
from runner.disturbances import disturbances
from testbed.serving.events import Event

FAULT_COLUMNS = (
    "id",
    "kind",
    "target",
    "detail",
    "hosts",
    "links",
    "ends",
    "due_s",
    "started_s",
    "effective_s",
    "healed_s",
    "detected_s",
    "replanned_s",
    "recovered_s",
    "lost_requests",
    "throughput_before_rps",
    "throughput_during_rps",
    "throughput_after_rps",
    "entry",
)


def fault_rows(events: Sequence[Event]) -> list[Row]:
    """One row a fault of the timeline, as :func:`disturbances` finds them."""
    zero = tables.start_s(events)

    def since_start(t_s: float | None) -> float | None:
        return None if t_s is None else t_s - zero

    return [
        {
            "id": found.fault,
            "kind": found.kind,
            "target": found.target,
            "detail": found.detail or None,
            "hosts": " ".join(found.hosts) or None,
            "links": " ".join(found.links) or None,
            "ends": " ".join(found.ends) or None,
            "due_s": since_start(found.due_s),
            "started_s": since_start(found.started_s),
            "effective_s": since_start(found.effective_s),
            "healed_s": since_start(found.healed_s),
            "detected_s": since_start(found.detected_s),
            "replanned_s": since_start(found.replanned_s),
            "recovered_s": since_start(found.recovered_s),
            "lost_requests": found.lost_requests,
            "throughput_before_rps": found.throughput_before_rps,
            "throughput_during_rps": found.throughput_during_rps,
            "throughput_after_rps": found.throughput_after_rps,
            "entry": found.entry or None,
        }
        for found in disturbances(events)
    ]

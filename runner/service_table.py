"""What became of the service and its hosts, in one list: states, losses and returns, deaths, faults that failed."""

from __future__ import annotations

from collections.abc import Sequence

from runner import tables
from runner.csvfile import Row
from runner.events import FaultFailed, HostStateChanged, RunEnded, RunStarted
from testbed.serving.events import (
    Event,
    HostFound,
    HostLeaving,
    HostLost,
    HostSlow,
    HostSteady,
    OutputMismatch,
    ServiceState,
    StorageTrouble,
)

SERVICE_COLUMNS = ("t_s", "event", "host", "state", "id", "detail")


def service_rows(events: Sequence[Event]) -> list[Row]:
    """One row an event, in the order of their times; ``results/README.md`` lists what ``event`` may be."""
    zero = tables.start_s(events)
    empty: Row = dict.fromkeys(SERVICE_COLUMNS)
    return [
        {**empty, "t_s": event.t_s - zero, **told}
        for event in sorted(events, key=lambda event: event.t_s)
        if (told := _told(event)) is not None
    ]


def _told(event: Event) -> Row | None:
    match event:
        case RunStarted():
            return {"event": "run_started", "host": event.dispatcher}
        case RunEnded():
            return {"event": "run_ended", "state": event.how, "detail": event.detail}
        case ServiceState():
            return {"event": "service", "state": event.state, "detail": event.detail}
        case HostStateChanged():
            return {"event": "server", "host": event.host, "state": event.state, "detail": event.detail}
        case HostLost():
            return {"event": "host_lost", "host": event.host, "state": event.how, "detail": event.detail}
        case HostFound():
            return {"event": "host_found", "host": event.host}
        case HostLeaving():
            return {"event": "host_leaving", "host": event.host}
        case HostSlow():
            detail = f"stage {event.stage}: {event.busy_s:.3g} s at one request instead of {event.expected_s:.3g} s"
            return {"event": "host_slow", "host": event.host, "detail": detail}
        case HostSteady():
            return {"event": "host_steady", "host": event.host}
        case StorageTrouble():
            state = "works" if event.over else "fails"
            return {"event": "storage", "host": event.host, "state": state, "detail": event.detail}
        case OutputMismatch():
            return {"event": "output_mismatch", "host": event.host, "id": event.id}
        case FaultFailed():
            return {"event": "fault_failed", "id": event.fault, "detail": event.error}
    return None

"""What the system under test tells of itself: one history, one clock.

Every event is a frozen record. ``t_s`` is CLOCK_MONOTONIC, which all emulated hosts share, so the difference of two
events is exact whichever hosts they come from. Events leave a process through a :class:`Reporter`; they are an
observer's record and no process of the system ever reads them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import time
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events; ``t_s`` is when it happened, on the shared monotonic clock."""

    kind: ClassVar[str] = "event"
    t_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSubmitted(Event):
    """The client handed a request to the dispatcher; ``due_s`` is when it meant to (open loop)."""

    kind: ClassVar[str] = "request_submitted"
    id: int
    due_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestCompleted(Event):
    """The client saw the one outcome of a request (``ok``, ``wrong``, ``rejected`` or ``degraded``).

    Of an answer through a lossy codec, ``error`` is its largest difference from the right one, relative to that one's
    range, and ``same_class`` whether both have their largest element in the same place. The same is told of an answer
    that the service has marked as ``degraded``, against the whole model's; whether it is right can't be told until
    after the run, and ``answer`` names its tensors among those that the client has kept.
    """

    kind: ClassVar[str] = "request_completed"
    id: int
    submitted_s: float
    outcome: str
    attempts: int
    epoch: int
    path: tuple[str, ...]
    error: float | None = None
    same_class: bool | None = None
    degraded: bool = False
    answer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageExecuted(Event):
    """A node ran its stage for one request; ``t_s`` is when the output had left.

    An emulated node holds its output until its time has come; ``overshoot_s`` is how much later than that it went on,
    None for a node that holds nothing back. One with calibrated compute looks most outputs up (``computed`` is False).
    """

    kind: ClassVar[str] = "stage_executed"
    id: int
    stage: int
    host: str
    epoch: int
    received_s: float
    started_s: float
    finished_s: float
    sent_s: float
    bytes_in: int
    bytes_out: int
    computed: bool = True
    overshoot_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputMismatch(Event):
    """A node with calibrated compute computed another output than the one it had kept for the same input.

    One of them is wrong, and so is any answer made of it.
    """

    kind: ClassVar[str] = "output_mismatch"
    id: int
    stage: int
    host: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStage:
    """A stage of a plan as the dispatcher deployed it; ``link_s`` is the predicted transfer *into* the stage."""

    stage: int
    host: str
    first_op: int
    last_op: int
    weights_bytes: int
    memory_bytes: int
    compute_s: float
    transfer_bits: float
    link_s: float
    is_bottleneck: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanAdopted(Event):
    """The dispatcher decided on a plan; the epoch starts to serve at :class:`EpochActive`.

    ``skipped`` are runs of operations ``first_op..last_op-1`` that the plan leaves out: its answers are degraded.
    """

    kind: ClassVar[str] = "plan_adopted"
    epoch: int
    strategy: str
    reason: str
    stages: tuple[PlannedStage, ...]
    return_bits: float
    return_s: float
    throughput_rps: float
    latency_s: float
    bottleneck: str
    gap: float | None
    planning_s: float
    skipped: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StageDeployed(Event):
    """A node holds its stage of an epoch; ``bytes_sent`` is what had to cross the network for it."""

    kind: ClassVar[str] = "stage_deployed"
    epoch: int
    stage: int
    host: str
    started_s: float
    bytes_sent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochActive(Event):
    """Every stage of the epoch is ready; ``replayed`` unanswered requests were sent again."""

    kind: ClassVar[str] = "epoch_active"
    epoch: int
    replayed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochFenced(Event):
    """The dispatcher ended an epoch: from now on no answer of it counts."""

    kind: ClassVar[str] = "epoch_fenced"
    epoch: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLost(Event):
    """The dispatcher has a host no more.

    ``how`` is ``connection`` or ``heartbeat`` (which is missing), ``failed`` (at its stage), ``protocol`` (which it
    broke), or ``left`` (as it had asked to).
    """

    kind: ClassVar[str] = "host_lost"
    host: str
    how: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFound(Event):
    """A host's server answered the dispatcher's greeting."""

    kind: ClassVar[str] = "host_found"
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLeaving(Event):
    """A host has asked to go; it serves on until its stage was moved."""

    kind: ClassVar[str] = "host_leaving"
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSlow(Event):
    """A host's heartbeats go on, but it has been at one request for much longer than its stage was expected to take."""

    kind: ClassVar[str] = "host_slow"
    host: str
    stage: int
    busy_s: float
    expected_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSteady(Event):
    """A host that was slow no longer is, or has no stage any more."""

    kind: ClassVar[str] = "host_steady"
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeWeighed(Event):
    """The dispatcher has weighed a change of plan that no loss forced; ``changes`` tells whether it is made.

    ``throughput_rps`` and ``latency_s`` are expected of the present plan with what is measured now (None if it is no
    longer possible), ``new_…`` of the other one (None if there is none), which moves ``moved_bytes`` in ``move_s``.
    """

    kind: ClassVar[str] = "change_weighed"
    epoch: int
    reason: str
    throughput_rps: float | None
    new_throughput_rps: float | None
    latency_s: float | None
    new_latency_s: float | None
    moved_bytes: int
    move_s: float
    changes: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsSupplied(Event):
    """Weights have travelled ahead of need to a host's storage: copies for a ``standby``, or for a ``move`` to come."""

    kind: ClassVar[str] = "weights_supplied"
    host: str
    purpose: str
    bytes_sent: int
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerListening(Event):
    """A host's server accepts connections."""

    kind: ClassVar[str] = "server_listening"
    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientReady(Event):
    """The client is connected and waits for its start."""

    kind: ClassVar[str] = "client_ready"
    requests_prepared: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientFinished(Event):
    """The client has submitted its last request and has waited for the answers."""

    kind: ClassVar[str] = "client_finished"
    submitted: int
    unanswered: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceState(Event):
    """The service as a whole.

    It is ``deploying``, ``serving``, ``degraded`` (serving without some operations of the model), ``recovering``,
    ``unavailable`` or ``stopped``.
    """

    kind: ClassVar[str] = "service_state"
    state: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageTrouble(Event):
    """A node met damaged chunks, or a disk that it can't read or write; serving goes on. ``over``: it works again."""

    kind: ClassVar[str] = "storage_trouble"
    host: str
    detail: str
    over: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Note(Event):
    """A line for people: a dropped connection, a fenced frame."""

    kind: ClassVar[str] = "note"
    source: str
    text: str


EVENT_TYPES: dict[str, type[Event]] = {
    cls.kind: cls
    for cls in (
        RequestSubmitted,
        RequestCompleted,
        StageExecuted,
        OutputMismatch,
        PlanAdopted,
        StageDeployed,
        EpochActive,
        EpochFenced,
        HostLost,
        HostFound,
        HostLeaving,
        HostSlow,
        HostSteady,
        ChangeWeighed,
        WeightsSupplied,
        ServerListening,
        ClientReady,
        ClientFinished,
        ServiceState,
        StorageTrouble,
        Note,
    )
}


def to_json(event: Event) -> str:
    """One line of JSON, with the event's kind under ``event``."""
    return json.dumps({"event": event.kind, **dataclasses.asdict(event)}, separators=(",", ":"))


def from_json(line: str | bytes, types: dict[str, type[Event]] | None = None) -> Event:
    """The event of a line that :func:`to_json` wrote.

    Args:
        line: One JSON object.
        types: Event types by kind; the system's own unless given.

    Raises:
        ValueError: If the line is no event.
    """
    record: dict[str, Any] = json.loads(line)
    kind = record.pop("event", None)
    cls = (EVENT_TYPES if types is None else types).get(kind)
    if cls is None:
        raise ValueError(f"unknown event {kind!r}")
    if cls is RequestCompleted:
        record["path"] = tuple(record["path"])
    if cls is PlanAdopted:
        record["stages"] = tuple(PlannedStage(**stage) for stage in record["stages"])
        record["skipped"] = tuple((first, last) for first, last in record.get("skipped", ()))
    try:
        return cls(**record)
    except TypeError as error:
        raise ValueError(f"event {kind!r}: {error}") from error


class Reporter(Protocol):
    """Where a process's events go."""

    def __call__(self, event: Event) -> None:
        """Take one event; never blocks for long and never raises."""


class SocketReporter:
    """Sends events over an inherited Unix sequenced-packet socket, one event a record."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def __call__(self, event: Event) -> None:
        """Send it; an observer that has gone must not be noticed by the system under test."""
        with contextlib.suppress(ConnectionError):
            self._connection.send(to_json(event).encode())


def now_s() -> float:
    """The clock of all events: CLOCK_MONOTONIC in seconds, shared by every emulated host."""
    return time.monotonic()

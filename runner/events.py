"""What the experimenter does and sees, as events: the other half of a run's history.

The system under test tells of itself in :mod:`testbed.serving.events`; both are in one clock and one file.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from testbed.serving import events as system
from testbed.serving.events import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """The workload starts: ``t_s`` is time zero of every table.

    ``duration_s`` is how long requests are submitted. With a ``time_scale`` all events of the history are so many times
    slower than declared (:mod:`runner.virtual_time`).
    """

    kind: ClassVar[str] = "run_started"
    name: str
    seed: int
    duration_s: float
    time_scale: float = 1.0
    dispatcher: str = "dispatcher"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded(Event):
    """The last outcome is in, or the wait for it given up; ``how``: ``completed``, ``interrupted`` or ``failed``."""

    kind: ClassVar[str] = "run_ended"
    how: str = "completed"
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultScheduled(Event):
    """A fault of the timeline, told when the timeline is compiled.

    Attributes:
        fault: Its number in the timeline, from 0.
        verb: The specification's word for it: ``kill``, ``throttle`` …
        target: What it hits, for people.
        due_s: When it is due, on the clock of all events.
        heal_due_s: When it is due to be healed; None if never.
        hosts: Hosts whose service it takes away; none for a fault of a link.
        links: Links that it changes.
        ends: The hosts at their ends.
        detail: What it does, for people, such as ``to 2Mbit/s``.
        entry: The entry of the flat timeline, as the file has it.
    """

    kind: ClassVar[str] = "fault_scheduled"
    fault: int
    verb: str
    target: str
    due_s: float
    heal_due_s: float | None = None
    hosts: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    detail: str = ""
    entry: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultStarted(Event):
    """The experimenter begins to inject the fault.

    What it hits is told again, because a fault of a stage or of the bottleneck finds its host only now; as in
    :class:`FaultScheduled`.
    """

    kind: ClassVar[str] = "fault_started"
    fault: int
    target: str = ""
    hosts: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    entry: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultEffective(Event):
    """The fault is in force, as read back: the process is gone, the rate is set."""

    kind: ClassVar[str] = "fault_effective"
    fault: int
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultChanged(Event):
    """A fault in force has changed (a flapping link, a recorded rate), as read back; ``due_s`` is when it should."""

    kind: ClassVar[str] = "fault_changed"
    fault: int
    due_s: float
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultHealed(Event):
    """The declared state is in force again, as read back."""

    kind: ClassVar[str] = "fault_healed"
    fault: int
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultFailed(Event):
    """The fault could not be injected or healed; the run is worth nothing then."""

    kind: ClassVar[str] = "fault_failed"
    fault: int
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStateChanged(Event):
    """A host's server as the experimenter sees it.

    ``state`` is ``absent`` (until it joins), ``starting``, ``ready``, ``paused``, ``leaving``, ``left``, ``off``
    (without power), ``killed`` (a fault's work) or ``dead`` (an end that nobody ordered).
    """

    kind: ClassVar[str] = "host_state"
    host: str
    state: str
    detail: str = ""


DOWN_STATES = frozenset({"killed", "off", "left", "dead", "absent", "stopped"})
"""States of a host's server in which it runs nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaProbed(Event):
    """A host computed its stage so many times back to back, under the quota that it then had (real seconds)."""

    kind: ClassVar[str] = "quota_probed"
    host: str
    runs: int
    took_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaFitted(Event):
    """A run of its stage took so long under a quota (a share of a core) that is to let a host keep its declared speed.

    The last one of a host tells of the quota that it has during the workload.
    """

    kind: ClassVar[str] = "quota_fitted"
    host: str
    declared_cpu_share: float
    quota_cpu_share: float
    service_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSample(Event):
    """A host's control group at an instant; all but ``memory_bytes`` and ``cpu_share`` count up from its creation.

    ``cpu_share`` is the limit in force, as a share of one core; None without a limit.
    """

    kind: ClassVar[str] = "host_sample"
    host: str
    cpu_usage_s: float
    throttled_s: float
    nr_throttled: int
    memory_bytes: int
    oom_kills: int
    cpu_share: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSample(Event):
    """One direction of a link at an instant; ``sent_bytes`` and ``drops`` count up, ``rate_bps`` is the limit now."""

    kind: ClassVar[str] = "link_sample"
    link: str
    source: str
    target: str
    sent_bytes: int
    drops: int
    backlog_bytes: int
    rate_bps: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRateChanged(Event):
    """A trace has changed the rate of one direction of a link, as read back; ``due_s`` is when it should have."""

    kind: ClassVar[str] = "link_rate_changed"
    link: str
    source: str
    rate_bps: float
    due_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSample(Event):
    """The machine beneath the emulation at an instant, from :mod:`runner.machine_load`; all count up, in CPU seconds.

    ``pressure_s`` is wall time in which some task waited for a CPU; None where the kernel does not tell.
    """

    kind: ClassVar[str] = "machine_sample"
    busy_s: float
    idle_s: float
    steal_s: float
    pressure_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulingSample(Event):
    """How late the sentinel woke up in a second that began at ``began_s``: one figure a wake-up, in milliseconds."""

    kind: ClassVar[str] = "scheduling_sample"
    began_s: float
    lateness_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DegradedJudged(Event):
    """What became of a degraded answer, found out after the run: ``ok`` or ``wrong``.

    ``answer`` is as in :class:`~testbed.serving.events.RequestCompleted`. Through a lossy codec ``error`` is the
    largest difference from what the model gives without the operations left out, relative to that one's range.
    """

    kind: ClassVar[str] = "degraded_judged"
    id: int
    answer: str
    outcome: str
    error: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Check(Event):
    """One comparison of what was asked of the emulation with what it did.

    Attributes:
        check: What is compared, with its unit at the end: ``rate_before_mbit_s``.
        subject: Of what: a link's direction, a host, a fault, ``machine``.
        requested: The value asked for, or the bound; None for a row that only informs.
        measured: The value found.
        error_pct: The difference relative to ``requested``; None where that has no meaning.
        ok: Whether it is within its bar.
        unit: The unit of both values, for people.
        level: What this check alone makes of the run: ``valid``, ``suspect`` or ``invalid``.
        detail: The reason in words, for a check that is not ok.
    """

    kind: ClassVar[str] = "check"
    check: str
    subject: str
    requested: float | None
    measured: float
    error_pct: float | None
    ok: bool
    unit: str
    level: str = "valid"
    detail: str = ""


EXPERIMENTER_EVENTS: tuple[type[Event], ...] = (
    RunStarted,
    RunEnded,
    FaultScheduled,
    FaultStarted,
    FaultEffective,
    FaultChanged,
    FaultHealed,
    FaultFailed,
    HostStateChanged,
    QuotaProbed,
    QuotaFitted,
    HostSample,
    LinkSample,
    LinkRateChanged,
    MachineSample,
    SchedulingSample,
    DegradedJudged,
    Check,
)
EVENT_TYPES: dict[str, type[Event]] = {**system.EVENT_TYPES, **{cls.kind: cls for cls in EXPERIMENTER_EVENTS}}


def event_from_json(line: str | bytes) -> Event:
    """The event of a line of ``events.jsonl``.

    Raises:
        ValueError: If the line is no event.
    """
    event = system.from_json(line, EVENT_TYPES)
    lists: dict[str, Any] = {
        field.name: tuple(value)
        for field in dataclasses.fields(event)
        if isinstance(value := getattr(event, field.name), list)
    }
    return dataclasses.replace(event, **lists) if lists else event

"""What a spectator of a run wants to know, kept up to date event by event; drawn by :mod:`runner.console`."""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter, deque
from dataclasses import dataclass, field

from runner.events import (
    Check,
    FaultEffective,
    FaultFailed,
    FaultHealed,
    FaultScheduled,
    FaultStarted,
    HostSample,
    HostStateChanged,
    RunEnded,
    RunStarted,
)
from runner.tables import MIB, stages_by_host
from testbed.serving.events import (
    EpochActive,
    Event,
    HostLost,
    Note,
    PlanAdopted,
    RequestCompleted,
    RequestSubmitted,
    ServiceState,
    StageDeployed,
    StorageTrouble,
)

RECENT_S = 3.0
RATE_LINE_S = 5.0
QUIET_DEPLOYMENT_BYTES = 10_000
MOST_ALIKE = 4
"""Lines about checks of one name."""


@dataclass(slots=True)
class HostView:
    """A host now; ``cpu_share`` is over the last sample's span, None before the second sample."""

    state: str = ""
    stage: str = ""
    cpu_share: float | None = None
    cpu_limit: float | None = None
    memory_mib: float | None = None
    last: HostSample | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the log: ``tone`` is ``info``, ``good``, ``warn`` or ``bad``."""

    t_s: float | None
    text: str
    tone: str = "info"


@dataclass(slots=True)
class LiveView:
    """The state of a run as its events tell it.

    Attributes:
        hosts: In the order in which they are to be shown.
        service: The service's own word for its state.
    """

    hosts: dict[str, HostView] = field(default_factory=dict)
    service: str = "starting"
    zero_s: float | None = None
    duration_s: float | None = None
    ended: bool = False
    now_s: float = 0.0
    submitted: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    plans: dict[int, PlanAdopted] = field(default_factory=dict)
    epoch: int | None = None
    faults: dict[int, FaultScheduled] = field(default_factory=dict)
    recent: deque[tuple[float, float]] = field(default_factory=deque)
    bad_checks: Counter[str] = field(default_factory=Counter)
    _awaited_epoch: int | None = None
    _next_rate_s: float = 0.0

    @property
    def in_flight(self) -> int:
        """Requests without an outcome."""
        return self.submitted - sum(self.outcomes.values())

    @property
    def elapsed_s(self) -> float | None:
        """Since the start of the workload; None before."""
        return None if self.zero_s is None else self.now_s - self.zero_s

    def throughput_rps(self) -> float | None:
        """Right answers a second in the last few seconds; None before the workload."""
        elapsed_s = self.elapsed_s
        if elapsed_s is None or elapsed_s <= 0:
            return None
        span_s = min(RECENT_S, elapsed_s)
        return sum(1 for t_s, _ in self.recent if t_s > self.now_s - span_s) / span_s

    def latency_s(self) -> float | None:
        """Median latency of the right answers in the last few seconds."""
        values = [latency for t_s, latency in self.recent if t_s > self.now_s - RECENT_S]
        return statistics.median(values) if values else None

    def apply(self, event: Event) -> list[Line]:
        """Take an event in; gives the lines that it is worth."""
        self.now_s = max(self.now_s, event.t_s)
        while self.recent and self.recent[0][0] < self.now_s - RECENT_S:
            self.recent.popleft()
        lines = self._take(event)
        if self.zero_s is not None and not self.ended and self.now_s - self.zero_s >= self._next_rate_s:
            if self._next_rate_s > 0:
                lines.append(self._line(self.now_s, self.rate_text()))
            self._next_rate_s += RATE_LINE_S * (1 + (self.now_s - self.zero_s - self._next_rate_s) // RATE_LINE_S)
        return lines

    def rate_text(self) -> str:
        """Throughput, latency and requests in one line."""
        rate, latency = self.throughput_rps(), self.latency_s()
        parts = [
            "– answers/s" if rate is None else f"{rate:.1f} answers/s",
            "" if latency is None else f"latency {latency * 1e3:.0f} ms",
            f"{self.in_flight} in flight",
            f"{self.outcomes['ok']} ok",
            *(f"{count} {outcome}" for outcome, count in sorted(self.outcomes.items()) if outcome != "ok"),
        ]
        return ", ".join(part for part in parts if part)

    def _take(self, event: Event) -> list[Line]:
        match event:
            case RequestSubmitted():
                self.submitted += 1
            case RequestCompleted():
                return self._completed(event)
            case HostSample():
                self._sampled(event)
            case HostStateChanged():
                host = self.hosts.setdefault(event.host, HostView())
                changed, host.state = host.state != event.state, event.state
                if changed and event.state == "dead":
                    return [self._line(event.t_s, f"{event.host} died{_because(event.detail)}", "bad")]
                if changed and event.state == "left":
                    return [self._line(event.t_s, f"{event.host} has left", "warn")]
            case RunStarted():
                self.zero_s, self.duration_s, self._next_rate_s = event.t_s, event.duration_s, 0.0
                return [self._line(event.t_s, f"the workload starts ({event.duration_s:g} s)")]
            case RunEnded():
                self.ended = True
                return [self._line(event.t_s, f"the workload is over: {event.how}{_because(event.detail)}")]
            case ServiceState():
                changed, self.service = self.service != event.state, event.state
                if changed and event.state in ("recovering", "unavailable", "degraded"):
                    return [self._line(event.t_s, f"service is {event.state}{_because(event.detail)}", "warn")]
            case StorageTrouble():
                return [self._line(event.t_s, f"{event.host}: {event.detail}", "good" if event.over else "warn")]
            case Note():
                return [self._line(event.t_s, f"{event.source}: {event.text}")]
            case Check(ok=False):
                self.bad_checks[event.check] += 1
                if self.bad_checks[event.check] <= MOST_ALIKE:
                    return [self._line(event.t_s, f"{event.subject}: {event.detail}", "warn")]
                if self.bad_checks[event.check] == MOST_ALIKE + 1:
                    return [self._line(event.t_s, f"… and more with another {event.check}: see fidelity.csv", "warn")]
            case _:
                return self._fault_or_plan(event)
        return []

    def _fault_or_plan(self, event: Event) -> list[Line]:
        match event:
            case FaultScheduled():
                self.faults[event.fault] = event
            case FaultStarted(fault=number, target=target) if target and number in self.faults:
                self.faults[number] = dataclasses.replace(self.faults[number], target=target)
            case FaultEffective():
                return [self._line(event.t_s, f"fault: {self._fault(event.fault)}", "bad")]
            case FaultHealed():
                return [self._line(event.t_s, f"healed: {self._fault(event.fault)}", "good")]
            case FaultFailed():
                return [self._line(event.t_s, f"fault {event.fault} failed: {event.error}", "bad")]
            case HostLost():
                return [self._line(event.t_s, f"{event.host} is lost ({event.how}{_because(event.detail)})", "warn")]
            case PlanAdopted():
                self.plans[event.epoch] = event
                route = " → ".join(stage.host for stage in event.stages)
                predicted = f"{event.throughput_rps:.2f} answers/s predicted"
                return [self._line(event.t_s, f"plan {event.epoch} ({event.reason}): {route}, {predicted}")]
            case StageDeployed() if event.bytes_sent > QUIET_DEPLOYMENT_BYTES:
                took = f"{event.bytes_sent * 8 / 1e6:.1f} Mbit in {event.t_s - event.started_s:.2f} s"
                return [self._line(event.t_s, f"stage {event.stage} is on {event.host} ({took})")]
            case EpochActive():
                self.epoch = self._awaited_epoch = event.epoch
                plan = self.plans.get(event.epoch)
                stages = stages_by_host(plan.stages) if plan is not None else {}
                for name, host in self.hosts.items():
                    host.stage = stages.get(name, "")
                again = f", {event.replayed} requests sent again" if event.replayed else ""
                return [self._line(event.t_s, f"plan {event.epoch} serves{again}", "good")]
        return []

    def _completed(self, event: RequestCompleted) -> list[Line]:
        self.outcomes[event.outcome] += 1
        if event.outcome == "wrong":
            return [self._line(event.t_s, f"request {event.id} was answered wrongly", "bad")]
        if event.outcome not in ("ok", "degraded"):
            return []
        self.recent.append((event.t_s, event.t_s - event.submitted_s))
        if self._awaited_epoch is not None and event.epoch >= self._awaited_epoch:
            self._awaited_epoch = None
            return [self._line(event.t_s, f"first answer of plan {event.epoch}", "good")]
        return []

    def _sampled(self, event: HostSample) -> None:
        host = self.hosts.setdefault(event.host, HostView())
        before = host.last
        if before is not None and event.t_s > before.t_s and event.cpu_usage_s >= before.cpu_usage_s:
            host.cpu_share = (event.cpu_usage_s - before.cpu_usage_s) / (event.t_s - before.t_s)
        host.last, host.cpu_limit, host.memory_mib = event, event.cpu_share, event.memory_bytes / MIB

    def _fault(self, fault: int) -> str:
        found = self.faults.get(fault)
        if found is None:
            return f"number {fault}"
        return f"{found.verb} {found.target}" + (f" {found.detail}" if found.detail else "")

    def _line(self, t_s: float, text: str, tone: str = "info") -> Line:
        return Line(None if self.zero_s is None else t_s - self.zero_s, text, tone)


def _because(detail: str) -> str:
    return f": {detail}" if detail else ""

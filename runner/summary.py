"""The figures of a run, and whether it passed."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runner import tables
from runner.csvfile import Row
from runner.fault_table import Disturbance, disturbances, rate_rps, right_answers
from runner.history import FaultFailed, HostStateChanged, RunEnded, RunStarted
from runner.verdict import percentile
from testbed.serving.events import EpochActive, Event, OutputMismatch, StageDeployed

FAILURES = {
    "lost": "without an answer",
    "wrong": "answered wrongly",
    "doubled": "answered more than once",
    "unasked": "answered though never submitted",
}


@dataclass(frozen=True, slots=True)
class Latency:
    """Of right answers, from submission to answer, in milliseconds."""

    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of answers through a lossy codec with the whole model's: how many name the same class, and the largest error.

    ``largest_error_pct`` is relative to the range of the right answer.
    """

    answers: int
    same_class: int
    largest_error_pct: float


@dataclass(frozen=True, slots=True)
class EpochFigures:
    """An epoch: what the planner predicted of it and what it gave. Times are seconds since the workload's start.

    ``measured_rps`` is taken from its first right answer to its end, without the time that faults disturbed; None if
    nothing is left. ``deploy_s`` and ``deploy_mbit`` are what it took to bring its stages to their hosts.
    """

    epoch: int
    strategy: str
    reason: str
    stages: tuple[str, ...]
    adopted_s: float
    active_s: float | None
    ended_s: float | None
    predicted_rps: float
    measured_rps: float | None
    predicted_latency_ms: float
    bottleneck: str
    gap: float | None
    planning_ms: float
    deploy_s: float | None
    deploy_mbit: float
    replayed: int


@dataclass(frozen=True, slots=True)
class FaultFigures:
    """A fault's milestones, counted from its effect; None for what did not happen."""

    fault: int
    kind: str
    target: str
    detection_ms: float | None
    replanning_ms: float | None
    recovery_s: float | None
    lost_requests: int


@dataclass(frozen=True, slots=True)
class Summary:
    """A run in figures.

    Attributes:
        outcome: ``passed`` or ``failed``.
        reasons: Why it failed; empty if it passed.
        submitted: Number of requests.
        requests: Their number by outcome, every outcome named.
        duration_s: From the workload's start until the last request could be submitted.
        throughput_rps: Right answers a second over the whole workload, faults included; None without a workload.
        latency: None without a right answer.
        epochs: In order.
        faults: In the timeline's order.
        agreement: Of answers through a lossy codec; None without any.
    """

    outcome: str
    reasons: tuple[str, ...]
    submitted: int
    requests: dict[str, int]
    duration_s: float
    throughput_rps: float | None
    latency: Latency | None
    epochs: tuple[EpochFigures, ...]
    faults: tuple[FaultFigures, ...]
    agreement: Agreement | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data."""
        return dataclasses.asdict(self)


def summarize(events: Sequence[Event]) -> Summary:
    """The figures of a history."""
    rows = tables.request_rows(events)
    found = Counter(str(row["outcome"]) for row in rows)
    requests = {outcome: found.get(outcome, 0) for outcome in tables.OUTCOMES}
    requests |= {outcome: count for outcome, count in found.items() if outcome not in requests}
    latencies = [float(row["latency_ms"] or 0.0) for row in rows if row["outcome"] == "ok"]
    answers_s = [answer.t_s for answer in right_answers(events)]
    zero, end = tables.start_s(events), tables.workload_end_s(events)
    faults = disturbances(events)
    reasons = failures(events, requests, faults)
    return Summary(
        outcome="failed" if reasons else "passed",
        reasons=reasons,
        submitted=len(rows),
        requests=requests,
        duration_s=end - zero,
        throughput_rps=rate_rps(answers_s, zero, end),
        latency=_latency(latencies),
        epochs=epoch_figures(events, faults),
        faults=tuple(_fault_figures(fault) for fault in faults),
        agreement=_agreement(rows),
    )


def _agreement(rows: Sequence[Row]) -> Agreement | None:
    judged = [(float(row["error_pct"] or 0.0), bool(row["same_class"])) for row in rows if row["error_pct"] is not None]
    if not judged:
        return None
    return Agreement(len(judged), sum(same for _, same in judged), max(error for error, _ in judged))


def failures(events: Sequence[Event], requests: dict[str, int], faults: Sequence[Disturbance]) -> tuple[str, ...]:
    """Why the run failed, in words; empty if it passed."""
    reasons = []
    if not any(isinstance(event, RunStarted) for event in events):
        reasons.append("the workload never started")
    ends = [event for event in events if isinstance(event, RunEnded)]
    if not ends:
        reasons.append("the run has no end: its runner died")
    elif ends[0].how != "completed":
        reasons.append(f"the run was {ends[0].how}" + (f": {ends[0].detail}" if ends[0].detail else ""))
    for outcome, words in FAILURES.items():
        if requests.get(outcome):
            reasons.append(f"{_requests(requests[outcome])} {words}")
    if not requests.get("ok"):
        reasons.append("no request was answered")
    reasons += [
        f"{host} computed another output for {_requests(count).removesuffix(' was').removesuffix(' were')} than it "
        "had kept"
        for host, count in Counter(event.host for event in events if isinstance(event, OutputMismatch)).items()
    ]
    for event in events:
        if isinstance(event, FaultFailed):
            reasons.append(f"fault {event.fault} could not be applied: {event.error}")
        elif isinstance(event, HostStateChanged) and event.state == "dead":
            reasons.append(
                f"{event.host} died, and no fault had killed it" + (f": {event.detail}" if event.detail else "")
            )
    for fault in faults:
        if fault.needs_recovery and fault.recovered_s is None:
            stuck = "it was never noticed" if fault.detected_s is None else "service never resumed"
            if fault.detected_s is not None and fault.replanned_s is None:
                stuck = "no new plan was made"
            reasons.append(f"no recovery from {fault.kind} {fault.target}: {stuck}")
    return tuple(reasons)


def epoch_figures(events: Sequence[Event], faults: Sequence[Disturbance]) -> tuple[EpochFigures, ...]:
    """Predicted against measured, epoch by epoch."""
    zero, workload_end = tables.start_s(events), tables.workload_end_s(events)
    plans = tables.plans(events)
    active: dict[int, EpochActive] = {}
    for event in events:
        if isinstance(event, EpochActive):
            active.setdefault(event.epoch, event)
    starts = sorted((event.t_s, epoch) for epoch, event in active.items())
    answers = right_answers(events)
    figures = []
    for epoch, plan in plans.items():
        since = active.get(epoch)
        ended_s: float | None = None
        measured: float | None = None
        if since is not None:
            ended_s = min((t_s for t_s, other in starts if t_s > since.t_s and other != epoch), default=workload_end)
            own = [answer.t_s for answer in answers if answer.epoch == epoch]
            if own:
                measured = _calm_rate_rps(own, own[0], max(own[0], min(ended_s, workload_end)), faults)
        deployed = [e for e in events if isinstance(e, StageDeployed) and e.epoch == epoch]
        figures.append(
            EpochFigures(
                epoch=epoch,
                strategy=plan.strategy,
                reason=plan.reason,
                stages=tuple(stage.host for stage in plan.stages),
                adopted_s=plan.t_s - zero,
                active_s=None if since is None else since.t_s - zero,
                ended_s=None if ended_s is None else ended_s - zero,
                predicted_rps=plan.throughput_rps,
                measured_rps=measured,
                predicted_latency_ms=plan.latency_s * 1e3,
                bottleneck=plan.bottleneck,
                gap=plan.gap,
                planning_ms=plan.planning_s * 1e3,
                deploy_s=max(e.t_s for e in deployed) - min(e.started_s for e in deployed) if deployed else None,
                deploy_mbit=sum(e.bytes_sent for e in deployed) * 8 / 1e6,
                replayed=0 if since is None else since.replayed,
            )
        )
    return tuple(figures)


def _calm_rate_rps(
    answers_s: Sequence[float], since_s: float, until_s: float, faults: Sequence[Disturbance]
) -> float | None:
    """Answers a second in the part of a window that no fault disturbed."""
    calm = [(since_s, until_s)]
    for fault in faults:
        if fault.effective_s is None:
            continue
        start_s, end_s = fault.effective_s, until_s if fault.ended_s is None else fault.ended_s
        calm = [
            piece
            for left, right in calm
            for piece in ((left, min(right, start_s)), (max(left, end_s), right))
            if piece[1] > piece[0]
        ]
    length_s = sum(right - left for left, right in calm)
    if length_s < 1e-3:
        return None
    return sum(1 for t in answers_s if any(left < t <= right for left, right in calm)) / length_s


def _fault_figures(fault: Disturbance) -> FaultFigures:
    def after_s(t_s: float | None) -> float | None:
        return None if t_s is None or fault.effective_s is None else t_s - fault.effective_s

    detection, replanning = after_s(fault.detected_s), after_s(fault.replanned_s)
    return FaultFigures(
        fault=fault.fault,
        kind=fault.kind,
        target=fault.target,
        detection_ms=None if detection is None else detection * 1e3,
        replanning_ms=None if replanning is None else replanning * 1e3,
        recovery_s=after_s(fault.recovered_s),
        lost_requests=fault.lost_requests,
    )


def _latency(values_ms: Sequence[float]) -> Latency | None:
    if not values_ms:
        return None
    return Latency(
        mean_ms=sum(values_ms) / len(values_ms),
        p50_ms=percentile(values_ms, 50),
        p95_ms=percentile(values_ms, 95),
        p99_ms=percentile(values_ms, 99),
        max_ms=max(values_ms),
    )


def _requests(count: int) -> str:
    return "1 request was" if count == 1 else f"{count} requests were"

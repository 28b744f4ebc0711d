"""The figures of a run. Whether it passed is for :mod:`runner.checker` to say."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runner import tables
from runner.answer_rate import rate_rps, right_answers
from runner.csvfile import Row
from runner.disturbances import Disturbance, disturbances
from runner.epoch_table import EpochFigures, Window, epoch_figures
from runner.quantiles import percentile
from testbed.serving.events import Event


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
class Degraded:
    """Service without some of the model's operations, and what it has cost: right answers against the whole model's.

    Attributes:
        spans: When it was served so, from and to.
        answers: Right ones: they are what the model gives without these operations.
        same_class: How many of them name the class that the whole model names.
        mean_error_pct, largest_error_pct: How far they are from the whole model's, relative to that one's range.
    """

    spans: tuple[Window, ...]
    answers: int
    same_class: int
    mean_error_pct: float | None
    largest_error_pct: float | None


@dataclass(frozen=True, slots=True)
class FaultFigures:
    """A fault's milestones, counted from its effect; None for what did not happen.

    ``deploy_s`` and ``deploy_mbit`` are what the plan around it took to be brought to its hosts. Throughput is before
    the fault, during its disturbance, and after it.
    """

    fault: int
    kind: str
    target: str
    detection_ms: float | None
    replanning_ms: float | None
    deploy_s: float | None
    deploy_mbit: float | None
    recovery_s: float | None
    lost_requests: int
    throughput_before_rps: float | None
    throughput_during_rps: float | None
    throughput_after_rps: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """A run in figures.

    Attributes:
        submitted: Number of requests.
        requests: Their number by outcome, every outcome named.
        duration_s: From the workload's start until the last request could be submitted.
        throughput_rps: Right answers a second over the whole workload, faults included; None without a workload.
        latency: None without a right answer.
        downtime: Parts of the workload's time in which no epoch served, from and to.
        epochs: In order.
        faults: In the timeline's order.
        agreement: Of answers through a lossy codec; None without any.
        degraded: None if the whole model was served all the time.
    """

    submitted: int
    requests: dict[str, int]
    duration_s: float
    throughput_rps: float | None
    latency: Latency | None
    downtime: tuple[Window, ...]
    epochs: tuple[EpochFigures, ...]
    faults: tuple[FaultFigures, ...]
    agreement: Agreement | None = None
    degraded: Degraded | None = None

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
    epochs = epoch_figures(events, faults)
    return Summary(
        submitted=len(rows),
        requests=requests,
        duration_s=end - zero,
        throughput_rps=rate_rps(answers_s, zero, end),
        latency=_latency(latencies),
        downtime=_downtime(epochs, end - zero),
        epochs=epochs,
        faults=tuple(_fault_figures(fault, epochs, zero) for fault in faults),
        agreement=_agreement(rows),
        degraded=_degraded(rows, epochs, end - zero),
    )


def _downtime(epochs: Sequence[EpochFigures], duration_s: float) -> tuple[Window, ...]:
    windows = []
    down_since_s = 0.0
    for epoch in sorted((e for e in epochs if e.active_s is not None), key=lambda e: e.active_s or 0.0):
        active_s = epoch.active_s or 0.0
        if min(active_s, duration_s) > down_since_s:
            windows.append((down_since_s, min(active_s, duration_s)))
        fenced_s = duration_s if epoch.fenced_s is None else epoch.fenced_s
        down_since_s = max(down_since_s, min(fenced_s, duration_s))
    if duration_s > down_since_s:
        windows.append((down_since_s, duration_s))
    return tuple(windows)


def _degraded(rows: Sequence[Row], epochs: Sequence[EpochFigures], duration_s: float) -> Degraded | None:
    spans = tuple(
        (epoch.active_s, duration_s if epoch.fenced_s is None else epoch.fenced_s)
        for epoch in epochs
        if epoch.skipped and epoch.active_s is not None
    )
    found = [row for row in rows if row["degraded"] and row["outcome"] == "ok"]
    if not spans and not found:
        return None
    errors_pct = [float(row["error_pct"]) for row in found if row["error_pct"] is not None]
    return Degraded(
        spans=spans,
        answers=len(found),
        same_class=sum(bool(row["same_class"]) for row in found),
        mean_error_pct=sum(errors_pct) / len(errors_pct) if errors_pct else None,
        largest_error_pct=max(errors_pct, default=None),
    )


def _agreement(rows: Sequence[Row]) -> Agreement | None:
    judged = [
        (float(row["error_pct"]), bool(row["same_class"]))
        for row in rows
        if row["error_pct"] is not None and not row["degraded"]
    ]
    if not judged:
        return None
    return Agreement(len(judged), sum(same for _, same in judged), max(error for error, _ in judged))


def _fault_figures(fault: Disturbance, epochs: Sequence[EpochFigures], zero: float) -> FaultFigures:
    def after_s(t_s: float | None) -> float | None:
        return None if t_s is None or fault.effective_s is None else t_s - fault.effective_s

    detection, replanning = after_s(fault.detected_s), after_s(fault.replanned_s)
    planned_s = None if fault.replanned_s is None else fault.replanned_s - zero
    around = next((epoch for epoch in epochs if planned_s is not None and epoch.adopted_s == planned_s), None)
    return FaultFigures(
        fault=fault.fault,
        kind=fault.kind,
        target=fault.target,
        detection_ms=None if detection is None else detection * 1e3,
        replanning_ms=None if replanning is None else replanning * 1e3,
        deploy_s=None if around is None else around.deploy_s,
        deploy_mbit=None if around is None else around.deploy_mbit,
        recovery_s=after_s(fault.recovered_s),
        lost_requests=fault.lost_requests,
        throughput_before_rps=fault.throughput_before_rps,
        throughput_during_rps=fault.throughput_during_rps,
        throughput_after_rps=fault.throughput_after_rps,
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

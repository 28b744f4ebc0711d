"""The tables of a run, each a pure function of its events; faults are in :mod:`runner.fault_table`.

Times are seconds since the start of the workload (:class:`~runner.events.RunStarted`), so what was prepared before it
has negative times. Every column is documented in ``results/README.md``.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence

from runner.csvfile import Row
from runner.events import (
    Check,
    FaultEffective,
    FaultScheduled,
    FaultStarted,
    HostSample,
    HostStateChanged,
    LinkSample,
    RunEnded,
    RunStarted,
)
from testbed.serving.events import (
    EpochActive,
    Event,
    PlanAdopted,
    PlannedStage,
    RequestCompleted,
    RequestSubmitted,
    StageDeployed,
    StageExecuted,
)

REQUEST_COLUMNS = (
    "id",
    "submitted_s",
    "completed_s",
    "latency_ms",
    "outcome",
    "answers",
    "attempts",
    "epoch",
    "path",
    "degraded",
    "error_pct",
    "same_class",
)
STAGE_COLUMNS = (
    "id",
    "stage",
    "host",
    "epoch",
    "received_s",
    "started_s",
    "finished_s",
    "sent_s",
    "compute_ms",
    "bytes_in",
    "bytes_out",
    "computed",
    "overshoot_ms",
)
PLAN_COLUMNS = (
    "epoch",
    "stage",
    "host",
    "first_op",
    "last_op",
    "weights_mib",
    "memory_mib",
    "compute_ms",
    "transfer_mbit",
    "link_ms",
    "is_bottleneck",
    "deploy_s",
    "deploy_mbit",
)
HOST_COLUMNS = ("t_s", "host", "state", "stage", "cpu_share", "throttled_ms", "memory_mib", "oom_kills")
LINK_COLUMNS = ("t_s", "link", "from", "to", "sent_mbit", "rate_mbit_s", "drops", "backlog_bytes")
FIDELITY_COLUMNS = ("check", "subject", "requested", "measured", "error_pct", "ok")

OUTCOMES = ("ok", "lost", "wrong", "doubled", "unasked", "rejected")
MIB = 2**20


def start_s(events: Iterable[Event]) -> float:
    """Time zero of the tables: the start of the workload, or the first event's time if it never started."""
    first: float | None = None
    for event in events:
        if isinstance(event, RunStarted):
            return event.t_s
        first = event.t_s if first is None else min(first, event.t_s)
    return first or 0.0


def end_s(events: Sequence[Event]) -> float:
    """When the last outcome counted: :class:`RunEnded`, or the last event's time if the run never ended."""
    ends = [event.t_s for event in events if isinstance(event, RunEnded)]
    return ends[0] if ends else max((event.t_s for event in events), default=0.0)


def workload_end_s(events: Sequence[Event]) -> float:
    """When the last request could be submitted: what throughput is measured up to, because after it the load falls."""
    end = end_s(events)
    return next((min(end, e.t_s + e.duration_s) for e in events if isinstance(e, RunStarted)), end)


def request_rows(events: Sequence[Event]) -> list[Row]:
    """One row a request, in the order of submission: whatever happened to it, it has exactly one outcome.

    ``ok``, ``wrong`` and ``rejected`` are the client's words. ``lost``: no outcome until the run's end. ``doubled``:
    more than one outcome (``wrong`` if any of them was wrong). ``unasked``: an outcome for an id that was never
    submitted, so such a row has no time of submission. Times are those of the first outcome, ``answers`` counts all.
    """
    zero, end = start_s(events), end_s(events)
    submitted: dict[int, float] = {}
    completed: defaultdict[int, list[RequestCompleted]] = defaultdict(list)
    for event in events:
        if isinstance(event, RequestSubmitted):
            submitted.setdefault(event.id, event.t_s)
        elif isinstance(event, RequestCompleted) and event.t_s <= end:
            completed[event.id].append(event)
    rows: list[Row] = []
    asked = set(submitted)
    for answers in completed.values():
        submitted.setdefault(answers[0].id, answers[0].submitted_s)
    for id_, submitted_s in sorted(submitted.items(), key=lambda item: (item[1], item[0])):
        answers = completed.get(id_, [])
        first = min(answers, key=lambda answer: answer.t_s, default=None)
        if first is None:
            outcome = "lost"
        elif id_ not in asked:
            outcome = "unasked"
        elif any(answer.outcome == "wrong" for answer in answers):
            outcome = "wrong"
        else:
            outcome = first.outcome if len(answers) == 1 else "doubled"
        rows.append(
            {
                "id": id_,
                "submitted_s": submitted_s - zero if id_ in asked else None,
                "completed_s": None if first is None else first.t_s - zero,
                "latency_ms": None if first is None or id_ not in asked else (first.t_s - submitted_s) * 1e3,
                "outcome": outcome,
                "answers": len(answers),
                "attempts": None if first is None else first.attempts,
                "epoch": None if first is None else first.epoch,
                "path": None if first is None else " ".join(first.path),
                "degraded": None if first is None else first.degraded,
                "error_pct": None if first is None or first.error is None else first.error * 100,
                "same_class": None if first is None else first.same_class,
            }
        )
    return rows


def stage_rows(events: Sequence[Event]) -> list[Row]:
    """One row for each time a host ran its stage for a request, in the order of arrival."""
    zero = start_s(events)
    executions = sorted(
        (e for e in events if isinstance(e, StageExecuted)), key=lambda e: (e.received_s, e.stage, e.id)
    )
    return [
        {
            "id": event.id,
            "stage": event.stage,
            "host": event.host,
            "epoch": event.epoch,
            "received_s": event.received_s - zero,
            "started_s": event.started_s - zero,
            "finished_s": event.finished_s - zero,
            "sent_s": event.sent_s - zero,
            "compute_ms": (event.finished_s - event.started_s) * 1e3,
            "bytes_in": event.bytes_in,
            "bytes_out": event.bytes_out,
            "computed": event.computed,
            "overshoot_ms": None if event.overshoot_s is None else event.overshoot_s * 1e3,
        }
        for event in executions
    ]


def plan_rows(events: Sequence[Event]) -> list[Row]:
    """One row a stage of each epoch: what the planner predicted, and what its deployment took.

    A stage that was never deployed (its epoch failed before) has no deployment figures.
    """
    deployments: defaultdict[tuple[int, int, str], list[StageDeployed]] = defaultdict(list)
    for event in events:
        if isinstance(event, StageDeployed):
            deployments[event.epoch, event.stage, event.host].append(event)
    rows: list[Row] = []
    for plan in plans(events).values():
        for stage in plan.stages:
            deployed = deployments.get((plan.epoch, stage.stage, stage.host), [])
            deploy_s = max(e.t_s for e in deployed) - min(e.started_s for e in deployed) if deployed else None
            rows.append(
                {
                    "epoch": plan.epoch,
                    "stage": stage.stage,
                    "host": stage.host,
                    "first_op": stage.first_op,
                    "last_op": stage.last_op,
                    "weights_mib": stage.weights_bytes / MIB,
                    "memory_mib": stage.memory_bytes / MIB,
                    "compute_ms": stage.compute_s * 1e3,
                    "transfer_mbit": stage.transfer_bits / 1e6,
                    "link_ms": stage.link_s * 1e3,
                    "is_bottleneck": stage.is_bottleneck,
                    "deploy_s": deploy_s,
                    "deploy_mbit": sum(e.bytes_sent for e in deployed) * 8 / 1e6 if deployed else None,
                }
            )
    return rows


def host_rows(events: Sequence[Event]) -> list[Row]:
    """One row a sample of a host; counters are turned into what was added since the last sample."""
    zero = start_s(events)
    last: dict[str, HostSample] = {}
    state: dict[str, str] = {}
    stages: dict[str, str] = {}
    by_epoch = plans(events)
    rows: list[Row] = []
    for event in sorted(events, key=lambda e: e.t_s):
        if isinstance(event, HostStateChanged):
            state[event.host] = event.state
        elif isinstance(event, EpochActive) and event.epoch in by_epoch:
            stages = stages_by_host(by_epoch[event.epoch].stages)
        elif isinstance(event, HostSample):
            before = last.get(event.host)
            if before is not None and event.cpu_usage_s < before.cpu_usage_s:
                before = None  # a new control group: its counters start again
            last[event.host] = event
            span_s = 0.0 if before is None else event.t_s - before.t_s
            known = before is not None and span_s > 0
            rows.append(
                {
                    "t_s": event.t_s - zero,
                    "host": event.host,
                    "state": state.get(event.host, ""),
                    "stage": stages.get(event.host, ""),
                    "cpu_share": (event.cpu_usage_s - before.cpu_usage_s) / span_s if before and known else None,
                    "throttled_ms": (event.throttled_s - before.throttled_s) * 1e3 if before else None,
                    "memory_mib": event.memory_bytes / MIB,
                    "oom_kills": event.oom_kills - (before.oom_kills if before else 0),
                }
            )
    return rows


def link_rows(events: Sequence[Event]) -> list[Row]:
    """One row a sample of a link's direction; counters are turned into what was added since the last sample."""
    zero = start_s(events)
    last: dict[tuple[str, str, str], LinkSample] = {}
    rows: list[Row] = []
    for event in sorted((e for e in events if isinstance(e, LinkSample)), key=lambda e: e.t_s):
        key = event.link, event.source, event.target
        before = last.get(key)
        if before is not None and event.sent_bytes < before.sent_bytes:
            before = None  # a new interface: its counters start again
        last[key] = event
        rows.append(
            {
                "t_s": event.t_s - zero,
                "link": event.link,
                "from": event.source,
                "to": event.target,
                "sent_mbit": (event.sent_bytes - before.sent_bytes) * 8 / 1e6 if before else None,
                "rate_mbit_s": None if event.rate_bps is None else event.rate_bps / 1e6,
                "drops": event.drops - before.drops if before else None,
                "backlog_bytes": event.backlog_bytes,
            }
        )
    return rows


def fidelity_rows(events: Sequence[Event]) -> list[Row]:
    """One row a check of the emulation, in the order in which they were made."""
    return [
        {
            "check": event.check,
            "subject": event.subject,
            "requested": event.requested,
            "measured": event.measured,
            "error_pct": event.error_pct,
            "ok": event.ok,
        }
        for event in events
        if isinstance(event, Check)
    ]


def plans(events: Iterable[Event]) -> dict[int, PlanAdopted]:
    """The plan of each epoch, in their order."""
    found: dict[int, PlanAdopted] = {}
    for event in events:
        if isinstance(event, PlanAdopted):
            found.setdefault(event.epoch, event)
    return dict(sorted(found.items()))


def stages_by_host(stages: Iterable[PlannedStage]) -> dict[str, str]:
    """The numbers of each host's stages, separated by spaces."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for stage in stages:
        found[stage.host].append(stage.stage)
    return {host: " ".join(map(str, sorted(numbers))) for host, numbers in found.items()}


def scheduled_faults(events: Sequence[Event]) -> list[FaultScheduled]:
    """All faults in the order of the timeline, each with what it hit as found when it struck."""
    found = {e.fault: e for e in events if isinstance(e, FaultScheduled)}
    for event in events:
        if isinstance(event, FaultStarted) and event.target and event.fault in found:
            found[event.fault] = dataclasses.replace(
                found[event.fault],
                target=event.target,
                hosts=event.hosts,
                links=event.links,
                ends=event.ends,
                entry=event.entry,
            )
    return sorted(found.values(), key=lambda e: (e.due_s, e.fault))


def effective_faults(events: Iterable[Event]) -> dict[int, float]:
    """When each fault took effect, in the order in which they did."""
    found: dict[int, float] = {}
    for event in sorted((e for e in events if isinstance(e, FaultEffective)), key=lambda e: e.t_s):
        found.setdefault(event.fault, event.t_s)
    return found

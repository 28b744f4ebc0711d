"""Each plan's time: when it was adopted, served and was fenced off; what was predicted of it, and what it gave."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from runner import tables
from runner.answer_rate import right_answers
from runner.csvfile import Row
from runner.disturbances import Disturbance, disturbances
from runner.events import LinkSample
from runner.left_out import as_text
from testbed.serving.events import EpochActive, EpochFenced, Event, ServiceState, StageDeployed, StageExecuted

EPOCH_COLUMNS = (
    "epoch",
    "strategy",
    "reason",
    "adopted_s",
    "active_s",
    "fenced_s",
    "fence_reason",
    "planning_ms",
    "predicted_rps",
    "measured_rps",
    "predicted_latency_ms",
    "predicted_bottleneck",
    "measured_bottleneck",
    "measured_bottleneck_pct",
    "gap",
    "return_mbit",
    "return_ms",
    "replayed",
    "skipped",
)

Window = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """The busiest resource of a pipeline, such as ``compute on node1``, and for how much of the time it was."""

    name: str
    busy_pct: float


@dataclass(frozen=True, slots=True)
class EpochFigures:
    """An epoch: what the planner predicted of it and what it gave. Times are seconds since the workload's start.

    ``skipped`` are the operations that the plan leaves out, as :func:`runner.left_out.as_text` has them.
    ``measured_rps`` is taken from its first right answer to its end, without the time that faults disturbed; None if
    nothing is left. ``deploy_s`` and ``deploy_mbit`` are what it took to bring its stages to their hosts. ``ended_s``
    is when another epoch took over, or the end of the workload; ``fenced_s`` when the dispatcher ended it, None for the
    last one.
    """

    epoch: int
    strategy: str
    reason: str
    stages: tuple[str, ...]
    adopted_s: float
    active_s: float | None
    ended_s: float | None
    fenced_s: float | None
    fence_reason: str
    predicted_rps: float
    measured_rps: float | None
    predicted_latency_ms: float
    bottleneck: str
    measured_bottleneck: Bottleneck | None
    gap: float | None
    planning_ms: float
    return_mbit: float
    return_ms: float
    deploy_s: float | None
    deploy_mbit: float
    replayed: int
    skipped: str


def fences(events: Sequence[Event]) -> dict[int, tuple[float, str]]:
    """When and why each epoch was fenced off.

    A dispatcher that was killed told of no fence; what it served had ended when the next one began, and that begins
    with telling that it is ``deploying``.
    """
    found: dict[int, tuple[float, str]] = {}
    for event in events:
        if isinstance(event, EpochFenced):
            found.setdefault(event.epoch, (event.t_s, event.reason))
    begins_s = sorted(event.t_s for event in events if isinstance(event, ServiceState) and event.state == "deploying")
    for plan, following in pairwise(tables.plans(events).values()):
        begun_s = next((t_s for t_s in begins_s if plan.t_s < t_s < following.t_s), following.t_s)
        found.setdefault(plan.epoch, (begun_s, ""))
    return found


def epoch_figures(events: Sequence[Event], faults: Sequence[Disturbance]) -> tuple[EpochFigures, ...]:
    """Predicted against measured, epoch by epoch."""
    zero, workload_end = tables.start_s(events), tables.workload_end_s(events)
    plans = tables.plans(events)
    fenced = fences(events)
    active: dict[int, EpochActive] = {}
    for event in events:
        if isinstance(event, EpochActive):
            active.setdefault(event.epoch, event)
    starts = sorted((event.t_s, epoch) for epoch, event in active.items())
    answers_s: defaultdict[int, list[float]] = defaultdict(list)
    for answer in right_answers(events):
        answers_s[answer.epoch].append(answer.t_s)
    deployments: defaultdict[int, list[StageDeployed]] = defaultdict(list)
    executions: defaultdict[int, list[StageExecuted]] = defaultdict(list)
    for event in events:
        if isinstance(event, StageDeployed):
            deployments[event.epoch].append(event)
        elif isinstance(event, StageExecuted):
            executions[event.epoch].append(event)
    links = _samples_by_direction(events)
    figures = []
    for epoch, plan in plans.items():
        since = active.get(epoch)
        ended_s: float | None = None
        calm: list[Window] = []
        own: list[float] = []
        if since is not None:
            ended_s = min((t_s for t_s, other in starts if t_s > since.t_s and other != epoch), default=workload_end)
            own = answers_s[epoch]
            if own:
                calm = calm_windows(own[0], max(own[0], min(ended_s, workload_end)), faults)
        fenced_s, fence_reason = fenced.get(epoch, (None, ""))
        deployed = deployments[epoch]
        figures.append(
            EpochFigures(
                epoch=epoch,
                strategy=plan.strategy,
                reason=plan.reason,
                stages=tuple(stage.host for stage in plan.stages),
                adopted_s=plan.t_s - zero,
                active_s=None if since is None else since.t_s - zero,
                ended_s=None if ended_s is None else ended_s - zero,
                fenced_s=None if fenced_s is None else fenced_s - zero,
                fence_reason=fence_reason,
                predicted_rps=plan.throughput_rps,
                measured_rps=_rate_rps(own, calm),
                predicted_latency_ms=plan.latency_s * 1e3,
                bottleneck=plan.bottleneck,
                measured_bottleneck=busiest(executions[epoch], links, calm),
                gap=plan.gap,
                planning_ms=plan.planning_s * 1e3,
                return_mbit=plan.return_bits / 1e6,
                return_ms=plan.return_s * 1e3,
                deploy_s=max(e.t_s for e in deployed) - min(e.started_s for e in deployed) if deployed else None,
                deploy_mbit=sum(e.bytes_sent for e in deployed) * 8 / 1e6,
                replayed=0 if since is None else since.replayed,
                skipped=as_text(plan.skipped),
            )
        )
    return tuple(figures)


def epoch_rows(events: Sequence[Event]) -> list[Row]:
    """One row an epoch, as :func:`epoch_figures` finds them."""
    return [
        {
            "epoch": found.epoch,
            "strategy": found.strategy,
            "reason": found.reason,
            "adopted_s": found.adopted_s,
            "active_s": found.active_s,
            "fenced_s": found.fenced_s,
            "fence_reason": found.fence_reason,
            "planning_ms": found.planning_ms,
            "predicted_rps": found.predicted_rps,
            "measured_rps": found.measured_rps,
            "predicted_latency_ms": found.predicted_latency_ms,
            "predicted_bottleneck": found.bottleneck,
            "measured_bottleneck": None if found.measured_bottleneck is None else found.measured_bottleneck.name,
            "measured_bottleneck_pct": None
            if found.measured_bottleneck is None
            else found.measured_bottleneck.busy_pct,
            "gap": found.gap,
            "return_mbit": found.return_mbit,
            "return_ms": found.return_ms,
            "replayed": found.replayed,
            "skipped": found.skipped,
        }
        for found in epoch_figures(events, disturbances(events))
    ]


def calm_windows(since_s: float, until_s: float, faults: Sequence[Disturbance]) -> list[Window]:
    """The parts of a window that no fault disturbed."""
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
    return calm


def busiest(
    executions: Iterable[StageExecuted], links: Iterable[Sequence[LinkSample]], calm: Sequence[Window]
) -> Bottleneck | None:
    """What was busy for the largest part of an epoch's calm time; None where that can't be told.

    A stage is busy while it computes, a link's direction for the time that what it sent takes at its rate.

    Args:
        executions: All of the epoch.
        links: The samples of each direction of each link, in the order of their times.
        calm: The epoch's calm windows, in order.
    """
    length_s = sum(right - left for left, right in calm)
    if length_s < 1e-3:
        return None
    busy_s: defaultdict[str, float] = defaultdict(float)
    for event in executions:
        for left, right in calm:
            busy_s[event.host] += max(0.0, min(event.finished_s, right) - max(event.started_s, left))
    found = [Bottleneck(f"compute on {host}", took_s / length_s * 100) for host, took_s in busy_s.items()]
    found += [busy for samples in links if (busy := _busy_link(samples, calm)) is not None]
    return max(found, key=lambda each: each.busy_pct, default=None)


def _busy_link(samples: Sequence[LinkSample], calm: Sequence[Window]) -> Bottleneck | None:
    sent_bits = could_bits = 0.0
    for left, right in calm:
        first = bisect_left(samples, left, key=lambda sample: sample.t_s)
        last = bisect_right(samples, right, key=lambda sample: sample.t_s)
        for before, after in pairwise(samples[first:last]):
            # A new interface's counter starts again.
            if after.rate_bps and after.sent_bytes >= before.sent_bytes:
                sent_bits += (after.sent_bytes - before.sent_bytes) * 8
                could_bits += after.rate_bps * (after.t_s - before.t_s)
    if could_bits <= 0:
        return None
    return Bottleneck(f"link {samples[0].source} → {samples[0].target}", sent_bits / could_bits * 100)


def _samples_by_direction(events: Iterable[Event]) -> list[list[LinkSample]]:
    found: defaultdict[tuple[str, str, str], list[LinkSample]] = defaultdict(list)
    for event in events:
        if isinstance(event, LinkSample):
            found[event.link, event.source, event.target].append(event)
    return [sorted(samples, key=lambda sample: sample.t_s) for samples in found.values()]


def _rate_rps(answers_s: Sequence[float], calm: Sequence[Window]) -> float | None:
    length_s = sum(right - left for left, right in calm)
    if length_s < 1e-3:
        return None
    return sum(1 for t in answers_s if any(left < t <= right for left, right in calm)) / length_s

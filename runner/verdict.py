"""Can the emulation be trusted? ``valid``, ``suspect`` or ``invalid``, with reasons.

Each question is a :class:`~runner.events.Check`: what was asked for, what was measured, and what the difference
makes of the run. Here they are taken from the history of a run (links are measured apart, by the runner); :func:`judge`
takes all checks and gives the verdict, which is the worst of theirs. The thresholds are the specification's
(:mod:`testbed.spec.verdict`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from runner import tables
from runner.events import (
    Check,
    FaultChanged,
    FaultScheduled,
    FaultStarted,
    HostSample,
    LinkRateChanged,
    LinkSample,
    MachineSample,
    QuotaFitted,
    RunStarted,
    SchedulingSample,
)
from runner.fidelity_checks import (
    DEFAULTS,
    check_fault,
    check_generator,
    check_machine,
    check_overshoot,
    check_scheduling,
    check_service_time,
    check_share,
    check_trace,
    tell_drops,
)
from testbed.serving.events import Event, PlanAdopted, RequestSubmitted, StageExecuted
from testbed.spec.verdict import LEVELS, VerdictSpec


@dataclass(frozen=True, slots=True)
class Verdict:
    """``level`` is the worst of all checks; ``graded`` has level and words of each that is not ok, the worst first."""

    level: str
    graded: tuple[tuple[str, str], ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        """What is not ok, in words, the worst first."""
        return tuple(reason for _, reason in self.graded)


def judge(checks: Iterable[Check]) -> Verdict:
    """The verdict on a run. A run without a single check is invalid: nothing is known of it."""
    all_checks = list(checks)
    if not all_checks:
        return Verdict("invalid", (("invalid", "nothing was checked"),))
    bad = sorted((check for check in all_checks if not check.ok), key=lambda check: -LEVELS.index(check.level))
    level = bad[0].level if bad else "valid"
    return Verdict(level, tuple((check.level, f"{check.subject}: {check.detail}") for check in bad))


def checks_of_stages(events: Sequence[Event], bars: VerdictSpec = DEFAULTS) -> list[Check]:
    """Did each host compute at its speed? Of the first plan, whose times come from the calibration of the model.

    Stages that ran fewer than five times tell nothing.
    """
    end = tables.end_s(events)
    first = next((event for event in events if isinstance(event, PlanAdopted)), None)
    if first is None:
        return []
    found: dict[int, list[StageExecuted]] = {}
    for event in events:
        if isinstance(event, StageExecuted) and event.epoch == first.epoch:
            found.setdefault(event.stage, []).append(event)
    checks = []
    fits: dict[str, list[QuotaFitted]] = {}
    for event in events:
        if isinstance(event, QuotaFitted):
            fits.setdefault(event.host, []).append(event)
    pace_s = 1 / first.throughput_rps
    # Quotas are fitted to the longest stage of each host.
    fitted = {stage.host: stage for stage in sorted(first.stages, key=lambda stage: stage.compute_s)}
    for stage in first.stages:
        if stage.host in fits and stage.compute_s > 0 and stage is fitted[stage.host]:
            last = fits[stage.host][-1]
            under_it = [fit.service_s for fit in fits[stage.host] if fit.quota_cpu_share == last.quota_cpu_share]
            checks.append(check_service_time(last.t_s, stage.host, stage.compute_s, fmean(under_it), bars))
        ran = found.get(stage.stage, [])
        if len(ran) < 5 or stage.compute_s <= 0:
            continue
        over_s = fmean(event.overshoot_s or 0.0 for event in ran)
        checks.append(check_overshoot(end, stage.host, pace_s, over_s, real=stage.host in fits, bars=bars))
    return checks


def checks_of_events(events: Sequence[Event], bars: VerdictSpec = DEFAULTS) -> list[Check]:
    """All checks that the history itself allows: load, shares, drops, faults, generator (links are measured apart)."""
    zero, end = tables.start_s(events), tables.end_s(events)
    started = any(isinstance(event, RunStarted) for event in events)
    during = [event for event in events if zero - 1.5 <= event.t_s <= end] if started else list(events)
    machine = [event for event in during if isinstance(event, MachineSample)]
    hosts: dict[str, list[HostSample]] = {}
    links: dict[str, list[LinkSample]] = {}
    for event in during:
        if isinstance(event, HostSample):
            hosts.setdefault(event.host, []).append(event)
        elif isinstance(event, LinkSample):
            links.setdefault(f"{event.source}→{event.target}", []).append(event)
    quotas = any(sample.cpu_share is not None for samples in hosts.values() for sample in samples)
    scheduling = [event for event in during if isinstance(event, SchedulingSample)]
    checks = [*check_machine(machine, quotas=quotas, bars=bars), check_scheduling(scheduling, bars)]
    for host, samples in hosts.items():
        first, last = samples[0], samples[-1]
        share = _mean_share(samples)
        if share and last.t_s - first.t_s > 1 and last.cpu_usage_s >= first.cpu_usage_s:
            used = (last.cpu_usage_s - first.cpu_usage_s) / (last.t_s - first.t_s)
            checks.append(check_share(end, host, share, used, bars))
    checks += checks_of_stages(events, bars)
    checks += [tell_drops(end, name, found[-1].drops - found[0].drops) for name, found in links.items()]
    starts = {event.fault: event.t_s for event in reversed(events) if isinstance(event, FaultStarted)}
    for fault in {event.fault: event for event in events if isinstance(event, FaultScheduled)}.values():
        if fault.due_s <= end or fault.fault in starts:
            subject = f"{fault.verb} {fault.target}"
            checks.append(check_fault(end, subject, fault.due_s, starts.get(fault.fault), bars))
    late_s = [max(0.0, event.t_s - event.due_s) for event in events if isinstance(event, RequestSubmitted)]
    checks.append(check_generator(end, late_s, bars))
    changes = (event for event in events if isinstance(event, (LinkRateChanged, FaultChanged)))
    traced_s = [max(0.0, event.t_s - event.due_s) for event in changes]
    if traced_s:
        checks.append(check_trace(end, traced_s, bars))
    return checks


def _mean_share(samples: Sequence[HostSample]) -> float | None:
    """The mean of a host's limit, which faults may change; between two samples it was at most the larger of theirs."""
    limited, span_s = 0.0, 0.0
    for before, after in itertools.pairwise(samples):
        if before.cpu_share is None or after.cpu_share is None:
            return None
        limited += max(before.cpu_share, after.cpu_share) * (after.t_s - before.t_s)
        span_s += after.t_s - before.t_s
    return limited / span_s if span_s > 0 else None

"""Can the emulation be trusted? ``valid``, ``suspect`` or ``invalid``, with reasons.

Each question is a :class:`~runner.events.Check`: what was asked for, what was measured, and what the difference
makes of the run. The functions that make checks take plain numbers; :func:`judge` takes all checks and gives the
verdict, which is the worst of theirs.

The kernel's CPU pressure counts tasks that a quota holds back as waiting: one host that computes at a tenth of a core
on an otherwise idle machine shows a pressure of 89 %. So pressure only informs when hosts have quotas; starvation is
judged by how often the machine had no idle time left, and by the time that a hypervisor took from it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
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
from runner.quantiles import percentile
from testbed.serving.events import Event, PlanAdopted, RequestSubmitted, StageExecuted

LEVELS = ("valid", "suspect", "invalid")


@dataclass(frozen=True, slots=True)
class Bar:
    """Above ``suspect`` a run is suspect, above ``invalid`` it is invalid."""

    suspect: float
    invalid: float

    def level(self, value: float) -> str:
        """The verdict on a value; what is no number can't be trusted."""
        if math.isnan(value) or value > self.invalid:
            return "invalid"
        return "suspect" if value > self.suspect else "valid"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """All bars in one place.

    Attributes:
        rate_error_pct: A link's rate against the request, either way.
        rtt_error_pct: A link's round trip against the request, either way …
        rtt_slack_ms: … or this much, whichever is larger; the same for ``suspect`` and ``invalid``.
        saturated_pct: Share of the workload's seconds in which under ``saturated_idle_pct`` of the machine was idle.
        steal_pct: CPU time that a hypervisor gave to others.
        cpu_excess_pct: A host's CPU time above its share.
        pressure_pct: CPU pressure; judged only if no host has a quota.
        overshoot_pct: Calibrated compute: how much longer than due a host held its results, of the time they were due.
        service_time_pct: Real compute: a host's mean time for its stage, before the workload under its fitted quota,
            against the stage's core time over the host's share.
        fault_lateness_ms: A fault's start after it was due.
        generator_lateness_ms: 99th percentile of requests submitted after they were due (open loop).
        delay_lateness_ms: 99th percentile of packets released by the delay line after they were due.
        scheduling_ms: 99th percentile of the sentinel's wake-ups after they were due.
    """

    rate_error_pct: Bar = field(default_factory=lambda: Bar(3, 10))
    rtt_error_pct: Bar = field(default_factory=lambda: Bar(5, 20))
    rtt_slack_ms: Bar = field(default_factory=lambda: Bar(0.7, 3))
    saturated_idle_pct: float = 5
    saturated_pct: Bar = field(default_factory=lambda: Bar(10, 50))
    steal_pct: Bar = field(default_factory=lambda: Bar(3, 10))
    cpu_excess_pct: Bar = field(default_factory=lambda: Bar(10, 30))
    pressure_pct: Bar = field(default_factory=lambda: Bar(20, 50))
    overshoot_pct: Bar = field(default_factory=lambda: Bar(3, 10))
    service_time_pct: Bar = field(default_factory=lambda: Bar(20, 50))
    fault_lateness_ms: Bar = field(default_factory=lambda: Bar(20, 200))
    generator_lateness_ms: Bar = field(default_factory=lambda: Bar(20, 200))
    delay_lateness_ms: Bar = field(default_factory=lambda: Bar(2, 10))
    scheduling_ms: Bar = field(default_factory=lambda: Bar(5, 20))


DEFAULTS = Thresholds()


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


def check_rate(
    t_s: float, when: str, subject: str, requested_bps: float, measured_bps: float, bars: Thresholds = DEFAULTS
) -> Check:
    """A link's measured rate; ``when`` is ``before`` or ``after`` the workload, ``subject`` the link's direction."""
    error_pct = (measured_bps / requested_bps - 1) * 100
    level = bars.rate_error_pct.level(abs(error_pct))
    return _check(
        t_s,
        f"rate_{when}_mbit_s",
        subject,
        requested_bps / 1e6,
        measured_bps / 1e6,
        error_pct,
        level,
        "Mbit/s",
        f"rate {when} the workload is {measured_bps / 1e6:.3g} instead of {requested_bps / 1e6:.3g} Mbit/s",
    )


def check_round_trip(
    t_s: float, when: str, subject: str, requested_s: float, measured_s: float, bars: Thresholds = DEFAULTS
) -> Check:
    """A link's measured round-trip time, off by a share of the request or by the slack, whichever is larger."""
    off_ms = abs(measured_s - requested_s) * 1e3
    allowed = Bar(
        max(bars.rtt_slack_ms.suspect, requested_s * 10 * bars.rtt_error_pct.suspect),
        max(bars.rtt_slack_ms.invalid, requested_s * 10 * bars.rtt_error_pct.invalid),
    )
    return _check(
        t_s,
        f"rtt_{when}_ms",
        subject,
        requested_s * 1e3,
        measured_s * 1e3,
        (measured_s / requested_s - 1) * 100 if requested_s else None,
        allowed.level(off_ms),
        "ms",
        f"round trip {when} the workload is {measured_s * 1e3:.3g} instead of {requested_s * 1e3:.3g} ms",
    )


def check_fault(t_s: float, subject: str, due_s: float, started_s: float | None, bars: Thresholds = DEFAULTS) -> Check:
    """A fault's punctuality; ``started_s`` is None for one that was never injected, which makes the run invalid."""
    late_ms = math.inf if started_s is None else (started_s - due_s) * 1e3
    level = bars.fault_lateness_ms.level(abs(late_ms))
    words = "was never injected" if started_s is None else f"started {late_ms:.3g} ms after it was due"
    requested = bars.fault_lateness_ms.suspect
    return _check(t_s, "fault_lateness_ms", subject, requested, late_ms, None, level, "ms", words)


def check_trace(t_s: float, lateness_s: Sequence[float], bars: Thresholds = DEFAULTS) -> Check:
    """How late links were changed that follow a recording, or flap."""
    late_ms = percentile(lateness_s, 99) * 1e3 if lateness_s else 0.0
    level = bars.fault_lateness_ms.level(late_ms)
    words = f"1 % of the links' timed changes were made over {late_ms:.3g} ms late"
    requested = bars.fault_lateness_ms.suspect
    return _check(t_s, "trace_lateness_p99_ms", "link traces", requested, late_ms, None, level, "ms", words)


def check_generator(t_s: float, lateness_s: Sequence[float], bars: Thresholds = DEFAULTS) -> Check:
    """How late the workload's requests were submitted."""
    late_ms = percentile(lateness_s, 99) * 1e3 if lateness_s else 0.0
    level = bars.generator_lateness_ms.level(late_ms)
    words = f"1 % of the requests were submitted over {late_ms:.3g} ms late"
    requested = bars.generator_lateness_ms.suspect
    return _check(t_s, "generator_lateness_p99_ms", "workload", requested, late_ms, None, level, "ms", words)


def check_delay_line(t_s: float, lateness_p99_s: float, *, alive: bool = True, bars: Thresholds = DEFAULTS) -> Check:
    """How late the delay line released packets; a delay line that died makes the run invalid."""
    late_ms = lateness_p99_s * 1e3
    level = bars.delay_lateness_ms.level(late_ms) if alive else "invalid"
    words = f"the delay line released 1 % of the packets over {late_ms:.3g} ms late" if alive else "it died"
    requested = bars.delay_lateness_ms.suspect
    return _check(t_s, "delay_line_lateness_p99_ms", "delay line", requested, late_ms, None, level, "ms", words)


def check_scheduling(samples: Sequence[SchedulingSample], bars: Thresholds = DEFAULTS) -> Check:
    """How late the machine ran what was ready to run; without samples nothing is known, which is suspect."""
    lateness_ms = [late for sample in samples for late in sample.lateness_ms]
    if not lateness_ms:
        words = "how late it runs what is ready was not sampled"
        return _check(0.0, "scheduling_samples", "machine", 1.0, 0.0, None, "suspect", "", words)
    late_ms = percentile(lateness_ms, 99)
    level = bars.scheduling_ms.level(late_ms)
    words = f"one wake-up in a hundred came over {late_ms:.3g} ms late: other work on this machine"
    requested = bars.scheduling_ms.suspect
    t_s = samples[-1].t_s
    return _check(t_s, "scheduling_lateness_p99_ms", "machine", requested, late_ms, None, level, "ms", words)


def check_machine(samples: Sequence[MachineSample], *, quotas: bool, bars: Thresholds = DEFAULTS) -> list[Check]:
    """Was there a CPU for everyone? From samples about a second apart, in order; ``quotas``: some host has one.

    Fewer than two samples tell nothing: the result is then a single check that is not ok.
    """
    if len(samples) < 2:
        t_s = samples[0].t_s if samples else 0.0
        words = "its load was not sampled"
        return [_check(t_s, "samples", "machine", 2.0, float(len(samples)), None, "suspect", "", words)]
    first, last = samples[0], samples[-1]
    saturated_s = 0.0
    for before, after in itertools.pairwise(samples):
        if _idle_pct(before, after) < bars.saturated_idle_pct:
            saturated_s += after.t_s - before.t_s
    span_s = max(last.t_s - first.t_s, 1e-9)
    total_s = max((last.busy_s + last.idle_s + last.steal_s) - (first.busy_s + first.idle_s + first.steal_s), 1e-9)
    saturated_pct = saturated_s / span_s * 100
    steal_pct = (last.steal_s - first.steal_s) / total_s * 100
    busy_pct = (last.busy_s - first.busy_s) / total_s * 100
    checks = [
        _check(last.t_s, "cpu_busy_pct", "machine", None, busy_pct, None, "valid", "%", ""),
        _check(
            last.t_s,
            "cpu_saturated_pct",
            "machine",
            bars.saturated_pct.suspect,
            saturated_pct,
            None,
            bars.saturated_pct.level(saturated_pct),
            "%",
            f"no CPU was idle for {saturated_pct:.0f} % of the workload: other work, or shares too large",
        ),
        _check(
            last.t_s,
            "cpu_steal_pct",
            "machine",
            bars.steal_pct.suspect,
            steal_pct,
            None,
            bars.steal_pct.level(steal_pct),
            "%",
            f"the hypervisor took {steal_pct:.1f} % of the CPU time",
        ),
    ]
    if first.pressure_s is not None and last.pressure_s is not None:
        pressure_pct = (last.pressure_s - first.pressure_s) / span_s * 100
        level = "valid" if quotas else bars.pressure_pct.level(pressure_pct)
        bar = None if quotas else bars.pressure_pct.suspect
        words = f"some task waited for a CPU for {pressure_pct:.0f} % of the workload"
        checks.append(_check(last.t_s, "cpu_pressure_pct", "machine", bar, pressure_pct, None, level, "%", words))
    return checks


def check_share(t_s: float, host: str, share: float, used_share: float, bars: Thresholds = DEFAULTS) -> Check:
    """A host's mean CPU time against its share; below is fine (it may have had nothing to do), above is not."""
    error_pct = (used_share / share - 1) * 100
    level = bars.cpu_excess_pct.level(error_pct)
    words = f"used {used_share:.3g} of a core, its share is {share:.3g}"
    return _check(t_s, "cpu_share", host, share, used_share, error_pct, level, "cores", words)


def check_overshoot(t_s: float, host: str, due_s: float, overshoot_s: float, bars: Thresholds = DEFAULTS) -> Check:
    """How much longer than due a calibrated host held its results, over all of them; longer means too slow a host."""
    over_pct = overshoot_s / due_s * 100
    level = bars.overshoot_pct.level(over_pct)
    words = f"held its results {over_pct:.1f} % longer than due: this machine is too busy to release them in time"
    return _check(t_s, "overshoot_pct", host, bars.overshoot_pct.suspect, over_pct, None, level, "%", words)


def check_service_time(
    t_s: float, host: str, requested_s: float, measured_s: float, bars: Thresholds = DEFAULTS
) -> Check:
    """A stage's time on a host that only computes, under its quota, against its core time over the host's share."""
    error_pct = (measured_s / requested_s - 1) * 100
    level = bars.service_time_pct.level(abs(error_pct))
    words = f"its stage took {measured_s * 1e3:.3g} instead of {requested_s * 1e3:.3g} ms before the workload"
    return _check(t_s, "service_time_ms", host, requested_s * 1e3, measured_s * 1e3, error_pct, level, "ms", words)


def checks_of_stages(events: Sequence[Event], bars: Thresholds = DEFAULTS) -> list[Check]:
    """Did each host compute at its speed? Of the first plan, whose times come from the calibration of the model.

    Hosts that ran their stage fewer than five times tell nothing.
    """
    end = tables.end_s(events)
    first = next((event for event in events if isinstance(event, PlanAdopted)), None)
    if first is None:
        return []
    found: dict[str, list[StageExecuted]] = {}
    for event in events:
        if isinstance(event, StageExecuted) and event.epoch == first.epoch:
            found.setdefault(event.host, []).append(event)
    checks = []
    fits: dict[str, list[QuotaFitted]] = {}
    for event in events:
        if isinstance(event, QuotaFitted):
            fits.setdefault(event.host, []).append(event)
    for stage in first.stages:
        if stage.host in fits and stage.compute_s > 0:
            last = fits[stage.host][-1]
            under_it = [fit.service_s for fit in fits[stage.host] if fit.quota_cpu_share == last.quota_cpu_share]
            checks.append(check_service_time(last.t_s, stage.host, stage.compute_s, fmean(under_it), bars))
        ran = found.get(stage.host, [])
        if len(ran) < 5 or stage.compute_s <= 0:
            continue
        took_s = math.fsum(event.finished_s - event.started_s for event in ran)
        over_s = [event.overshoot_s for event in ran if event.overshoot_s is not None]
        if len(over_s) == len(ran):
            checks.append(check_overshoot(end, stage.host, took_s - math.fsum(over_s), math.fsum(over_s), bars))
        else:
            # During the workload a host also receives and sends, out of the same share, and a host that mostly waits
            # finds a fresh quota for each request: what its stage takes then informs, but is no error of the emulation.
            mean_ms = took_s / len(ran) * 1e3
            checks.append(_check(end, "stage_time_ms", stage.host, None, mean_ms, None, "valid", "ms", ""))
    return checks


def check_drops(t_s: float, subject: str, drops: int) -> Check:
    """Packets dropped at a link's queue: information, because a full queue is what a slow link is made of."""
    return _check(t_s, "queue_drops_packets", subject, None, float(drops), None, "valid", "packets", "")


def checks_of_events(events: Sequence[Event], bars: Thresholds = DEFAULTS) -> list[Check]:
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
    checks += [check_drops(end, name, found[-1].drops - found[0].drops) for name, found in links.items()]
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


def _idle_pct(before: MachineSample, after: MachineSample) -> float:
    idle_s = after.idle_s - before.idle_s
    total_s = idle_s + after.busy_s - before.busy_s + after.steal_s - before.steal_s
    return 100.0 if total_s <= 0 else idle_s / total_s * 100


def _check(
    t_s: float,
    check: str,
    subject: str,
    requested: float | None,
    measured: float,
    error_pct: float | None,
    level: str,
    unit: str,
    words: str,
) -> Check:
    ok = level == "valid"
    return Check(
        t_s=t_s,
        check=check,
        subject=subject,
        requested=requested,
        measured=measured,
        error_pct=error_pct,
        ok=ok,
        unit=unit,
        level=level,
        detail="" if ok else words,
    )

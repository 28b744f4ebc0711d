"""Comparisons of what was asked of the emulation with what it did: plain numbers in, a :class:`Check` out.

The kernel's CPU pressure counts tasks that a quota holds back as waiting: one host that computes at a tenth of a core
on an otherwise idle machine shows a pressure of 89 %. So pressure only informs when hosts have quotas; starvation is
judged by how often the machine had no idle time left, and by the time that a hypervisor took from it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from runner.events import Check, MachineSample, SchedulingSample
from runner.quantiles import percentile
from testbed.spec.verdict import Bar, VerdictSpec
from testbed.units import format_duration, format_rate

DEFAULTS = VerdictSpec()


def check_rate(
    t_s: float, when: str, subject: str, requested_bps: float, measured_bps: float, bars: VerdictSpec = DEFAULTS
) -> Check:
    """A link's measured rate; ``when`` is ``before`` or ``after`` the workload, ``subject`` the link's direction."""
    error = measured_bps / requested_bps - 1
    return _check(
        t_s,
        f"rate_{when}_mbit_s",
        subject,
        requested_bps / 1e6,
        measured_bps / 1e6,
        error * 100,
        bars.rate_error.level(abs(error)),
        "Mbit/s",
        f"rate {when} the workload is {format_rate(measured_bps)} instead of {format_rate(requested_bps)}",
    )


def check_round_trip(
    t_s: float, when: str, subject: str, requested_s: float, measured_s: float, bars: VerdictSpec = DEFAULTS
) -> Check:
    """A link's measured round-trip time, off by a share of the request or by the slack, whichever is larger."""
    told = format_duration(measured_s) if math.isfinite(measured_s) else "endless"
    words = f"round trip {when} the workload is {told} instead of {format_duration(requested_s)}"
    slack, error = bars.round_trip_slack_s, bars.round_trip_error
    allowed = Bar(
        max(slack.suspect, requested_s * error.suspect),
        max(slack.invalid, requested_s * error.invalid),
    )
    return _check(
        t_s,
        f"rtt_{when}_ms",
        subject,
        requested_s * 1e3,
        measured_s * 1e3,
        (measured_s / requested_s - 1) * 100 if requested_s else None,
        allowed.level(abs(measured_s - requested_s)),
        "ms",
        words,
    )


def check_fault(t_s: float, subject: str, due_s: float, started_s: float | None, bars: VerdictSpec = DEFAULTS) -> Check:
    """A fault's punctuality; ``started_s`` is None for one that was never injected, which makes the run invalid."""
    late_s = math.inf if started_s is None else started_s - due_s
    words = "was never injected" if started_s is None else f"started {format_duration(late_s)} after it was due"
    return _late(t_s, "fault_lateness_ms", subject, late_s, bars.fault_lateness_s, words)


def check_trace(t_s: float, lateness_s: Sequence[float], bars: VerdictSpec = DEFAULTS) -> Check:
    """How late links were changed that follow a recording, or flap."""
    late_s = percentile(lateness_s, 99) if lateness_s else 0.0
    words = f"1 % of the links' timed changes were made over {format_duration(late_s)} late"
    return _late(t_s, "trace_lateness_p99_ms", "link traces", late_s, bars.fault_lateness_s, words)


def check_generator(t_s: float, lateness_s: Sequence[float], bars: VerdictSpec = DEFAULTS) -> Check:
    """How late the workload's requests were submitted."""
    late_s = percentile(lateness_s, 99) if lateness_s else 0.0
    words = f"1 % of the requests were submitted over {format_duration(late_s)} late"
    return _late(t_s, "generator_lateness_p99_ms", "workload", late_s, bars.generator_lateness_s, words)


def check_delay_line(t_s: float, lateness_p99_s: float, drops: int, bars: VerdictSpec = DEFAULTS) -> list[Check]:
    """How late the delay line released packets; and what the kernel dropped because it took too few, which is none."""
    subject = "delay line"
    late = f"it released 1 % of the packets over {format_duration(lateness_p99_s)} late"
    lost, level = f"it took packets so slowly that the kernel dropped {drops}", "invalid" if drops else "valid"
    return [
        _late(t_s, "delay_line_lateness_p99_ms", subject, lateness_p99_s, bars.delay_lateness_s, late),
        _check(t_s, "delay_line_drops_packets", subject, 0.0, float(drops), None, level, "packets", lost),
    ]


def check_breakdown(t_s: float, reason: str) -> Check:
    """A part of the emulation that has failed, such as the delay line; nothing after that can be trusted."""
    return _check(t_s, "breakdowns", "emulation", 0.0, 1.0, None, "invalid", "", reason)


def check_scheduling(samples: Sequence[SchedulingSample], bars: VerdictSpec = DEFAULTS) -> Check:
    """How late the machine ran what was ready to run; without samples nothing is known, which is suspect."""
    lateness_ms = [late for sample in samples for late in sample.lateness_ms]
    if not lateness_ms:
        words = "how late it runs what is ready was not sampled"
        return _check(0.0, "scheduling_samples", "machine", 1.0, 0.0, None, "suspect", "", words)
    late_s = percentile(lateness_ms, 99) / 1e3
    words = f"one wake-up in a hundred came over {format_duration(late_s)} late: other work on this machine"
    bar, t_s = bars.scheduling_lateness_s, samples[-1].t_s
    return _late(t_s, "scheduling_lateness_p99_ms", "machine", late_s, bar, words)


def check_machine(samples: Sequence[MachineSample], *, quotas: bool, bars: VerdictSpec = DEFAULTS) -> list[Check]:
    """Was there a CPU for everyone? From samples about a second apart, in order; ``quotas``: some host has one.

    Fewer than two samples tell nothing: the result is then a single check that is not ok.
    """
    if len(samples) < 2:
        t_s = samples[0].t_s if samples else 0.0
        words = "its load was not sampled"
        return [_check(t_s, "samples", "machine", 2.0, float(len(samples)), None, "suspect", "", words)]
    first, last = samples[0], samples[-1]
    saturated_s = math.fsum(
        after.t_s - before.t_s
        for before, after in itertools.pairwise(samples)
        if _idle(before, after) < bars.saturated_idle
    )
    span_s = max(last.t_s - first.t_s, 1e-9)
    total_s = max(_cpu_s(first, last), 1e-9)
    saturated = saturated_s / span_s
    steal = stolen_share(first, last)
    starved = f"no CPU was idle for {saturated * 100:.0f} % of the workload: other work, or shares too large"
    stolen = f"the hypervisor took {steal * 100:.1f} % of the CPU time"
    checks = [
        _share(last.t_s, "cpu_busy_pct", "machine", (last.busy_s - first.busy_s) / total_s, None, ""),
        _share(last.t_s, "cpu_saturated_pct", "machine", saturated, bars.saturated, starved),
        _share(last.t_s, "cpu_steal_pct", "machine", steal, bars.steal, stolen),
    ]
    if first.pressure_s is not None and last.pressure_s is not None:
        pressure = (last.pressure_s - first.pressure_s) / span_s
        words = f"some task waited for a CPU for {pressure * 100:.0f} % of the workload"
        bar = None if quotas else bars.pressure
        checks.append(_share(last.t_s, "cpu_pressure_pct", "machine", pressure, bar, words))
    return checks


def check_share(t_s: float, host: str, share: float, used_share: float, bars: VerdictSpec = DEFAULTS) -> Check:
    """A host's mean CPU time against its share; below is fine (it may have had nothing to do), above is not."""
    excess = used_share / share - 1
    level = bars.cpu_excess.level(excess)
    words = f"used {used_share:.3g} of a core, its share is {share:.3g}"
    return _check(t_s, "cpu_share", host, share, used_share, excess * 100, level, "cores", words)


def check_overshoot(
    t_s: float, host: str, pace_s: float, overshoot_s: float, *, real: bool, bars: VerdictSpec = DEFAULTS
) -> Check:
    """How much later than due a host released its results, on average; later means too slow a host.

    It is judged by what it can do to a run. A stage that is far from being the bottleneck may be late by much of its
    own short time, which neither throughput nor latency shows.

    Args:
        t_s: When it is judged.
        host: Which.
        pace_s: Time from one request to the next at the bottleneck of its plan.
        overshoot_s: Mean of how much later than due.
        real: Whether it computes for real.
        bars: The thresholds.
    """
    over = overshoot_s / pace_s
    why = ", or receiving and sending take more than its share has to spare" if real else ""
    words = (
        f"released its results {format_duration(overshoot_s)} later than due, {over * 100:.1f} % of the time from one "
        f"request to the next: this machine is too busy{why}"
    )
    return _share(t_s, "overshoot_pct", host, over, bars.real_overshoot if real else bars.overshoot, words)


def check_service_time(
    t_s: float, host: str, requested_s: float, measured_s: float, bars: VerdictSpec = DEFAULTS
) -> Check:
    """A stage's time on a host that only computes, under its quota, against its core time over the host's share.

    Less is fine, because results are held back.
    """
    error = measured_s / requested_s - 1
    level = bars.service_time.level(error)
    took, wanted = format_duration(measured_s), format_duration(requested_s)
    words = f"its stage took {took} instead of {wanted} before the workload"
    return _check(t_s, "service_time_ms", host, requested_s * 1e3, measured_s * 1e3, error * 100, level, "ms", words)


def tell_drops(t_s: float, subject: str, drops: int) -> Check:
    """Packets dropped at a link's queue: information, because a full queue is what a slow link is made of."""
    return _check(t_s, "queue_drops_packets", subject, None, float(drops), None, "valid", "packets", "")


def stolen_share(before: MachineSample, after: MachineSample) -> float:
    """Of the CPU time between two samples, what a hypervisor gave to others."""
    return (after.steal_s - before.steal_s) / max(_cpu_s(before, after), 1e-9)


def _cpu_s(before: MachineSample, after: MachineSample) -> float:
    """CPU seconds between two samples, of all cores."""
    return (after.busy_s + after.idle_s + after.steal_s) - (before.busy_s + before.idle_s + before.steal_s)


def _idle(before: MachineSample, after: MachineSample) -> float:
    total_s = _cpu_s(before, after)
    return 1.0 if total_s <= 0 else (after.idle_s - before.idle_s) / total_s


def _late(t_s: float, check: str, subject: str, late_s: float, bar: Bar, words: str) -> Check:
    level = bar.level(abs(late_s))
    return _check(t_s, check, subject, bar.suspect * 1e3, late_s * 1e3, None, level, "ms", words)


def _share(t_s: float, check: str, subject: str, share: float, bar: Bar | None, words: str) -> Check:
    """A share of something, in per cent; without a bar it only informs."""
    requested, level = (None, "valid") if bar is None else (bar.suspect * 100, bar.level(share))
    return _check(t_s, check, subject, requested, share * 100, None, level, "%", words)


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

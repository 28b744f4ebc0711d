"""Time dilation: from the declared experiment to the slower one that is emulated.

With ``compute.time_scale: k`` a second of the declared experiment takes k seconds. Everything that is a time is
multiplied by k (delays, heartbeats, deadlines, durations, the times of faults), everything that is per second divided
(rates of links, of requests, of faults; shares of a core); memory, storage, loss and counts stay. So a machine that is
k times too small for an experiment can run it, and errors of the emulation (a late timer, a late packet) weigh k times
less. Results are brought back to the declared, virtual units by :mod:`runner.virtual_time`.

What doesn't scale is the kernel's own: TCP's delayed acknowledgement (40 ms) and its first time-out (1 s), the
granularity of timers, and how long a process takes to wake up. TCP's least retransmission time-out is set to 200 ms × k
on every host (:mod:`runner.tcp_timers`). All of these become k times *shorter* in virtual time.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType
from typing import Any, TypeVar

from testbed.spec.experiment import Experiment
from testbed.spec.faults import ThrottleFault
from testbed.spec.links import LinkSpec
from testbed.spec.section import Section
from testbed.spec.traces import TraceSpec
from testbed.spec.verdict import VerdictSpec

_S = TypeVar("_S", bound=Section)

MAX_PERIOD_S = 1.0
MIN_RATE_BPS = 8_000
"""What the shaping of links is good for."""


def slowed(experiment: Experiment) -> Experiment:
    """The experiment that is emulated for a declared one; itself when its time scale is 1.

    The result has time scale 1 and may lie outside of the ranges that a file must keep (a heartbeat of minutes, say).
    """
    k = experiment.compute.time_scale
    if k == 1:
        return experiment
    slow = _slower(experiment, k)
    hosts = {
        name: host if host.cpu is None else host.model_copy(update={"cpu": host.cpu / k})
        for name, host in experiment.hosts.items()
    }
    period_s = slow.compute.period_s
    compute = {"time_scale": 1.0, "period_s": None if period_s is None else min(MAX_PERIOD_S, period_s)}
    return slow.model_copy(
        update={"hosts": MappingProxyType(hosts), "compute": slow.compute.model_copy(update=compute)}
    )


def _slower(value: _S, k: float) -> _S:
    """A section, and all within, with its fields scaled by the unit that their names carry."""
    if isinstance(value, LinkSpec):
        return value.slowed(k)  # it has traces, and directions in which only what differs is set
    if isinstance(value, TraceSpec):
        return value.slowed(k)
    if isinstance(value, VerdictSpec):
        return value  # what it judges is brought back to the declared units first
    changes: dict[str, Any] = {}
    for name in type(value).model_fields:
        field = getattr(value, name)
        if isinstance(field, Section):
            changes[name] = _slower(field, k)
        elif isinstance(field, tuple):
            changes[name] = tuple(_slower(item, k) if isinstance(item, Section) else item for item in field)
        elif field is None:
            continue
        elif name.endswith("_s"):
            changes[name] = field * k
        elif name.endswith("_rps") or name == "cpu_share":
            changes[name] = field / k
        elif name.endswith("_bps"):
            changes[name] = max(1, round(field / k))
    return value.model_copy(update=changes)


def too_slow(experiment: Experiment) -> Iterator[tuple[tuple[str | int, ...], int]]:
    """Rates of links and faults that would fall below what links can be shaped to: where each is, and what it is."""
    k = experiment.compute.time_scale
    for index, link in enumerate(experiment.links):
        for word, settings in (("", link), ("forward", link.forward), ("backward", link.backward)):
            if settings is not None and settings.rate_bps is not None and settings.rate_bps / k < MIN_RATE_BPS:
                yield ("links", index, *((word,) if word else ()), "rate"), settings.rate_bps
    for index, fault in enumerate(experiment.faults):
        if isinstance(fault, ThrottleFault) and fault.rate_bps / k < MIN_RATE_BPS:
            yield ("faults", index, "rate"), fault.rate_bps

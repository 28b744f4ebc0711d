"""From a random campaign to its flat timeline. Pure and seeded: the same experiment has the same campaign.

Times are a Poisson process's. Each fault's kind is drawn evenly, then its target, how strong it is, and for how long.
A host has one fault at a time, and none after one that it doesn't come back from; when no host is free, the strike is
left out. All that can heal has healed by the end of the workload.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from testbed.spec.experiment import Experiment
from testbed.spec.faults import (
    ACCEPTED,
    CpuFault,
    DelayFault,
    DiskCorruptFault,
    DiskFullFault,
    DiskGoneFault,
    DiskReadonlyFault,
    DiskSlowFault,
    DownFault,
    FaultBase,
    FlapFault,
    HostFault,
    IsolateFault,
    JitterFault,
    KillFault,
    LeaveFault,
    LinkFault,
    LossFault,
    MemoryFault,
    PartitionFault,
    PauseFault,
    PoweroffFault,
    RebootFault,
    RestartFault,
    ThrottleFault,
)
from testbed.spec.faults.chaos import ChaosSpec
from testbed.spec.faults.targets import Named
from testbed.spec.links import LinkSpec

ONE_WAY_SHARE = 0.25
"""Of faults of links, so many strike one direction only."""
LEAST_S = 0.01
_LEAST_RATE_BPS = 8_000
_DECIMALS = 3

_FINAL: tuple[type[FaultBase], ...] = (KillFault, PoweroffFault, LeaveFault)


def drawable() -> tuple[str, ...]:
    """The verbs that a campaign can draw."""
    return tuple(kind.verb for kind in ACCEPTED if kind in _STRENGTHS or kind is PartitionFault)


def targets(experiment: Experiment, verb: str) -> tuple[str, ...]:
    """Names of the workers or links that a campaign could strike with a verb."""
    kind = next(kind for kind in ACCEPTED if kind.verb == verb)
    if issubclass(kind, LinkFault):
        return tuple(link.name for link in _links(experiment, kind))
    return _workers(experiment, kind)


def chaos(experiment: Experiment) -> Iterator[FaultBase]:
    """The campaign of a checked experiment, in the order of time; nothing without one."""
    spec, duration_s = experiment.chaos, experiment.workload.duration_s
    if spec is None:
        return
    seed = experiment.seed if spec.seed is None else spec.seed
    chance = random.Random(f"chaos/{seed}")  # noqa: S311 - seeded, not secret
    until_s = duration_s if spec.until_s is None else min(spec.until_s, duration_s)
    busy: dict[str, float] = {}
    at_s = spec.from_s
    while (at_s := at_s + chance.expovariate(spec.rate_rps)) < until_s:
        strike = _strike(experiment, spec, chance, round(at_s, _DECIMALS), busy)
        if strike is not None:
            yield strike


def _strike(
    experiment: Experiment, spec: ChaosSpec, chance: random.Random, at_s: float, busy: dict[str, float]
) -> FaultBase | None:
    verb = chance.choice(spec.kinds)
    kind = next(kind for kind in ACCEPTED if kind.verb == verb)
    left_s = math.floor((experiment.workload.duration_s - at_s) * 1000) / 1000
    for_s = min(round(chance.uniform(spec.lasting.least, spec.lasting.most), _DECIMALS), left_s)
    if for_s < LEAST_S:
        return None
    fields: dict[str, Any] = (
        {"at_s": at_s} if kind in _FINAL or kind is DiskCorruptFault else {"at_s": at_s, "for_s": for_s}
    )
    if kind is PartitionFault:
        hosts = chance.sample(tuple(experiment.hosts), len(experiment.hosts))
        cut = chance.randrange(1, len(hosts))
        return PartitionFault(**fields, partition=(tuple(sorted(hosts[:cut])), tuple(sorted(hosts[cut:]))))
    strength = _STRENGTHS[kind]
    if issubclass(kind, LinkFault):
        link = chance.choice(_links(experiment, kind))
        fields[verb] = link.between
        if chance.random() < ONE_WAY_SHARE:
            fields["from_"] = chance.choice(link.between)
        return kind(**fields, **strength(experiment, link, chance))
    free = [host for host in _workers(experiment, kind) if busy.get(host, 0.0) <= at_s]
    if not free:
        return None
    host = chance.choice(free)
    busy[host] = math.inf if kind in _FINAL else at_s + for_s
    fields[verb.replace("-", "_")] = Named((host,))
    return kind(**fields, **strength(experiment, host, chance))


def _workers(experiment: Experiment, kind: type[FaultBase]) -> tuple[str, ...]:
    def fits(host: str) -> bool:
        spec = experiment.hosts[host]
        if kind is CpuFault:
            return spec.device is None and spec.cpu is not None
        return kind is not MemoryFault or spec.memory_bytes is not None

    return tuple(host for host in experiment.workers if fits(host)) if issubclass(kind, HostFault) else ()


def _links(experiment: Experiment, kind: type[FaultBase]) -> tuple[LinkSpec, ...]:
    def fits(link: LinkSpec) -> bool:
        if kind is ThrottleFault:
            return _throttled_bps(experiment, link, 1.0) is not None
        return kind is not JitterFault or _room_s(link) > 0

    return tuple(link for link in experiment.links if fits(link))


def _throttled_bps(experiment: Experiment, link: LinkSpec, share: float) -> int | None:
    """A share of the slower direction's rate; None if there is no rate to speak of."""
    rates = [rate for source in link.between if (rate := link.way(source).rate_bps) is not None]
    least_bps = math.ceil(_LEAST_RATE_BPS * experiment.compute.time_scale)
    if len(rates) < 2 or min(rates) < 2 * least_bps:
        return None
    return max(least_bps, round(min(rates) * share))


def _room_s(link: LinkSpec) -> float:
    """How much jitter there may be besides the link's own, in either direction."""
    ways = [link.way(source) for source in link.between]
    return min(way.delay_s - way.jitter_s for way in ways)


def _seconds(value_s: float) -> float:
    return round(value_s, 6)


def _throttle(experiment: Experiment, link: LinkSpec, chance: random.Random) -> Mapping[str, Any]:
    return {"rate_bps": _throttled_bps(experiment, link, chance.uniform(0.05, 0.5))}


def _jitter(_: Experiment, link: LinkSpec, chance: random.Random) -> Mapping[str, Any]:
    return {"add_s": _seconds(max(1e-6, _room_s(link) * chance.uniform(0.1, 0.9)))}


def _delay(_: Experiment, __: LinkSpec, chance: random.Random) -> Mapping[str, Any]:
    return {"add_s": _seconds(0.005 * 40 ** chance.random())}


def _loss(_: Experiment, __: LinkSpec, chance: random.Random) -> Mapping[str, Any]:
    return {"loss_share": round(chance.uniform(0.005, 0.1), 4)}


def _flap(_: Experiment, __: LinkSpec, chance: random.Random) -> Mapping[str, Any]:
    return {"period_s": round(chance.uniform(0.2, 1.0), 3), "duty": round(chance.uniform(0.3, 0.8), 2)}


def _cpu(experiment: Experiment, host: str, chance: random.Random) -> Mapping[str, Any]:
    return {"cpu_share": round((experiment.hosts[host].cpu or 0.1) * chance.uniform(0.2, 0.8), 6)}


def _memory(experiment: Experiment, host: str, chance: random.Random) -> Mapping[str, Any]:
    return {"limit_bytes": max(2**20, round((experiment.hosts[host].memory_bytes or 0) * chance.uniform(0.3, 0.9)))}


def _disk_slow(_: Experiment, __: str, chance: random.Random) -> Mapping[str, Any]:
    return {"rate_bps": round(1e6 * 50 ** chance.random())}


def _no_strength(_: Experiment, __: object, ___: random.Random) -> Mapping[str, Any]:
    return {}


_STRENGTHS: Mapping[type[FaultBase], Callable[[Experiment, Any, random.Random], Mapping[str, Any]]] = {
    KillFault: _no_strength,
    PoweroffFault: _no_strength,
    RebootFault: _no_strength,
    RestartFault: _no_strength,
    PauseFault: _no_strength,
    LeaveFault: _no_strength,
    CpuFault: _cpu,
    MemoryFault: _memory,
    ThrottleFault: _throttle,
    DelayFault: _delay,
    JitterFault: _jitter,
    LossFault: _loss,
    DownFault: _no_strength,
    FlapFault: _flap,
    IsolateFault: _no_strength,
    DiskFullFault: _no_strength,
    DiskReadonlyFault: _no_strength,
    DiskSlowFault: _disk_slow,
    DiskCorruptFault: _no_strength,
    DiskGoneFault: _no_strength,
}
"""How strong a drawn fault of each kind is."""

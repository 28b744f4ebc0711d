"""What must hold between faults and the rest of an experiment. Pure: yields findings."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping

from testbed.spec.experiment import Experiment
from testbed.spec.faults import (
    DelayFault,
    FaultBase,
    HostFault,
    JitterFault,
    KillFault,
    LinkFault,
    LinkTraceFault,
    PartitionFault,
    ThrottleFault,
)
from testbed.spec.faults.campaign import drawable, targets
from testbed.spec.faults.chaos import ChaosSpec
from testbed.spec.faults.targets import BOTTLENECK, WORKERS, Drawn, Named, OfStage
from testbed.spec.faults.timeline import MAX_ENTRIES, candidates, tagged
from testbed.spec.findings import Finding, choice
from testbed.spec.host_fault_checks import check_host_fault
from testbed.spec.links import LinkSettings
from testbed.spec.traces import TraceError
from testbed.units import format_duration, format_rate


def check_faults(experiment: Experiment, *, names_fit: bool, replayed: bool) -> Iterator[Finding]:
    """Everything that is wrong with the faults.

    Args:
        experiment: With its sections valid.
        names_fit: Whether hosts and links are right among themselves.
        replayed: Whether a host may be killed twice.
    """
    yield from _tags(experiment)
    if experiment.chaos is not None:
        yield from _chaos(experiment, experiment.chaos)
    earlier: dict[frozenset[str], list[tuple[int, FaultBase]]] = defaultdict(list)  # by what they strike
    for index, fault in enumerate(experiment.faults):
        yield from _times(experiment, index, fault)
        if isinstance(fault, HostFault):
            yield from _hosts(experiment, index, fault)
            yield from check_host_fault(experiment, index, fault, names_fit=names_fit)
        elif isinstance(fault, LinkFault):
            yield from _link(experiment, index, fault, names_fit=names_fit)
        elif isinstance(fault, PartitionFault):
            yield from _groups(experiment, index, fault)
        rivals = earlier[_struck(fault)]
        for other_index, other in () if replayed else rivals:
            message = _clash(experiment, fault, other)
            if message is not None:
                yield Finding(
                    ("faults", index), f"{message} (faults[{other_index}])", "remove one of them, or change its time"
                )
                break
        rivals.append((index, fault))


def _tags(experiment: Experiment) -> Iterator[Finding]:
    for name, host in experiment.hosts.items():
        for place, tag in enumerate(host.tags):
            at = ("hosts", name, "tags", place)
            if tag in experiment.hosts or tag in experiment.switches:
                yield Finding(at, f"{tag!r} is the name of a node; a fault could mean either", "take another word")
            elif tag in (WORKERS, BOTTLENECK):
                yield Finding(at, f"{tag!r} has a meaning of its own in faults", "take another word")


def _chaos(experiment: Experiment, spec: ChaosSpec) -> Iterator[Finding]:
    duration_s = experiment.workload.duration_s
    until_s = duration_s if spec.until_s is None else spec.until_s
    if until_s > duration_s:
        told = f"is {format_duration(until_s)}, but the workload ends after {format_duration(duration_s)}"
        yield Finding(("chaos", "until"), told, "leave it out (the campaign then goes on to the end)")
    if spec.from_s >= until_s:
        yield Finding(("chaos",), f"ends at {format_duration(until_s)}, before it begins", "let it begin earlier")
    elif spec.rate_rps * (until_s - spec.from_s) > MAX_ENTRIES / 2:
        yield Finding(("chaos", "rate"), f"makes more than {MAX_ENTRIES // 2} faults", "take a lower rate")
    for index, verb in enumerate(spec.kinds):
        at = ("chaos", "kinds", index)
        if verb not in drawable():
            yield Finding(at, f"{verb!r:.60} is no kind of fault to draw", choice(verb, drawable()))
        elif verb != PartitionFault.verb and not targets(experiment, verb):
            told = "no worker or link fits: jitter needs a delay, throttle a rate, memory a limit, cpu a share"
            yield Finding(at, told, "remove it")


def _times(experiment: Experiment, index: int, fault: FaultBase) -> Iterator[Finding]:
    at, duration_s = ("faults", index), experiment.workload.duration_s
    if fault.at_s >= duration_s:
        yield Finding(
            (*at, "at"),
            f"strikes at {format_duration(fault.at_s)}, but the workload ends after {format_duration(duration_s)}",
            "move it earlier, or make workload.duration longer",
        )
        return
    instants = list(itertools.islice(fault.instants(duration_s), MAX_ENTRIES + 1))
    if len(instants) > MAX_ENTRIES:
        yield Finding((*at, "every"), f"strikes more than {MAX_ENTRIES} times", "say how often with times")
        return
    if fault.times is not None and len(instants) < fault.times:
        yield Finding(
            (*at, "times"),
            f"strikes {fault.times} times, but the workload ends after {format_duration(duration_s)}, "
            f"in which it strikes {len(instants)} times",
            "leave `times` out (it then strikes to the end), or make workload.duration longer",
        )
    elif fault.lasts_s is not None and fault.at_s + fault.lasts_s > duration_s + 1e-9 and fault.every_s is None:
        yield Finding(
            (*at, "for"),
            f"lasts until {format_duration(fault.at_s + fault.lasts_s)}, "
            f"but the workload ends after {format_duration(duration_s)}",
            "shorten it, leave `for` out (it then lasts to the end), or make workload.duration longer",
        )


def _hosts(experiment: Experiment, index: int, fault: HostFault) -> Iterator[Finding]:
    at: tuple[str | int, ...] = ("faults", index, fault.verb)
    legal = tuple(experiment.hosts) if fault.strikes_dispatcher else experiment.workers
    what = "hosts" if fault.strikes_dispatcher else "workers"
    match fault.struck:
        case Named(names):
            if len(names) == 1 and tagged(experiment.hosts, names[0]):
                names = tagged(experiment.hosts, names[0])
            for place, name in enumerate(names):
                where = at if fault.struck == Named((name,)) or len(names) == 1 else (*at, place)
                yield from _host(experiment, fault, name, where, legal, what)
        case OfStage(stage) if stage >= (most := most_stages(experiment)):
            yield Finding(at, f"there is no stage {stage}", f"a plan has at most {most} stages, from 0")
        case Drawn(count, among):
            tags = sorted({tag for host in experiment.hosts.values() for tag in host.tags})
            found = candidates(experiment, among)
            if among != WORKERS and not found:
                yield Finding((*at, "random"), f"no host has the tag {among!r}", choice(among, [WORKERS, *tags]))
            elif count > len(found):
                yield Finding((*at, "random"), f"draws {count} of {among}, who are {len(found)}", ", ".join(found[:20]))


def most_stages(experiment: Experiment) -> int:
    """No plan has more stages."""
    placement = experiment.placement
    return placement.max_stages or len(experiment.workers) * placement.stages_per_host


def _host(
    experiment: Experiment,
    fault: HostFault,
    name: str,
    at: tuple[str | int, ...],
    legal: tuple[str, ...],
    what: str,
) -> Iterator[Finding]:
    if name in experiment.switches and name not in experiment.hosts:
        yield Finding(at, f"{name!r} is a switch; {fault.verb} is for hosts", f"{what}: {', '.join(legal[:20])}")
    elif name not in experiment.hosts:
        yield Finding(at, f"there is no host {name!r}", choice(name, legal, what))
    elif name not in legal:
        yield Finding(at, f"{name!r} is the dispatcher; {fault.verb} is for workers", choice("", legal, what))


def _link(experiment: Experiment, index: int, fault: LinkFault, *, names_fit: bool) -> Iterator[Finding]:
    at = ("faults", index, fault.verb)
    nodes = [*experiment.hosts, *experiment.switches]
    strangers = [(end, node) for end, node in enumerate(fault.ends) if node not in nodes]
    for end, node in strangers:
        yield Finding((*at, end), f"there is no host or switch {node!r}", choice(node, nodes, "hosts and switches"))
    if names_fit and not strangers and all(set(fault.ends) != set(link.between) for link in experiment.links):
        names = [link.name for link in experiment.links]
        yield Finding(at, f"no link joins {' and '.join(fault.ends)}", choice(fault.target, names, "links"))
    elif names_fit and not strangers:
        link = next(link for link in experiment.links if set(fault.ends) == set(link.between))
        ways = {source: link.way(source) for source in ([fault.from_] if fault.from_ else link.between)}
        yield from _effect(experiment, index, fault, ways)


def _effect(
    experiment: Experiment, index: int, fault: LinkFault, ways: Mapping[str, LinkSettings]
) -> Iterator[Finding]:
    """Faults that would do nothing, or can't be: no fault makes a link faster, or delays scatter beyond the delay."""
    at = ("faults", index)
    match fault:
        case ThrottleFault(rate_bps=rate_bps):
            rates = [way.rate_bps for way in ways.values()]
            if all(rate is not None and rate <= rate_bps for rate in rates):
                slowest = format_rate(max(rate for rate in rates if rate is not None))
                yield Finding(
                    (*at, "rate"), f"is no throttle: {fault.target} has {slowest} anyway", "take a lower rate"
                )
        case JitterFault(add_s=add_s):
            for source, way in ways.items():
                most_s = way.delay_s + _longer_s(experiment, fault, source)
                least_s = math.hypot(way.jitter_s, add_s)
                if (way.jitter_s + add_s if way.jitter_distribution == "uniform" else least_s) > most_s:
                    yield Finding(
                        (*at, "add"),
                        f"a jitter of {format_duration(least_s)} would be more than the delay of "
                        f"{format_duration(most_s)} from {source}; packets can't arrive before they were sent",
                        "take less, or let a delay fault of the link last as long",
                    )
                    return
        case LinkTraceFault(recording=recording):
            try:
                recording.read().changes(experiment.workload.duration_s, loop=recording.loop)
            except TraceError as error:
                yield Finding((*at, "recording"), str(error))


def _longer_s(experiment: Experiment, jitter: JitterFault, source: str) -> float:
    """By how much delay faults make a direction longer all the time that a jitter fault of it lasts."""

    def end_s(fault: LinkFault) -> float:
        return math.inf if fault.for_s is None else fault.at_s + fault.for_s

    return math.fsum(
        fault.add_s
        for fault in experiment.faults
        if isinstance(fault, DelayFault)
        and set(fault.ends) == set(jitter.ends)
        and fault.from_ in (None, source)
        and fault.at_s <= jitter.at_s
        and end_s(jitter) <= end_s(fault)
        and fault.every_s == jitter.every_s
        and fault.times == jitter.times
    )


def _groups(experiment: Experiment, index: int, fault: PartitionFault) -> Iterator[Finding]:
    hosts = tuple(experiment.hosts)
    for number, group in enumerate(fault.partition):
        for place, name in enumerate(group):
            if name not in experiment.hosts:
                yield Finding(
                    ("faults", index, "partition", number, place),
                    f"{name!r} is a switch; a partition is of hosts"
                    if name in experiment.switches
                    else f"there is no host {name!r}",
                    choice(name, hosts, "hosts"),
                )


def _struck(fault: FaultBase) -> frozenset[str]:
    if isinstance(fault, LinkFault):
        return frozenset(fault.ends)
    if isinstance(fault, HostFault) and isinstance(fault.struck, Named):
        return frozenset(fault.struck.names)
    return frozenset()


def _clash(experiment: Experiment, fault: FaultBase, other: FaultBase) -> str | None:
    """Why two faults of one target can't be in one experiment, None if they can."""
    if not isinstance(fault, KillFault) or not isinstance(other, KillFault) or not isinstance(fault.struck, Named):
        return None
    back = ("reboot", "restart", "join")
    revived = any(one.kind in back and _struck(one) & _struck(fault) for one in experiment.faults)
    return None if revived else f"{fault.target!r} is killed already"

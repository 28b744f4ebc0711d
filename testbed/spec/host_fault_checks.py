"""What must hold between faults of hosts and the hosts that they strike. Pure: yields findings."""

from __future__ import annotations

from collections.abc import Iterator

from testbed.spec.experiment import Experiment
from testbed.spec.faults import CpuFault, HostFault, JoinFault, MemoryFault
from testbed.spec.faults.targets import Drawn, Named
from testbed.spec.faults.timeline import candidates, tagged
from testbed.spec.findings import Finding
from testbed.spec.network import Network
from testbed.units import format_duration, format_size

LEAST_SHARE = 1e-3
"""Of a core, for what the kernel can account for: a millisecond in a second."""


def check_host_fault(experiment: Experiment, index: int, fault: HostFault, *, names_fit: bool) -> Iterator[Finding]:
    """What is wrong with a fault whose hosts exist.

    Args:
        experiment: With its sections valid.
        index: The fault's place.
        fault: The fault.
        names_fit: Whether hosts and links are right among themselves.
    """
    match fault:
        case JoinFault():
            yield from _join(experiment, index, fault, names_fit=names_fit)
        case CpuFault(cpu_share=share) if share / experiment.compute.time_scale < LEAST_SHARE:
            yield Finding(
                ("faults", index, "share"),
                f"the kernel can't give a host {share:g} of a core, {experiment.compute.time_scale:g} times slower"
                if experiment.compute.time_scale > 1
                else f"the kernel can't give a host {share:g} of a core",
                f"take at least {LEAST_SHARE * experiment.compute.time_scale:g}",
            )
        case MemoryFault(limit_bytes=limit_bytes):
            for name in struck(experiment, fault):
                declared = experiment.hosts[name].memory_bytes
                if declared is not None and limit_bytes >= declared:
                    yield Finding(
                        ("faults", index, "limit"),
                        f"is no squeeze: {name} has {format_size(declared)} anyway",
                        "take a lower limit",
                    )
                    return


def struck(experiment: Experiment, fault: HostFault) -> tuple[str, ...]:
    """The hosts that a fault names, by themselves or by their tag; those that exist."""
    if not isinstance(fault.struck, Named):
        return ()
    names = fault.struck.names
    if len(names) == 1 and names[0] not in experiment.hosts:
        names = tagged(experiment.hosts, names[0])
    return tuple(name for name in names if name in experiment.hosts)


def _join(experiment: Experiment, index: int, fault: JoinFault, *, names_fit: bool) -> Iterator[Finding]:
    at: tuple[str | int, ...] = ("faults", index, "join")
    target = fault.struck
    if not isinstance(target, Named | Drawn):
        yield Finding(at, f"{fault.target} is a part of the plan, so it is there already", "name the host that joins")
        return
    if fault.every_s is not None:
        yield Finding(("faults", index, "every"), "a host joins once", "leave `every` out; see reboot for coming back")
        return
    # Of hosts that are drawn nobody knows which; any of them may be a relay, and so many are missing.
    drawn = isinstance(target, Drawn)
    joiners = candidates(experiment, target.among) if isinstance(target, Drawn) else struck(experiment, fault)
    stay = set(experiment.workers) - set(joiners[: target.count] if isinstance(target, Drawn) else joiners)
    for place, other in enumerate(experiment.faults):
        if place == index or not isinstance(other, HostFault):
            continue
        both = set(struck(experiment, other)) & set(joiners if not drawn else ())
        if isinstance(other, JoinFault):
            stay -= set(struck(experiment, other))
            if both and place < index:
                yield Finding(at, f"{min(both)!r} joins already (faults[{place}])", "remove one of them")
        elif both and other.at_s <= fault.at_s:
            yield Finding(
                ("faults", place, other.verb),
                f"strikes {min(both)!r} at {format_duration(other.at_s)}, but that joins at "
                f"{format_duration(fault.at_s)} (faults[{index}])",
                "move it to later",
            )
    if not stay:
        yield Finding(at, "no worker is there at the start", "let at least one host not join")
    if names_fit:
        relays = sorted(set(joiners) & set(Network.of(experiment).forwarders))
        if relays:
            yield Finding(
                at,
                f"others reach each other only through {relays[0]!r}, so it can't be missing at the start",
                "link them by a switch, or let another host join",
            )

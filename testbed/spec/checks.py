"""What must hold between the sections of an experiment, beyond each section's own rules. Pure: yields findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from testbed.spec.experiment import Experiment
from testbed.spec.fault_checks import check_faults
from testbed.spec.findings import Finding, choice
from testbed.spec.scaling import MIN_RATE_BPS, too_slow
from testbed.spec.segments import Forest, segments
from testbed.spec.traces import TraceError
from testbed.units import format_rate


def check(experiment: Experiment, *, replayed: bool = False) -> Iterator[Finding]:
    """Everything that is wrong; what follows from an earlier finding is left out.

    Args:
        experiment: With its sections valid.
        replayed: Whether its faults are an earlier run's, in which chance may have struck a host twice.
    """
    findings = [*_nodes(experiment), *_links(experiment)]
    names_fit = not findings
    if names_fit:
        findings = [*_unlinked(experiment), *_loops(experiment)]
    if not findings:
        findings = [*_islands(experiment), *_double_homes(experiment)]
    yield from findings
    yield from check_faults(experiment, names_fit=names_fit, replayed=replayed)
    yield from _dilated_rates(experiment)
    yield from _traces(experiment)
    if "drift" in experiment.recovery.model_fields_set and not experiment.adapts:
        yield Finding(
            ("recovery", "drift"),
            "says when to adapt, but nothing adapts",
            "set recovery.adaptive to true, or use the strategy dnnsplit or dynamic",
        )


def _traces(experiment: Experiment) -> Iterator[Finding]:
    """Recordings that can't be used."""
    for index, link in enumerate(experiment.links):
        for word, settings in (("", link), ("forward", link.forward), ("backward", link.backward)):
            trace = None if settings is None else settings.trace
            if trace is None:
                continue
            try:
                trace.read().changes(experiment.workload.duration_s, loop=trace.loop)
            except TraceError as error:
                yield Finding(("links", index, *((word,) if word else ()), "trace"), str(error))


def _dilated_rates(experiment: Experiment) -> Iterator[Finding]:
    k = experiment.compute.time_scale
    for location, rate_bps in too_slow(experiment):
        yield Finding(
            location,
            f"{format_rate(rate_bps)} would be emulated as {format_rate(rate_bps / k)}, because compute.time_scale is "
            f"{k:g}; the least is {format_rate(MIN_RATE_BPS)}",
            f"set compute.time_scale to at most {rate_bps / MIN_RATE_BPS:g}",
        )


def _nodes(experiment: Experiment) -> Iterator[Finding]:
    seen: set[str] = set()
    for index, switch in enumerate(experiment.switches):
        if switch in experiment.hosts:
            yield Finding(("switches", index), f"{switch!r} is a host already", "give the switch a name of its own")
        elif switch in seen:
            yield Finding(("switches", index), f"the switch {switch!r} is there twice")
        seen.add(switch)
    hosts = list(experiment.hosts)
    if experiment.dispatcher not in experiment.hosts:
        yield Finding(
            ("dispatcher",),
            f"there is no host {experiment.dispatcher!r}",
            choice(experiment.dispatcher, hosts, "hosts"),
        )
    elif not experiment.workers:
        yield Finding(("hosts",), "there is no worker", "add at least one host besides the dispatcher")


def _links(experiment: Experiment) -> Iterator[Finding]:
    nodes = [*experiment.hosts, *experiment.switches]
    known = set(nodes)
    pairs: dict[frozenset[str], int] = {}
    names: dict[str, int] = {}
    for index, link in enumerate(experiment.links):
        at = ("links", index, "between")
        for end, node in enumerate(link.between):
            if node not in known:
                yield Finding(
                    (*at, end), f"there is no host or switch {node!r}", choice(node, nodes, "hosts and switches")
                )
        pair = frozenset(link.between)
        if len(pair) == 1:
            yield Finding(at, f"a link from {link.between[0]!r} to itself", "name two different nodes")
        elif pair in pairs:
            yield Finding(
                at, f"the link between {' and '.join(link.between)} is there already", f"it is links[{pairs[pair]}]"
            )
        elif link.name in names:
            yield Finding(
                at,
                f"its name would be {link.name!r}, as that of links[{names[link.name]}]",
                "rename a node: the - in the names makes the two links look the same",
            )
        pairs.setdefault(pair, index)
        names.setdefault(link.name, index)


def _degrees(experiment: Experiment) -> Counter[str]:
    return Counter(node for link in experiment.links for node in link.between)


def _unlinked(experiment: Experiment) -> Iterator[Finding]:
    degrees = _degrees(experiment)
    for host in experiment.hosts:
        if not degrees[host]:
            yield Finding(("hosts", host), f"the host {host!r} is linked to nothing", "add it to links, or remove it")
    for index, switch in enumerate(experiment.switches):
        if not degrees[switch]:
            yield Finding(
                ("switches", index), f"the switch {switch!r} is linked to nothing", "add it to links, or remove it"
            )


def _loops(experiment: Experiment) -> Iterator[Finding]:
    """Linux bridges without a spanning-tree protocol forward broadcasts in a loop for ever."""
    forest = Forest(experiment.switches)
    for index, link in enumerate(experiment.links):
        one, other = link.between
        if one not in forest or other not in forest:
            continue
        loop = forest.join(one, other, link.name)
        if loop is not None:
            yield Finding(
                ("links", index, "between"),
                f"switches are wired in a loop, which would storm: {', '.join(loop)}",
                "remove one of these links",
            )


def _islands(experiment: Experiment) -> Iterator[Finding]:
    parts = Forest((*experiment.hosts, *experiment.switches))
    for link in experiment.links:
        parts.join(*link.between, link.name)
    home = parts.root(experiment.dispatcher)
    stranded = [host for host in experiment.hosts if parts.root(host) != home]
    if stranded:
        shown = ", ".join(stranded[:8]) + (f", … ({len(stranded) - 8} more)" if len(stranded) > 8 else "")
        yield Finding(
            ("hosts", stranded[0]),
            f"the dispatcher {experiment.dispatcher!r} can't reach {shown}",
            "add links that join all hosts",
        )


def _double_homes(experiment: Experiment) -> Iterator[Finding]:
    """A host with two interfaces in one segment answers ARP on both: which link carries its traffic would be chance."""
    segment_of = segments(experiment)
    homes: dict[tuple[str, str], int] = {}
    for index, link in enumerate(experiment.links):
        for node, other in (link.between, link.between[::-1]):
            if node not in experiment.hosts or other not in segment_of:
                continue
            first = homes.setdefault((node, segment_of[other]), index)
            if first != index:
                yield Finding(
                    ("links", index, "between"),
                    f"{node!r} has two links into one switched segment: "
                    f"{experiment.links[first].name} (links[{first}]) and {link.name}",
                    "remove one of them, or the link that joins the switches",
                )

"""Faults of links, and of who reaches whom."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Self

from runner.faults.base import Fault, InForce, Lab, Way
from runner.faults.hosts import FaultOfHosts
from testbed.emulation.overlay import Modification, described
from testbed.emulation.shaping import Shape
from testbed.serving.events import PlanAdopted
from testbed.spec.faults import (
    DelayFault,
    DownFault,
    FlapFault,
    IsolateFault,
    JitterFault,
    LinkFault,
    LinkTraceFault,
    LossFault,
    PartitionFault,
    ThrottleFault,
)
from testbed.spec.links import LinkSpec
from testbed.spec.traces import RateChange
from testbed.units import format_duration, format_rate


def modification_of(spec: LinkFault) -> Modification:
    """What a fault does to each direction that it strikes, at its beginning; a trace's rates come later.

    Raises:
        ValueError: If it is none of a single modification.
    """
    match spec:
        case ThrottleFault(rate_bps=rate_bps):
            return Modification(most_bps=rate_bps)
        case DelayFault(add_s=add_s):
            return Modification(add_delay_s=add_s)
        case JitterFault(add_s=add_s):
            return Modification(add_jitter_s=add_s)
        case LossFault(loss_share=share):
            return Modification(loss=share)
        case DownFault() | FlapFault():
            return Modification(down=True)
        case LinkTraceFault():
            return Modification()
    raise ValueError(f"{spec.kind} doesn't modify links")


def _words(spec: LinkFault) -> str:
    match spec:
        case ThrottleFault(rate_bps=rate_bps):
            return f"to {format_rate(rate_bps)}"
        case DelayFault(add_s=add_s) | JitterFault(add_s=add_s):
            return f"by {format_duration(add_s)}"
        case LossFault(loss_share=share):
            return f"of {100 * share:.3g}%"
        case FlapFault(period_s=period_s, duty=duty):
            return f"each {format_duration(period_s)}, {100 * duty:.3g}% up"
        case LinkTraceFault(recording=recording):
            return f"as {recording.file.name}"
    return ""


class LinkChange(Fault):
    """A link is slower, longer, lossier or down, in one or both directions.

    Args:
        spec: What the timeline says.
        link: The link that it strikes.
        hosts: Those of the nodes that are hosts.
    """

    def __init__(self, spec: LinkFault, link: LinkSpec, hosts: Collection[str]) -> None:
        self.verb = spec.kind
        self.at_s = spec.at_s
        self.for_s = spec.for_s
        self.links = (link.name,)
        self.ends = tuple(end for end in link.between if end in hosts)
        self.detail = _words(spec)
        self.target = link.name if spec.from_ is None else f"{spec.from_}→{link.other_end(spec.from_)}"
        self._ways: tuple[Way, ...] = tuple(
            (link.name, source) for source in (link.between if spec.from_ is None else (spec.from_,))
        )
        self._modification = modification_of(spec)

    def inject(self, lab: Lab) -> InForce:
        """Lay it over what is set; in force when that was read back."""
        found = lab.modify_links(self._ways, id(self), self._modification)
        return InForce(time.monotonic(), told(found))

    def heal(self, lab: Lab) -> str | None:
        """Take it away; what else is in force on the link stays."""
        return told(lab.modify_links(self._ways, id(self), None))


class Flap(LinkChange):
    """A link is down and up in turn."""

    def __init__(self, spec: FlapFault, link: LinkSpec, hosts: Collection[str], duration_s: float) -> None:
        super().__init__(spec, link, hosts)
        end_s = duration_s - spec.at_s if spec.for_s is None else spec.for_s
        ups_downs = itertools.chain.from_iterable(
            ((turn + 1 - spec.duty) * spec.period_s, (turn + 1) * spec.period_s) for turn in itertools.count()
        )
        self.turns = tuple(itertools.takewhile(lambda offset_s: offset_s < end_s, ups_downs))

    def turn(self, lab: Lab, number: int) -> str:
        """Bring it up, then down, and so on."""
        modification = Modification() if number % 2 == 0 else self._modification
        return told(lab.modify_links(self._ways, id(self), modification))


class LinkTrace(LinkChange):
    """A link's rate follows a recording, as far as what is set allows it."""

    def __init__(self, spec: LinkTraceFault, link: LinkSpec, hosts: Collection[str], duration_s: float) -> None:
        super().__init__(spec, link, hosts)
        end_s = duration_s - spec.at_s if spec.for_s is None else spec.for_s
        self._changes: Sequence[RateChange] = spec.recording.read().changes(end_s, loop=spec.recording.loop)
        self.turns = tuple(change.at_s for change in self._changes[1:])
        self._modification = Modification(most_bps=self._changes[0].rate_bps)

    def turn(self, lab: Lab, number: int) -> str:
        """Set the next rate."""
        modification = Modification(most_bps=self._changes[number + 1].rate_bps)
        return told(lab.modify_links(self._ways, id(self), modification))


class Isolate(FaultOfHosts):
    """All links of a host are down."""

    def __init__(self, spec: IsolateFault, links: Sequence[LinkSpec]) -> None:
        super().__init__(spec)
        self._ways: dict[str, tuple[Way, ...]] = defaultdict(tuple)
        for link in links:
            for node in link.between:
                self._ways[node] += tuple((link.name, source) for source in link.between)
        self.links = self._links()

    def aimed(self, plan: PlanAdopted | None) -> Self:
        """The fault with the hosts that it strikes, and their links."""
        found = super().aimed(plan)
        found.links = found._links()
        return found

    def strike(self, lab: Lab, host: str) -> InForce:
        """Take its links down; in force when that was read back."""
        lab.modify_links(self._ways[host], (id(self), host), Modification(down=True))
        return InForce(time.monotonic(), "cut off")

    def mend(self, lab: Lab, host: str) -> InForce | None:
        """Bring its links up, as far as no other fault keeps them down."""
        shapes = lab.modify_links(self._ways[host], (id(self), host), None)
        return InForce(time.monotonic(), told(shapes))

    def _links(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for host in self.hosts for name, _ in self._ways[host]))


class Partition(Fault):
    """Hosts of different groups can't reach each other."""

    def __init__(self, spec: PartitionFault) -> None:
        self.verb = spec.kind
        self.target = spec.target
        self.at_s = spec.at_s
        self.for_s = spec.for_s
        self.ends = tuple(host for group in spec.partition for host in group)
        self._pairs = separated(spec.partition)

    def inject(self, lab: Lab) -> InForce:
        """Cut all pairs; in force when the rules were read back."""
        lab.cut_hosts(id(self), self._pairs)
        return InForce(time.monotonic(), f"{len(self._pairs)} pairs of hosts are cut")

    def heal(self, lab: Lab) -> str | None:
        """Let them reach each other again, as far as no other partition cuts them."""
        lab.cut_hosts(id(self), ())
        return "healed"


def separated(groups: Sequence[Sequence[str]]) -> tuple[tuple[str, str], ...]:
    """All pairs of hosts of different groups."""
    return tuple(
        (host, other) for group, another in itertools.combinations(groups, 2) for host in group for other in another
    )


def told(shapes: Sequence[Shape]) -> str:
    """What is in force, for people; directions that are alike are told once."""
    return " / ".join(dict.fromkeys(described(shape) for shape in shapes))

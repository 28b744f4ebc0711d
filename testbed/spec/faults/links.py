"""Faults of links."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from testbed.spec.faults.base import HostFault, Hosts, LastingFault, LinkEnds, LinkFault
from testbed.spec.quantities import Duration, LinkDelay, Loss, NodeName, Probability, Rate
from testbed.spec.traces import TraceSpec


class ThrottleFault(LinkFault):
    """A link is slowed down; no fault makes one faster."""

    noun: ClassVar[str] = "a throttle fault"
    verb: ClassVar[str] = "throttle"

    throttle: LinkEnds
    rate_bps: Annotated[Rate, Field(alias="rate", description="The rate while it lasts.")]


class DelayFault(LinkFault):
    """A link's delay grows."""

    noun: ClassVar[str] = "a delay fault"
    verb: ClassVar[str] = "delay"

    delay: LinkEnds
    add_s: Annotated[LinkDelay, Field(alias="add", gt=0, description="By how much the delay grows, one way.")]


class JitterFault(LinkFault):
    """A link's delay scatters more: normally, or uniformly where the link's own jitter does."""

    noun: ClassVar[str] = "a jitter fault"
    verb: ClassVar[str] = "jitter"

    jitter: LinkEnds
    add_s: Annotated[
        LinkDelay, Field(alias="add", gt=0, description="How far delays scatter, besides what is declared.")
    ]


class LossFault(LinkFault):
    """A link loses packets at random, besides those that it loses as declared."""

    noun: ClassVar[str] = "a loss fault"
    verb: ClassVar[str] = "loss"

    loss: LinkEnds
    loss_share: Annotated[Loss, Field(alias="share", gt=0, description="Share of packets lost, such as 5%.")]


class DownFault(LinkFault):
    """A link lets nothing through, silently."""

    noun: ClassVar[str] = "a down fault"
    verb: ClassVar[str] = "down"

    down: LinkEnds


class FlapFault(LinkFault):
    """A link is down and up in turn; each period begins with the time that it is down."""

    noun: ClassVar[str] = "a flap fault"
    verb: ClassVar[str] = "flap"

    flap: LinkEnds
    period_s: Annotated[Duration, Field(alias="period", ge=0.02, description="How long one down and one up take.")]
    duty: Annotated[
        Probability, Field(gt=0, lt=1, description="Share of each period in which the link is up, such as 50%.")
    ] = 0.5


class LinkTraceFault(LinkFault):
    """A link's rate follows a recording, as far as its declared rate allows."""

    noun: ClassVar[str] = "a trace fault"
    verb: ClassVar[str] = "trace"

    trace: LinkEnds
    recording: Annotated[TraceSpec, Field(description="The recording, as a link's trace.")]


class PartitionFault(LastingFault):
    """Hosts of different groups can't reach each other; hosts in no group reach all."""

    noun: ClassVar[str] = "a partition fault"
    verb: ClassVar[str] = "partition"

    partition: Annotated[
        tuple[tuple[NodeName, ...], ...],
        Field(description="Groups of hosts, such as [[dispatcher, node1], [node2, node3]]."),
    ]

    @model_validator(mode="after")
    def _groups_are_apart(self) -> Self:
        if len(self.partition) < 2 or not all(self.partition):
            raise ValueError("a partition needs two groups at least, each with a host; write it like [[a, b], [c]]")
        members = [host for group in self.partition for host in group]
        twice = sorted({host for host in members if members.count(host) > 1})
        if twice:
            raise ValueError(f"partition: {twice[0]!r} is there twice; groups have no host in common")
        return self

    @property
    def target(self) -> str:
        """What it strikes, for people."""
        return " | ".join(", ".join(group) for group in self.partition)


class IsolateFault(LastingFault, HostFault):
    """All links of a host let nothing through, silently; the host itself goes on."""

    noun: ClassVar[str] = "an isolate fault"
    verb: ClassVar[str] = "isolate"
    strikes_dispatcher: ClassVar[bool] = True

    isolate: Hosts

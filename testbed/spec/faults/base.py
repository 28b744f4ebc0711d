"""What all faults of the experiment file share: when they strike, for how long, how often."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from testbed.spec.faults.targets import HostTarget, HostTargetField
from testbed.spec.quantities import Duration, Instant, NodeName
from testbed.spec.section import Section
from testbed.units import format_duration

LinkEnds = Annotated[tuple[NodeName, NodeName], Field(description="The two ends of the link, in either order.")]
Hosts = Annotated[
    HostTargetField,
    Field(
        description="A host, a list of hosts, a tag, bottleneck, {stage: N}, or {random: K of workers} (or of a tag)."
    ),
]


class FaultBase(Section):
    """One entry of `faults`. Its verb is the key that says what happens, whose value says to what."""

    #: The key.
    verb: ClassVar[str]

    at_s: Annotated[Instant, Field(alias="at", description="When it strikes, after the start of the workload.")]
    every_s: Annotated[
        Duration | None, Field(alias="every", description="It strikes again each time so long after it struck.")
    ] = None
    times: Annotated[
        int | None,
        Field(ge=1, le=10_000, description="every: how often it strikes; to the end of the workload when absent."),
    ] = None

    @model_validator(mode="after")
    def _repeats_make_sense(self) -> Self:
        if self.times is not None and self.every_s is None:
            raise ValueError("has times without every: how long after each other would they be?")
        if self.every_s is None:
            return self
        if isinstance(self, LastingFault) and self.lasts_s is None:
            raise ValueError("has every without for: it would strike again while it lasts")
        if self.lasts_s is not None and self.lasts_s > self.every_s:
            raise ValueError(
                f"lasts {format_duration(self.lasts_s)}, longer than the {format_duration(self.every_s)} "
                "after which it strikes again"
            )
        return self

    @property
    def kind(self) -> str:
        """The verb of the fault."""
        return type(self).verb

    @property
    def target(self) -> str:
        """What it strikes, for people."""
        raise NotImplementedError

    @property
    def lasts_s(self) -> float | None:
        """How long it lasts; None if it does to the end, or has no end."""
        return None

    def instants(self, duration_s: float) -> Iterator[float]:
        """When it strikes: at its time, and again before `duration_s` if it repeats."""
        yield self.at_s
        if self.every_s is None:
            return
        for turn in itertools.count(1) if self.times is None else range(1, self.times):
            at_s = round(self.at_s + turn * self.every_s, 9)
            if at_s >= duration_s:
                return
            yield at_s


class LastingFault(FaultBase):
    """A fault that can be healed."""

    for_s: Annotated[Duration | None, Field(alias="for", description="How long it lasts; to the end when absent.")] = (
        None
    )

    @property
    def lasts_s(self) -> float | None:
        """How long it lasts; None if it does to the end."""
        return self.for_s


class HostFault(FaultBase):
    """A fault of hosts."""

    #: Whether it may strike the dispatcher too.
    strikes_dispatcher: ClassVar[bool] = False

    @property
    def struck(self) -> HostTarget:
        """The hosts, as the file says it."""
        target: HostTarget = getattr(self, self.verb.replace("-", "_"))
        return target

    @property
    def target(self) -> str:
        """What it strikes, for people."""
        return str(self.struck)


class LinkFault(LastingFault):
    """A fault of one link, in both directions or in one."""

    from_: Annotated[
        NodeName | None,
        Field(alias="from", description="The end that sends in the direction it strikes; both directions when absent."),
    ] = None

    @model_validator(mode="after")
    def _from_is_an_end(self) -> Self:
        if self.from_ is not None and self.from_ not in self.ends:
            raise ValueError(f"from: {self.from_!r} is no end of {self.target}; legal: {', '.join(self.ends)}")
        return self

    @property
    def ends(self) -> tuple[str, str]:
        """The two ends of the link, as the file has them."""
        ends: tuple[str, str] = getattr(self, self.verb)
        return ends

    @property
    def target(self) -> str:
        """What it strikes, for people."""
        return "-".join(self.ends)

"""Faults: what breaks, and when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from testbed.spec.quantities import Duration, Instant, NodeName, Rate
from testbed.spec.section import Section

FAULT_VERBS = ("kill", "throttle")


class _Fault(Section):
    at_s: Annotated[Instant, Field(alias="at", description="When it strikes, after the start of the workload.")]


class KillFault(_Fault):
    """A power cut: the host falls silent and stays dead."""

    noun: ClassVar[str] = "a kill fault"

    kill: Annotated[NodeName, Field(description="The host.")]

    @property
    def kind(self) -> Literal["kill"]:
        """The verb of the fault."""
        return "kill"

    @property
    def target(self) -> str:
        """What it strikes, for people."""
        return self.kill


class ThrottleFault(_Fault):
    """A link's rate changes, in both directions."""

    noun: ClassVar[str] = "a throttle fault"

    throttle: Annotated[tuple[NodeName, NodeName], Field(description="The two ends of the link, in either order.")]
    rate_bps: Annotated[Rate, Field(alias="rate", description="The rate while it lasts.")]
    for_s: Annotated[Duration | None, Field(alias="for", description="How long it lasts; to the end when absent.")] = (
        None
    )

    @property
    def kind(self) -> Literal["throttle"]:
        """The verb of the fault."""
        return "throttle"

    @property
    def target(self) -> str:
        """What it strikes, for people."""
        return "-".join(self.throttle)


def _tag(value: object) -> str | None:
    if isinstance(value, _Fault):
        return f"<{'kill' if isinstance(value, KillFault) else 'throttle'}>"
    verbs = [verb for verb in FAULT_VERBS if isinstance(value, Mapping) and verb in value]
    return f"<{verbs[0]}>" if len(verbs) == 1 else None


FaultSpec = Annotated[
    Annotated[KillFault, Tag("<kill>")] | Annotated[ThrottleFault, Tag("<throttle>")], Discriminator(_tag)
]
"""A fault of any kind. Tags have angle brackets so that they can't be mistaken for keys in an error's location."""

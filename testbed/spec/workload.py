"""Workloads: who asks for inference, how often, for how long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from testbed.spec.quantities import BesideFile, Duration, RequestRate
from testbed.spec.section import Section

InFlight = Annotated[int, Field(ge=1, le=10_000)]


class _Workload(Section):
    noun: ClassVar[str] = "workload"

    duration_s: Annotated[Duration, Field(alias="duration", description="For how long requests are made.")]
    images: Annotated[
        BesideFile | None,
        Field(description="Folder of image files, relative to this file; seeded synthetic images when absent."),
    ] = None
    distinct: Annotated[int, Field(ge=1, le=10_000, description="Number of distinct synthetic inputs.")] = 8
    deadline_s: Annotated[
        Duration | None, Field(alias="deadline", description="An answer after this time is late; none when absent.")
    ] = None


class ClosedWorkload(_Workload):
    """A fixed number of requests in flight: the next is made when one is answered."""

    kind: Annotated[Literal["closed"], Field(description="closed: the next request when one is answered.")] = "closed"
    in_flight: Annotated[InFlight, Field(description="Requests in flight.")]


class OpenWorkload(_Workload):
    """Requests arrive at their own pace, whatever the cluster does."""

    kind: Annotated[Literal["open"], Field(description="open: requests arrive at their own pace.")] = "open"
    rate_rps: Annotated[RequestRate, Field(alias="rate", description="Mean rate of arrivals.")]
    arrivals: Annotated[
        Literal["poisson", "uniform"], Field(description="poisson: random; uniform: equally spaced.")
    ] = "poisson"
    queue: Annotated[
        int, Field(ge=0, le=1_000_000, description="Requests that may wait at the dispatcher; more are rejected.")
    ] = 64
    in_flight: Annotated[InFlight, Field(description="Most requests in flight.")] = 8


def _tag(value: object) -> str | None:
    kind = value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)
    return f"<{kind}>" if kind in ("closed", "open") else None


WorkloadSpec = Annotated[
    Annotated[ClosedWorkload, Tag("<closed>")] | Annotated[OpenWorkload, Tag("<open>")], Discriminator(_tag)
]
"""A workload of either kind. Tags have angle brackets, so they can't be mistaken for keys in an error's location."""

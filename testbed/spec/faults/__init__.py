"""Faults: what breaks, and when.

Each verb of `faults` has a class here. Those in `ACCEPTED` are legal in a file: the ones that the runner can do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Discriminator, Tag

from testbed.spec.faults.base import FaultBase, HostFault, LastingFault, LinkFault
from testbed.spec.faults.hosts import (
    CpuFault,
    JoinFault,
    KillFault,
    LeaveFault,
    MemoryFault,
    PauseFault,
    PoweroffFault,
    RebootFault,
    RestartFault,
)
from testbed.spec.faults.links import (
    DelayFault,
    DownFault,
    FlapFault,
    IsolateFault,
    JitterFault,
    LinkTraceFault,
    LossFault,
    PartitionFault,
    ThrottleFault,
)
from testbed.spec.faults.storage import (
    DiskCorruptFault,
    DiskFault,
    DiskFullFault,
    DiskGoneFault,
    DiskReadonlyFault,
    DiskSlowFault,
)

ACCEPTED: tuple[type[FaultBase], ...] = (
    KillFault,
    PoweroffFault,
    RebootFault,
    RestartFault,
    PauseFault,
    LeaveFault,
    JoinFault,
    CpuFault,
    MemoryFault,
    ThrottleFault,
    DelayFault,
    JitterFault,
    LossFault,
    DownFault,
    FlapFault,
    LinkTraceFault,
    PartitionFault,
    IsolateFault,
    DiskFullFault,
    DiskReadonlyFault,
    DiskSlowFault,
    DiskCorruptFault,
    DiskGoneFault,
)
"""The kinds that a file may have. Each has its place in `runner.faults.compilation` too."""

FAULT_VERBS: tuple[str, ...] = tuple(kind.verb for kind in ACCEPTED)


def _tag(value: object) -> str | None:
    if isinstance(value, FaultBase):
        return f"<{value.kind}>"
    verbs = [verb for verb in FAULT_VERBS if isinstance(value, Mapping) and verb in value]
    return f"<{verbs[0]}>" if len(verbs) == 1 else None


if TYPE_CHECKING:
    FaultSpec = FaultBase
else:
    _branches: list[Any] = [Annotated[kind, Tag(f"<{kind.verb}>")] for kind in ACCEPTED]
    FaultSpec = Annotated[Union[tuple(_branches)], Discriminator(_tag)]  # noqa: UP007 - made of a tuple
"""A fault of any kind. Tags have angle brackets so that they can't be mistaken for keys in an error's location."""

__all__ = [
    "ACCEPTED",
    "FAULT_VERBS",
    "CpuFault",
    "DelayFault",
    "DiskCorruptFault",
    "DiskFault",
    "DiskFullFault",
    "DiskGoneFault",
    "DiskReadonlyFault",
    "DiskSlowFault",
    "DownFault",
    "FaultBase",
    "FaultSpec",
    "FlapFault",
    "HostFault",
    "IsolateFault",
    "JitterFault",
    "JoinFault",
    "KillFault",
    "LastingFault",
    "LeaveFault",
    "LinkFault",
    "LinkTraceFault",
    "LossFault",
    "MemoryFault",
    "PartitionFault",
    "PauseFault",
    "PoweroffFault",
    "RebootFault",
    "RestartFault",
    "ThrottleFault",
]

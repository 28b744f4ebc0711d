"""Faults of hosts' storage: the small file system that each has for its cached weights."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from testbed.spec.faults.base import HostFault, Hosts, LastingFault
from testbed.spec.quantities import Rate


class DiskFault(HostFault):
    """A fault of hosts' disks; it takes away no service by itself."""


class DiskFullFault(LastingFault, DiskFault):
    """Nothing more can be written to the disk."""

    noun: ClassVar[str] = "a disk-full fault"
    verb: ClassVar[str] = "disk-full"
    strikes_dispatcher: ClassVar[bool] = True

    disk_full: Annotated[Hosts, Field(alias="disk-full")]


class DiskReadonlyFault(LastingFault, DiskFault):
    """The disk can be read but not written, as after an error of its file system."""

    noun: ClassVar[str] = "a disk-readonly fault"
    verb: ClassVar[str] = "disk-readonly"
    strikes_dispatcher: ClassVar[bool] = True

    disk_readonly: Annotated[Hosts, Field(alias="disk-readonly")]


class DiskSlowFault(LastingFault, DiskFault):
    """The disk reads and writes slowly."""

    noun: ClassVar[str] = "a disk-slow fault"
    verb: ClassVar[str] = "disk-slow"
    strikes_dispatcher: ClassVar[bool] = True

    disk_slow: Annotated[Hosts, Field(alias="disk-slow")]
    rate_bps: Annotated[
        Rate, Field(alias="rate", description="How fast it reads and writes, such as 8Mbit/s (1 MB/s).")
    ]


class DiskCorruptFault(DiskFault):
    """Bytes of the cached weights are flipped on the disk."""

    noun: ClassVar[str] = "a disk-corrupt fault"
    verb: ClassVar[str] = "disk-corrupt"

    disk_corrupt: Annotated[Hosts, Field(alias="disk-corrupt")]


class DiskGoneFault(LastingFault, DiskFault):
    """The disk is gone: what it held can't be read any more, and nothing can be written."""

    noun: ClassVar[str] = "a disk-gone fault"
    verb: ClassVar[str] = "disk-gone"
    strikes_dispatcher: ClassVar[bool] = True

    disk_gone: Annotated[Hosts, Field(alias="disk-gone")]

"""Faults of hosts."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from testbed.spec.faults.base import HostFault, Hosts, LastingFault
from testbed.spec.quantities import Duration, Size


class KillFault(HostFault):
    """The server on a host dies from SIGKILL, as in a crash: its kernel closes its connections, and it stays dead."""

    noun: ClassVar[str] = "a kill fault"
    verb: ClassVar[str] = "kill"
    strikes_dispatcher: ClassVar[bool] = True

    kill: Hosts


class PoweroffFault(HostFault):
    """A power cut: the host falls silent at once and stays off; what it had on its disk is kept."""

    noun: ClassVar[str] = "a poweroff fault"
    verb: ClassVar[str] = "poweroff"
    strikes_dispatcher: ClassVar[bool] = True

    poweroff: Hosts


class RebootFault(HostFault):
    """A power cut, after which the host comes back with what it had on its disk."""

    noun: ClassVar[str] = "a reboot fault"
    verb: ClassVar[str] = "reboot"
    strikes_dispatcher: ClassVar[bool] = True

    reboot: Hosts
    for_s: Annotated[Duration, Field(alias="for", description="How long the host is off.")]

    @property
    def lasts_s(self) -> float:
        """How long the host is off."""
        return self.for_s


class RestartFault(LastingFault, HostFault):
    """The server on a host dies from SIGKILL and is started again."""

    noun: ClassVar[str] = "a restart fault"
    verb: ClassVar[str] = "restart"
    strikes_dispatcher: ClassVar[bool] = True

    restart: Hosts
    for_s: Annotated[Duration, Field(alias="for", description="After how long it is started again.")] = 0.1


class PauseFault(LastingFault, HostFault):
    """The host hangs: its processes stop, its connections stay."""

    noun: ClassVar[str] = "a pause fault"
    verb: ClassVar[str] = "pause"
    strikes_dispatcher: ClassVar[bool] = True

    pause: Hosts


class LeaveFault(HostFault):
    """The host is asked to leave: it hands over its stage and ends."""

    noun: ClassVar[str] = "a leave fault"
    verb: ClassVar[str] = "leave"

    leave: Hosts


class JoinFault(HostFault):
    """The host joins: it isn't there before."""

    noun: ClassVar[str] = "a join fault"
    verb: ClassVar[str] = "join"

    join: Hosts


class CpuFault(LastingFault, HostFault):
    """The host's share of a core changes."""

    noun: ClassVar[str] = "a cpu fault"
    verb: ClassVar[str] = "cpu"
    strikes_dispatcher: ClassVar[bool] = True

    cpu: Hosts
    cpu_share: Annotated[
        float, Field(alias="share", gt=0, le=256, description="Share of one core of this machine while it lasts.")
    ]


class MemoryFault(LastingFault, HostFault):
    """The host's memory limit is squeezed; the kernel kills what needs more."""

    noun: ClassVar[str] = "a memory fault"
    verb: ClassVar[str] = "memory"
    strikes_dispatcher: ClassVar[bool] = True

    memory: Hosts
    limit_bytes: Annotated[Size, Field(alias="limit", description="The limit while it lasts.")]

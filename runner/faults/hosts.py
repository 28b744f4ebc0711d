"""Faults of hosts."""

from __future__ import annotations

import abc
import copy
from collections.abc import Sequence
from typing import Self

from runner.faults.base import Fault, InForce, Lab
from testbed.errors import ExperimentError
from testbed.serving.events import PlanAdopted
from testbed.spec.faults import CpuFault, HostFault, MemoryFault
from testbed.spec.faults.targets import Bottleneck, HostTarget, Named, OfStage
from testbed.units import format_size


class FaultOfHosts(Fault):
    """A fault that strikes hosts one by one, in the order in which they are named."""

    def __init__(self, spec: HostFault) -> None:
        self.verb = spec.kind
        self.target = spec.target
        self.at_s = spec.at_s
        self.for_s = spec.lasts_s
        self._wanted = spec.struck
        self.hosts = spec.struck.names if isinstance(spec.struck, Named) else ()

    def aimed(self, plan: PlanAdopted | None) -> Self:
        """The fault with the hosts that it strikes."""
        if self.hosts:
            return self
        found = copy.copy(self)
        found.hosts = (host_of(self._wanted, plan),)
        found.target = found.hosts[0]
        if self.declared is not None:
            field = self.verb.replace("-", "_")
            found.declared = self.declared.model_copy(update={field: Named(found.hosts)})
        return found

    def inject(self, lab: Lab) -> InForce:
        """Strike all hosts; in force when all are struck."""
        return together([(host, self.strike(lab, host)) for host in self.hosts])

    def heal(self, lab: Lab) -> InForce | None:
        """Mend all hosts; mended when all are."""
        mended = [(host, self.mend(lab, host)) for host in self.hosts]
        told = [(host, found) for host, found in mended if found is not None]
        return together(told) if told else None

    @abc.abstractmethod
    def strike(self, lab: Lab, host: str) -> InForce:
        """Put the fault in force on one host, and read it back."""

    @abc.abstractmethod
    def mend(self, lab: Lab, host: str) -> InForce | None:
        """Restore what is declared for one host; None where nothing can."""


def host_of(target: HostTarget, plan: PlanAdopted | None) -> str:
    """The host that a target means in a plan.

    The bottleneck is the host of the stage that bounds the throughput; if the answer's way back bounds it, the host of
    the last stage.

    Raises:
        ExperimentError: If there is no plan, or no such stage in it.
    """
    if plan is None or not plan.stages:
        raise ExperimentError(f"no plan is in force, so there is no {target}")
    match target:
        case OfStage(number):
            for stage in plan.stages:
                if stage.stage == number:
                    return stage.host
            raise ExperimentError(f"the plan in force has {len(plan.stages)} stages, so there is no stage {number}")
        case Bottleneck():
            return next((stage.host for stage in plan.stages if stage.is_bottleneck), plan.stages[-1].host)
    raise ValueError(f"{target} is no host of a plan")


def together(struck: Sequence[tuple[str, InForce]]) -> InForce:
    """One fault of several hosts: in force since the last of them is, confirmed when all are."""
    if len(struck) == 1:
        return struck[0][1]
    needed = any(found.confirm is not None for _, found in struck)
    return InForce(
        max(found.t_s for _, found in struck),
        _joined([(host, found.detail) for host, found in struck]),
        (lambda: _joined([(host, _confirmed(found)) for host, found in struck])) if needed else None,
    )


def _confirmed(found: InForce) -> str:
    return found.detail if found.confirm is None else found.confirm()


def _joined(details: Sequence[tuple[str, str]]) -> str:
    return details[0][1] if len(details) == 1 else "; ".join(f"{host}: {detail}" for host, detail in details)


class Kill(FaultOfHosts):
    """The server on a host dies from SIGKILL; its kernel closes its connections, as after a crash."""

    def strike(self, lab: Lab, host: str) -> InForce:
        """Kill it; in force when the kernel has taken the signal, from which on it runs no instruction of its own."""
        return lab.kill_server(host)

    def mend(self, lab: Lab, host: str) -> InForce | None:
        """A crashed server doesn't come back by itself."""
        return None


class Restart(Kill):
    """The server on a host dies as by :class:`Kill`, and a new one is started in its place."""

    def mend(self, lab: Lab, host: str) -> InForce | None:
        """Start a server; its storage is what the one before left."""
        return lab.start_server(host)


class Poweroff(FaultOfHosts):
    """A power cut: nobody on the network is told; what was in memory is gone, the disk is kept."""

    def strike(self, lab: Lab, host: str) -> InForce:
        """Cut the power; in force when the links are down and the kernel has taken the signal."""
        return lab.power_off(host)

    def mend(self, lab: Lab, host: str) -> InForce | None:
        """Nobody switches it on again."""
        return None


class Reboot(Poweroff):
    """A power cut, after which the host comes back with its addresses, its disk, and a new server."""

    def mend(self, lab: Lab, host: str) -> InForce | None:
        """Switch it on."""
        return lab.power_on(host)


class Join(FaultOfHosts):
    """A host that wasn't there from the start is switched on."""

    def strike(self, lab: Lab, host: str) -> InForce:
        """Switch it on; confirmed when its server listens."""
        return lab.power_on(host)

    def mend(self, lab: Lab, host: str) -> InForce | None:
        """It stays."""
        return None


class Pause(FaultOfHosts):
    """The server on a host hangs: no instruction of its own is run, but its kernel holds its connections."""

    def strike(self, lab: Lab, host: str) -> InForce:
        """Stop it; confirmed when all of its threads are stopped."""
        return lab.pause(host)

    def mend(self, lab: Lab, host: str) -> InForce | None:
        """Let it go on."""
        return lab.resume(host)


class Leave(FaultOfHosts):
    """A host is asked to leave in good order."""

    def strike(self, lab: Lab, host: str) -> InForce:
        """Ask it; in force from then on, however long it takes to hand over what it does."""
        return lab.ask_to_leave(host)

    def mend(self, lab: Lab, host: str) -> InForce | None:
        """It stays away."""
        return None


class CpuChange(FaultOfHosts):
    """A host's share of a core is another."""

    def __init__(self, spec: CpuFault) -> None:
        super().__init__(spec)
        self.detail = f"to {spec.cpu_share:.3g} of a core"
        self._share = spec.cpu_share

    def strike(self, lab: Lab, host: str) -> InForce:
        """Set the share; in force when it was read back."""
        return lab.set_cpu(host, self._share, id(self))

    def mend(self, lab: Lab, host: str) -> InForce | None:
        """Take it back; the declared share, as fitted to this machine, is in force unless another fault holds it."""
        return lab.set_cpu(host, None, id(self))


class MemorySqueeze(FaultOfHosts):
    """A host's memory limit is lower; if what it holds doesn't fit, the kernel kills its server."""

    def __init__(self, spec: MemoryFault) -> None:
        super().__init__(spec)
        self.detail = f"to {format_size(spec.limit_bytes)}"
        self._limit_bytes = spec.limit_bytes

    def strike(self, lab: Lab, host: str) -> InForce:
        """Set the limit; in force when it was read back, after the kernel has killed if it had to."""
        return lab.set_memory(host, self._limit_bytes, id(self))

    def mend(self, lab: Lab, host: str) -> InForce | None:
        """Take it back, and start a server if the kernel has killed the one before."""
        return lab.set_memory(host, None, id(self))

"""Fault kinds: each knows how to inject itself and how to heal.

Injecting returns only when the fault is in force, as read back (or as is confirmed soon after); healing restores the
*declared* state, whatever else is in force. A fault touches the emulation, never the system under test.
"""

from __future__ import annotations

import abc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from testbed.spec.experiment import Experiment
from testbed.spec.faults import FaultSpec, KillFault, ThrottleFault
from testbed.spec.links import LinkSpec
from testbed.units import format_rate


@dataclass(frozen=True, slots=True)
class InForce:
    """A fault that is in force.

    Attributes:
        t_s: Since when, on the shared clock.
        detail: What was read back, for people.
        confirm: Waits for what shows that it is in force, and says it, in place of `detail`; None where that is known
            already. It may take its time: called on a thread of its own, it holds up no other fault.
    """

    t_s: float
    detail: str
    confirm: Callable[[], str] | None = None


class Lab(Protocol):
    """What faults act on: the emulated cluster and the processes on it."""

    def kill_server(self, host: str) -> InForce:
        """SIGKILL the server on a host; to confirm it is to wait until it has ended."""

    def set_link(self, link: str, *, rate_bps: int | None) -> None:
        """Change a link in place, both directions, and read it back."""


class Fault(abc.ABC):
    """One entry of the timeline.

    Attributes:
        verb: The specification's word.
        target: What it hits, for people.
        at_s: When it is due, from the start of the workload.
        for_s: After how long it heals; None if it does only at the end of the run.
        hosts: Hosts whose service it takes away.
        links: Links that it changes.
        ends: The hosts at their ends.
        detail: What it does, for people.
    """

    verb: str
    target: str
    at_s: float
    for_s: float | None = None
    hosts: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    detail: str = ""

    @abc.abstractmethod
    def inject(self, lab: Lab) -> InForce:
        """Put the fault in force, and read it back."""

    @abc.abstractmethod
    def heal(self, lab: Lab) -> str | None:
        """Restore the declared state; None where nothing can (a killed server stays dead)."""


class Kill(Fault):
    """The server on a host dies from SIGKILL; its kernel closes its connections, as after a crash."""

    def __init__(self, spec: KillFault) -> None:
        self.verb = spec.kind
        self.target = spec.target
        self.at_s = spec.at_s
        self.hosts = (spec.kill,)

    def inject(self, lab: Lab) -> InForce:
        """Kill it; in force when the kernel has taken the signal, from which on it runs no instruction of its own."""
        return lab.kill_server(self.target)

    def heal(self, lab: Lab) -> str | None:
        """A crashed server doesn't come back by itself."""
        return None


class Throttle(Fault):
    """A link's rate changes in both directions, in place."""

    def __init__(self, spec: ThrottleFault, link: LinkSpec, hosts: Sequence[str]) -> None:
        self.verb = spec.kind
        self.target = link.name
        self.at_s = spec.at_s
        self.for_s = spec.for_s
        self.links = (link.name,)
        self.ends = tuple(end for end in link.between if end in hosts)
        self.detail = format_rate(spec.rate_bps)
        self._rate_bps = spec.rate_bps
        self._declared_bps = link.rate_bps

    def inject(self, lab: Lab) -> InForce:
        """Set the rate; in force when it was read back."""
        lab.set_link(self.target, rate_bps=self._rate_bps)
        return InForce(time.monotonic(), format_rate(self._rate_bps))

    def heal(self, lab: Lab) -> str | None:
        """Set the declared rate again."""
        lab.set_link(self.target, rate_bps=self._declared_bps)
        return "unshaped" if self._declared_bps is None else format_rate(self._declared_bps)


def fault_of(spec: FaultSpec, experiment: Experiment) -> Fault:
    """The fault that a specification asks for."""
    match spec:
        case KillFault():
            return Kill(spec)
        case ThrottleFault():
            link = next(link for link in experiment.links if set(link.between) == set(spec.throttle))
            return Throttle(spec, link, tuple(experiment.hosts))


def faults_of(experiment: Experiment) -> tuple[Fault, ...]:
    """The experiment's faults, numbered by their place in the file."""
    return tuple(fault_of(spec, experiment) for spec in experiment.faults)

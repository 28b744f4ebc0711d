"""What a fault is, and what it acts on."""

from __future__ import annotations

import abc
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from testbed.emulation.disk import Condition
from testbed.emulation.overlay import Modification
from testbed.emulation.shaping import Shape
from testbed.serving.events import PlanAdopted
from testbed.spec.faults import FaultBase
from testbed.spec.faults.entries import entry

Way = tuple[str, str]
"""A direction: the name of a link and the end that sends."""


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

    def start_server(self, host: str) -> InForce:
        """Start a server on a host whose server has ended; to confirm it is to wait until it listens."""

    def power_off(self, host: str) -> InForce:
        """Take a host's links down, then SIGKILL its server."""

    def power_on(self, host: str) -> InForce:
        """Bring a host's links up and start a server on it."""

    def pause(self, host: str) -> InForce:
        """Stop the server on a host, with all that it holds."""

    def resume(self, host: str) -> InForce:
        """Let the server on a host go on."""

    def ask_to_leave(self, host: str) -> InForce:
        """SIGTERM the server on a host."""

    def set_cpu(self, host: str, share: float | None, by: Hashable = None) -> InForce:
        """Change a host's share of a core; None takes back what `by` asked for."""

    def set_memory(self, host: str, limit_bytes: int | None, by: Hashable = None) -> InForce:
        """Change a host's memory limit; None takes back what `by` asked for."""

    def modify_links(self, ways: Sequence[Way], fault: Hashable, modification: Modification | None) -> Sequence[Shape]:
        """Lay a fault over directions of links, change it or (None) take it away; returns what is read back."""

    def cut_hosts(self, fault: Hashable, pairs: Sequence[tuple[str, str]]) -> None:
        """Let no packet of either host of a pair reach the other; without pairs the fault is taken away."""

    def spoil_disk(self, host: str, condition: Condition | None, by: Hashable) -> InForce:
        """Bring a host's disk into a condition and read it back; None takes back what `by` had asked for."""

    def corrupt_disk(self, host: str, seed: str) -> InForce:
        """Flip a bit of every chunk of weights on a host's disk, and read them back."""


class Fault(abc.ABC):
    """One entry of the flat timeline.

    Attributes:
        verb: The specification's word.
        target: What it hits, for people.
        at_s: When it is due, from the start of the workload.
        for_s: After how long it heals; None if it does only at the end of the run.
        hosts: Hosts whose service it takes away.
        links: Links that it changes.
        ends: The hosts at their ends.
        detail: What it does, for people, as the rest of a sentence: ``to 2Mbit/s``.
        turns: When it changes while it is in force, in seconds since it was due.
        declared: The entry of the flat timeline that it was made of, in declared units.
        folder: The experiment's, to which paths in the entry are relative.
    """

    verb: str
    target: str
    at_s: float
    for_s: float | None = None
    hosts: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    detail: str = ""
    turns: tuple[float, ...] = ()
    declared: FaultBase | None = None
    folder: Path | None = None

    @property
    def entry(self) -> str:
        """The entry as the file has it, to be replayed; empty for a fault that is of no file."""
        return "" if self.declared is None else entry(self.declared, self.folder)

    def aimed(self, plan: PlanAdopted | None) -> Self:
        """The fault with its target known; called when it strikes, before it is injected.

        Args:
            plan: The plan in force; None if there is none yet.

        Raises:
            ExperimentError: If the plan has no such target.
        """
        return self

    @abc.abstractmethod
    def inject(self, lab: Lab) -> InForce:
        """Put the fault in force, and read it back."""

    def turn(self, lab: Lab, number: int) -> str:
        """Make the change of ``turns[number]``, read it back, and say what is in force.

        Each change is whole in itself: one that would come too late is left out.
        """
        raise NotImplementedError

    @abc.abstractmethod
    def heal(self, lab: Lab) -> InForce | str | None:
        """Restore the declared state, and say what is read back; None where nothing can (a killed server stays dead).

        What comes back only later says since when, and what confirms it.
        """

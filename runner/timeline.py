"""The timeline: faults compiled to flat, ordered steps and executed against absolute deadlines."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runner.events import FaultChanged, FaultEffective, FaultFailed, FaultHealed, FaultScheduled, FaultStarted
from runner.faults import Fault, InForce, Lab
from runner.promptness import act_promptly
from testbed.errors import TestbedError
from testbed.serving.events import PlanAdopted, Reporter

Clock = Callable[[], float]
Wait = Callable[[float], bool]
"""Waits for so many seconds; returns True as soon as the timeline is to stop."""


@dataclass(frozen=True, slots=True, order=True)
class Step:
    """One thing to do, ``due_s`` from the start of the workload: to inject, to change or to heal a fault.

    ``turn`` is the number of the change; negative for the others.
    """

    due_s: float
    fault: int
    heals: bool
    turn: int = -1


def compile_steps(faults: Sequence[Fault]) -> tuple[Step, ...]:
    """All steps in the order of execution; of two at the same instant, the earlier fault's comes first."""
    steps = [Step(fault.at_s, number, heals=False) for number, fault in enumerate(faults)]
    steps += [
        Step(fault.at_s + fault.for_s, number, heals=True)
        for number, fault in enumerate(faults)
        if fault.for_s is not None
    ]
    steps += [
        Step(fault.at_s + offset_s, number, heals=False, turn=turn)
        for number, fault in enumerate(faults)
        for turn, offset_s in enumerate(fault.turns)
    ]
    return tuple(sorted(steps))


@dataclass(frozen=True, slots=True)
class _Unconfirmed:
    """A fault that was injected or healed, what came of it, and the event that tells of it."""

    fault: int
    found: InForce
    told: type[FaultEffective] | type[FaultHealed]


class Timeline:
    """Executes the faults of a run and tells the history what was due, begun, in force and healed.

    Args:
        faults: In the order of the file; their places are their numbers.
        lab: What they act on.
        report: The history.
        clock: The shared monotonic clock.
        plan: The plan in force, for faults that strike a host by its part in it.
    """

    def __init__(
        self,
        faults: Sequence[Fault],
        lab: Lab,
        report: Reporter,
        clock: Clock,
        plan: Callable[[], PlanAdopted | None] = lambda: None,
    ) -> None:
        self._faults = list(faults)
        self._plan = plan
        self._steps = compile_steps(faults)
        self._lab = lab
        self._report = report
        self._clock = clock
        self._in_force: set[int] = set()
        self._unconfirmed: queue.SimpleQueue[_Unconfirmed | None] = queue.SimpleQueue()
        self._confirmer: threading.Thread | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def announce(self, zero_s: float) -> None:
        """Tell the history what is due when."""
        for number, fault in enumerate(self._faults):
            self._report(
                FaultScheduled(
                    t_s=self._clock(),
                    fault=number,
                    verb=fault.verb,
                    target=fault.target,
                    due_s=zero_s + fault.at_s,
                    heal_due_s=None if fault.for_s is None else zero_s + fault.at_s + fault.for_s,
                    hosts=fault.hosts,
                    links=fault.links,
                    ends=fault.ends,
                    detail=fault.detail,
                    entry=fault.entry,
                )
            )

    def start(self, zero_s: float) -> None:
        """Execute all steps on a thread of their own."""
        # Begun now: to begin a thread is to wait until it runs, which takes its time on a busy machine.
        self._confirmer = threading.Thread(target=self._confirm, name="timeline confirmations")
        self._confirmer.start()
        self._thread = threading.Thread(target=self._execute_promptly, args=(zero_s,), name="timeline")
        self._thread.start()

    def _execute_promptly(self, zero_s: float) -> None:
        act_promptly()
        self.execute(zero_s, self._stop.wait)

    def execute(self, zero_s: float, wait: Wait) -> None:
        """Execute all steps on the calling thread; ends early when ``wait`` says so."""
        for step in self._steps:
            while (gap_s := zero_s + step.due_s - self._clock()) > 0:
                if wait(gap_s):
                    return
            if self._stop.is_set():
                return
            if step.heals:
                self._heal(step.fault)
            elif step.turn >= 0:
                self._turn(step, zero_s)
            else:
                self._inject(step.fault)

    def finish(self) -> None:
        """Stop, and heal whatever is still in force; always called at the end of a run."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._unconfirmed.put(None)
        if self._confirmer is None:
            self._confirm()
        else:
            self._confirmer.join()
            self._confirmer = None
        for number in sorted(self._in_force):
            self._heal(number)

    def _inject(self, number: int) -> None:
        began_s = self._clock()
        try:
            fault = self._faults[number] = self._faults[number].aimed(self._plan())
        except TestbedError as error:
            self._report(FaultFailed(t_s=began_s, fault=number, error=str(error)))
            return
        self._report(
            FaultStarted(
                t_s=began_s,
                fault=number,
                target=fault.target,
                hosts=fault.hosts,
                links=fault.links,
                ends=fault.ends,
                entry=fault.entry,
            )
        )
        self._in_force.add(number)
        try:
            found = fault.inject(self._lab)
        except TestbedError as error:
            self._report(FaultFailed(t_s=self._clock(), fault=number, error=str(error)))
        else:
            self._tell(_Unconfirmed(number, found, FaultEffective))

    def _turn(self, step: Step, zero_s: float) -> None:
        fault = self._faults[step.fault]
        following_s = [zero_s + fault.at_s + offset_s for offset_s in fault.turns[step.turn + 1 : step.turn + 2]]
        if step.fault not in self._in_force or any(self._clock() >= due_s for due_s in following_s):
            return
        try:
            detail = fault.turn(self._lab, step.turn)
        except TestbedError as error:
            self._report(FaultFailed(t_s=self._clock(), fault=step.fault, error=str(error)))
        else:
            self._report(FaultChanged(t_s=self._clock(), fault=step.fault, due_s=zero_s + step.due_s, detail=detail))

    def _tell(self, done: _Unconfirmed) -> None:
        """Report what was done, as soon as it is confirmed."""
        if done.found.confirm is None:
            self._report(done.told(t_s=done.found.t_s, fault=done.fault, detail=done.found.detail))
        elif self._confirmer is None:
            self._confirm_one(done, done.found.confirm)
        else:
            self._unconfirmed.put(done)

    def _confirm(self) -> None:
        while (done := self._unconfirmed.get()) is not None:
            if done.found.confirm is not None:
                self._confirm_one(done, done.found.confirm)

    def _confirm_one(self, done: _Unconfirmed, confirm: Callable[[], str]) -> None:
        try:
            detail = confirm()
        except TestbedError as error:
            self._report(FaultFailed(t_s=self._clock(), fault=done.fault, error=str(error)))
        else:
            self._report(done.told(t_s=done.found.t_s, fault=done.fault, detail=detail))

    def _heal(self, number: int) -> None:
        if number not in self._in_force:
            return
        self._in_force.discard(number)
        try:
            found = self._faults[number].heal(self._lab)
        except TestbedError as error:
            self._report(FaultFailed(t_s=self._clock(), fault=number, error=str(error)))
            return
        if isinstance(found, str):
            found = InForce(self._clock(), found)
        if found is not None:
            self._tell(_Unconfirmed(number, found, FaultHealed))

"""Timelines on a clock that is set by hand: minutes pass in no time."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Self

import pytest

from runner.events import FaultChanged, FaultEffective, FaultFailed, FaultHealed, FaultScheduled, FaultStarted
from runner.faults.base import Fault, InForce, Lab, Way
from runner.timeline import Step, Timeline, compile_steps
from testbed.emulation.disk import Condition
from testbed.emulation.overlay import Modification
from testbed.emulation.shaping import Shape
from testbed.errors import ExperimentError, MachineError
from testbed.serving.events import Event, PlanAdopted


class HandClock:
    """Waiting moves it on; what is waited for is remembered."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.late_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def wait(self, duration_s: float) -> bool:
        self.now_s += duration_s + self.late_s
        return False


@dataclass
class NoLab:
    """Records what faults did to it."""

    done: list[str] = field(default_factory=list)

    def kill_server(self, host: str) -> InForce:
        self.done.append(f"kill {host}")
        return InForce(0.0, "gone")

    def start_server(self, host: str) -> InForce:
        self.done.append(f"start {host}")
        return InForce(1.0, "started", lambda: f"{host} listens")

    def power_off(self, host: str) -> InForce:
        self.done.append(f"off {host}")
        return InForce(0.0, "links down")

    def power_on(self, host: str) -> InForce:
        self.done.append(f"on {host}")
        return InForce(1.0, "links up")

    def pause(self, host: str) -> InForce:
        self.done.append(f"pause {host}")
        return InForce(0.0, "stopped")

    def resume(self, host: str) -> InForce:
        self.done.append(f"resume {host}")
        return InForce(1.0, "goes on")

    def ask_to_leave(self, host: str) -> InForce:
        self.done.append(f"ask {host}")
        return InForce(0.0, "asked")

    def set_cpu(self, host: str, share: float | None, by: Hashable = None) -> InForce:
        self.done.append(f"cpu {host} {share}")
        return InForce(0.0, "set")

    def set_memory(self, host: str, limit_bytes: int | None, by: Hashable = None) -> InForce:
        self.done.append(f"memory {host} {limit_bytes}")
        return InForce(0.0, "set")

    def modify_links(self, ways: Sequence[Way], fault: Hashable, modification: Modification | None) -> Sequence[Shape]:
        self.done.append(f"{ways} {modification}")
        return ()

    def spoil_disk(self, host: str, condition: Condition | None, by: Hashable) -> InForce:
        self.done.append(f"disk of {host}: {condition}")
        return InForce(0.0, "works" if condition is None else "spoilt")

    def corrupt_disk(self, host: str, seed: str) -> InForce:
        self.done.append(f"corrupt {host} {seed}")
        return InForce(0.0, "flipped")

    def cut_hosts(self, fault: Hashable, pairs: Sequence[tuple[str, str]]) -> None:
        self.done.append(f"cut {pairs}")


class Named(Fault):
    """Writes its name, or fails."""

    def __init__(self, name: str, at_s: float, for_s: float | None = None, broken: bool = False) -> None:
        self.verb, self.target, self.at_s, self.for_s, self.broken = "test", name, at_s, for_s, broken

    def inject(self, lab: Lab) -> InForce:
        if self.broken:
            raise MachineError("no such luck")
        lab.kill_server(f"{self.target} in")
        return InForce(7.0, "in force")

    def heal(self, lab: Lab) -> str | None:
        lab.kill_server(f"{self.target} out")
        return "as declared"


def run(*faults: Fault, late_s: float = 0.0) -> tuple[list[str], list[Event], HandClock]:
    clock, lab, events = HandClock(), NoLab(), list[Event]()
    clock.late_s = late_s
    timeline = Timeline(faults, lab, events.append, clock)
    timeline.announce(1000.0)
    timeline.execute(1000.0, clock.wait)
    timeline.finish()
    return lab.done, events, clock


def test_steps_come_in_the_order_of_time_and_then_of_the_file() -> None:
    steps = compile_steps([Named("a", 5, 3), Named("b", 2, 6), Named("c", 8)])
    assert steps == (Step(2, 1, False), Step(5, 0, False), Step(8, 0, True), Step(8, 1, True), Step(8, 2, False))


def test_each_fault_is_injected_and_healed_at_its_time() -> None:
    done, events, clock = run(Named("a", 5, 3), Named("b", 2, 600))
    assert done == ["kill b in", "kill a in", "kill a out", "kill b out"]
    assert [e.t_s - 1000 for e in events if isinstance(e, FaultStarted)] == [2, 5]
    assert [e.t_s - 1000 for e in events if isinstance(e, FaultHealed)] == [8, 602]
    assert clock.now_s == 1602
    due = {e.fault: (e.due_s - 1000, e.heal_due_s) for e in events if isinstance(e, FaultScheduled)}
    assert due == {0: (5, 1008), 1: (2, 1602)}


class Back(Named):
    """What comes back says since when; whether it is really back is known later."""

    def heal(self, lab: Lab) -> InForce:
        return lab.start_server(self.target)


def test_what_comes_back_is_healed_since_it_was_started_and_told_when_that_is_confirmed() -> None:
    _, events, _ = run(Back("a", 5, 3))
    assert [(e.t_s, e.detail) for e in events if isinstance(e, FaultHealed)] == [(1.0, "a listens")]


def test_lateness_does_not_add_up() -> None:
    _, events, _ = run(Named("a", 1), Named("b", 2), Named("c", 3), late_s=0.25)
    assert [e.t_s - 1000 for e in events if isinstance(e, FaultStarted)] == [1.25, 2.25, 3.25]


def test_what_has_no_end_is_healed_at_the_end_of_the_run_and_once() -> None:
    done, events, _ = run(Named("a", 5))
    assert done == ["kill a in", "kill a out"]
    assert len([e for e in events if isinstance(e, FaultHealed)]) == 1


def test_a_fault_is_in_force_when_it_says_so() -> None:
    _, events, _ = run(Named("a", 5))
    assert [(e.t_s, e.detail) for e in events if isinstance(e, FaultEffective)] == [(7.0, "in force")]


def test_a_fault_that_fails_is_told_and_the_others_go_on() -> None:
    done, events, _ = run(Named("a", 1, broken=True), Named("b", 2))
    assert "kill b in" in done
    assert [(e.fault, e.error) for e in events if isinstance(e, FaultFailed)] == [(0, "no such luck")]


class Turning(Named):
    """Changes while it is in force."""

    turns = (1.0, 2.0, 2.5)

    def turn(self, lab: Lab, number: int) -> str:
        lab.kill_server(f"{self.target} turn {number}")
        if self.broken:
            raise MachineError("stuck")
        return f"turned {number}"


def test_a_fault_changes_at_its_turns_while_it_is_in_force() -> None:
    done, events, _ = run(Turning("a", 5, 2.25))
    assert done == ["kill a in", "kill a turn 0", "kill a turn 1", "kill a out"]
    changes = [(e.t_s - 1000, e.due_s - 1000, e.detail) for e in events if isinstance(e, FaultChanged)]
    assert changes == [(6.0, 6.0, "turned 0"), (7.0, 7.0, "turned 1")]


def test_a_turn_that_comes_after_the_next_one_is_due_is_left_out() -> None:
    done, _, _ = run(Turning("a", 5, 9), late_s=0.6)
    # The second comes 0.6 s after 7 s, when the third is due already.
    assert done == ["kill a in", "kill a turn 0", "kill a turn 2", "kill a out"]


def test_a_turn_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    fault = Turning("a", 5, 1.5)
    monkeypatch.setattr(fault, "inject", lambda _: InForce(7.0, "in force"))
    fault.broken = True
    done, events, _ = run(fault)
    assert done == ["kill a turn 0", "kill a out"]
    assert [(e.fault, e.error) for e in events if isinstance(e, FaultFailed)] == [(0, "stuck")]


class Hidden(Named):
    """Finds its target when it strikes, or doesn't."""

    def aimed(self, plan: PlanAdopted | None) -> Self:
        if self.broken:
            raise ExperimentError("no such stage")
        self.target, self.hosts = "found", ("node1",)
        return self


def test_what_a_fault_hit_is_known_when_it_starts() -> None:
    done, events, _ = run(Hidden("a", 1), Hidden("b", 2, broken=True))
    assert done == ["kill found in", "kill found out"]
    assert [(e.fault, e.target, e.hosts) for e in events if isinstance(e, FaultStarted)] == [(0, "found", ("node1",))]
    assert [(e.fault, e.error) for e in events if isinstance(e, FaultFailed)] == [(1, "no such stage")]


@pytest.mark.parametrize("stop_after", [0, 1])
def test_stopping_early_heals_what_is_in_force(stop_after: int) -> None:
    clock, lab, events = HandClock(), NoLab(), list[Event]()
    timeline = Timeline([Named("a", 1), Named("b", 9)], lab, events.append, clock)
    waits = iter([False] * stop_after + [True])

    def wait(duration_s: float) -> bool:
        clock.wait(duration_s)
        return next(waits)

    timeline.execute(1000.0, wait)
    timeline.finish()
    assert lab.done == (["kill a in", "kill a out"] if stop_after else [])


def test_what_takes_long_to_confirm_holds_up_no_other_fault() -> None:
    may_end, no_lab, events = threading.Event(), NoLab(), list[Event]()

    class Slow(Named):
        def inject(self, lab: Lab) -> InForce:
            def confirm() -> str:
                assert may_end.wait(20)
                if self.broken:
                    raise MachineError("still there")
                return "ended"

            return InForce(6.0, "", confirm)

    faults = (Slow("a", 0), Slow("b", 0, broken=True), Named("c", 0))
    third = threading.Event()

    def note(event: Event) -> None:
        events.append(event)
        if isinstance(event, FaultEffective) and event.fault == 2:
            third.set()

    timeline = Timeline(faults, no_lab, note, time.monotonic)
    timeline.start(time.monotonic())
    assert third.wait(20)
    assert [(e.fault, e.detail) for e in events if isinstance(e, FaultEffective)] == [(2, "in force")]
    may_end.set()
    timeline.finish()
    confirmed = [e for e in events if isinstance(e, FaultEffective) and e.fault == 0]
    assert [(e.t_s, e.detail) for e in confirmed] == [(6.0, "ended")]
    assert [(e.fault, e.error) for e in events if isinstance(e, FaultFailed)] == [(1, "still there")]

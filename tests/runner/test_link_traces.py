from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from runner.events import LinkRateChanged
from runner.fidelity_checks import check_trace
from runner.link_traces import TracePlayer, TraceStep, compile_traces, restore_traced
from testbed.errors import MachineError
from testbed.serving.events import Event
from testbed.spec import load_experiment
from testbed.spec.scaling import slowed

TOPO = """\
name: traced
hosts: {dispatcher: {cpu: 0.3}, node1: {cpu: 0.1}}
links:
  - between: [dispatcher, node1]
    rate: 20Mbit/s
    forward: {trace: {file: a.trace, format: mahimahi, loop: false}}
    backward: {trace: {file: b.csv, format: csv}}
model: {name: mobilenet_v2, input: [1, 3, 224, 224]}
workload: {kind: closed, in_flight: 1, duration: 5s}
"""


@pytest.fixture
def topo(tmp_path: Path) -> Path:
    (tmp_path / "a.trace").write_text("".join(f"{time}\n" for time in range(1, 101)))
    (tmp_path / "b.csv").write_text("time_s,rate\n0,1Mbit/s\n1.5,2Mbit/s\n")
    (tmp_path / "topo.yaml").write_text(TOPO)
    return tmp_path / "topo.yaml"


def test_traces_of_all_directions_become_one_list_in_order(topo: Path) -> None:
    assert compile_traces(load_experiment(topo)) == (
        TraceStep(0.0, "dispatcher-node1", "dispatcher", 100 * 1514 * 8 * 10),
        TraceStep(0.0, "dispatcher-node1", "node1", 1_000_000),
        TraceStep(0.1, "dispatcher-node1", "dispatcher", 20_000_000),
        TraceStep(1.5, "dispatcher-node1", "node1", 2_000_000),
        TraceStep(3.0, "dispatcher-node1", "node1", 1_000_000),
        TraceStep(4.5, "dispatcher-node1", "node1", 2_000_000),
    )


def test_a_slower_world_is_traced_more_slowly(topo: Path) -> None:
    steps = compile_traces(slowed(load_experiment(topo, ("compute.time_scale=10",))))
    assert [(step.due_s, step.rate_bps) for step in steps if step.source == "node1"] == [
        (0.0, 100_000),
        (15.0, 200_000),
        (30.0, 100_000),
        (45.0, 200_000),
    ]


def test_traced_links_get_their_declared_rate_back(topo: Path) -> None:
    stage = Stage()
    restore_traced(load_experiment(topo), stage)
    assert stage.restored == ["dispatcher-node1"]


class Stage:
    """A clock set by hand, and links that note what is asked of them; each change takes `slow_s`."""

    def __init__(self, slow_s: float = 0.0) -> None:
        self.now_s = 100.0
        self.slow_s = slow_s
        self.asked: list[tuple[str, int | None, str | None]] = []
        self.events: list[Event] = []
        self.failures: list[str] = []
        self.restored: list[str] = []
        self.refuse = False

    def set_link(self, link: str, *, rate_bps: int | None, source: str | None) -> None:
        if self.refuse:
            raise MachineError("no")
        self.asked.append((link, rate_bps, source))
        self.now_s += self.slow_s

    def note(self, event: Event) -> None:
        self.events.append(event)

    def restore_link(self, link: str) -> None:
        self.restored.append(link)

    def wait(self, gap_s: float) -> bool:
        self.now_s += gap_s
        return False

    def player(self, *steps: TraceStep) -> TracePlayer:
        return TracePlayer(steps, self, self.note, lambda: self.now_s, self.failures.append)


STEPS = tuple(TraceStep(float(at), "a-b", "a", 1000 * at + 1000) for at in range(4))


def test_steps_are_made_at_their_times_and_recorded() -> None:
    stage = Stage()
    stage.player(*STEPS).play(100.0, stage.wait)
    assert stage.asked == [("a-b", step.rate_bps, "a") for step in STEPS]
    assert [event.t_s for event in stage.events] == [100.0, 101.0, 102.0, 103.0]
    assert [event.due_s for event in stage.events if isinstance(event, LinkRateChanged)] == [100.0, 101.0, 102.0, 103.0]


def test_a_step_that_is_overtaken_by_the_next_is_left_out() -> None:
    stage = Stage(slow_s=2.5)
    stage.player(*STEPS).play(100.0, stage.wait)
    assert [rate_bps for _, rate_bps, _ in stage.asked] == [1000, 3000, 4000]
    other = Stage(slow_s=2.5)
    other.player(STEPS[0], TraceStep(0.5, "a-b", "b", 7)).play(100.0, other.wait)
    assert len(other.asked) == 2


def test_a_step_that_fails_ends_the_run() -> None:
    stage = Stage()
    stage.refuse = True
    stage.player(*STEPS).play(100.0, stage.wait)
    assert len(stage.failures) == 1
    assert "the trace of a-b can't go on: no" in stage.failures[0]
    assert stage.events == []


def test_stopping_ends_the_play() -> None:
    stage = Stage()
    stop: Callable[[float], bool] = lambda _: True  # noqa: E731
    stage.player(TraceStep(1.0, "a-b", "a", 1)).play(100.0, stop)
    assert stage.asked == []
    player = stage.player(TraceStep(3600.0, "a-b", "a", 1))
    player.start(100.0)
    player.finish()
    player.finish()
    assert stage.asked == []


def test_late_steps_make_a_run_suspect() -> None:
    assert check_trace(0.0, [0.001] * 200).ok
    late = check_trace(0.0, [0.05] * 200)
    assert (late.level, late.ok) == ("suspect", False)

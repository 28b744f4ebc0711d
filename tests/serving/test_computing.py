"""Calibrated compute: right outputs, at the right time, checked now and then."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from testbed.errors import ProtocolError
from testbed.planning.plan import Assignment
from testbed.serving.computing import (
    KeptOutputs,
    Pace,
    PacedComputing,
    Stage,
    UnheldComputing,
    computing_of,
    write_speed,
)
from testbed.serving.events import OutputMismatch, PlanAdopted, RequestCompleted, RequestSubmitted, StageExecuted
from testbed.serving.tensors import pack_tensors, unpack_tensors
from testbed.serving.wire import Frame, FrameKind
from tests.serving.system import system


@dataclass
class Doubler:
    """Stands for a StageExecutor; takes its time on the clock that it is given."""

    clock: Clock
    takes_s: float = 0.0
    runs: int = 0
    offset: float = 0.0

    def run(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        self.runs += 1
        self.clock.now_s += self.takes_s
        return [2 * tensor + self.offset for tensor in inputs]


@dataclass
class Clock:
    """Time that passes only when somebody waits, and then a little more than asked for."""

    now_s: float = 100.0
    lateness_s: float = 0.0
    waits: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now_s

    def wait_until(self, due_s: float) -> None:
        self.waits.append(due_s)
        if due_s > self.now_s:
            self.now_s = due_s + self.lateness_s


def request(*values: float) -> Frame:
    tensors, payload = pack_tensors([torch.tensor(values)])
    return Frame(FrameKind.DATA, 1, 1, {"tensors": tensors}, (bytearray(b"".join(payload)),))


def real(clock: Clock, **changes: Any) -> PacedComputing:
    settings: dict[str, Any] = {"op_seconds": (0.010, 0.020, 0.030), "speed": 0.5}
    return PacedComputing(Pace(**{**settings, **changes}), clock=clock, wait_until=clock.wait_until)


def calibrated(
    folder: Path, clock: Clock, notes: list[str] | None = None, verify_every: int = 1000, **changes: Any
) -> PacedComputing:
    settings: dict[str, Any] = {"op_seconds": (0.010, 0.020, 0.030), "speed": 0.5}
    sink = [] if notes is None else notes
    outputs = KeptOutputs(folder, verify_every, sink.append)
    return PacedComputing(Pace(**{**settings, **changes}), outputs, clock=clock, wait_until=clock.wait_until)


def stage_of(executor: Doubler, first_op: int = 0, last_op: int = 2, digest: str = "a") -> Stage:
    return Stage(executor, first_op, last_op, digest)  # type: ignore[arg-type]


def values(ran: Any) -> list[float]:
    body = memoryview(bytearray(b"".join(ran.payload)))
    return [float(value) for tensor in unpack_tensors(ran.tensors, body) for value in tensor.flatten()]


def test_a_result_is_held_until_the_stages_time_has_passed(tmp_path: Path) -> None:
    clock = Clock(lateness_s=0.0002)
    computing = calibrated(tmp_path, clock)
    stage = stage_of(Doubler(clock, takes_s=0.004))
    first = computing.run(stage, request(1.0, 2.0), clock.now_s)
    assert values(first) == [2.0, 4.0]
    assert clock.waits == [pytest.approx(100.06)]  # (10 + 20 ms) / 0.5
    assert first.overshoot_s == pytest.approx(0.0002)
    assert first.computed


def test_a_known_input_is_looked_up_and_a_new_one_computed(tmp_path: Path) -> None:
    clock = Clock()
    computing = calibrated(tmp_path, clock)
    executor = Doubler(clock)
    stage = stage_of(executor)
    runs = [
        computing.run(stage, request(*numbers), clock.now_s)
        for numbers in ((1.0, 2.0), (1.0, 2.0), (3.0, 4.0), (1.0, 2.0))
    ]
    assert [values(ran) for ran in runs] == [[2.0, 4.0], [2.0, 4.0], [6.0, 8.0], [2.0, 4.0]]
    assert [ran.computed for ran in runs] == [True, False, True, False]
    assert executor.runs == 2
    assert calibrated(tmp_path, clock).run(stage_of(executor), request(3.0, 4.0), 0.0).computed is False  # another node
    assert calibrated(tmp_path, clock).run(stage_of(executor, digest="b"), request(3.0, 4.0), 0.0).computed is True


def test_every_nth_request_is_computed_and_a_difference_is_told(tmp_path: Path) -> None:
    clock = Clock()
    computing = calibrated(tmp_path, clock, verify_every=3)
    executor = Doubler(clock)
    stage = stage_of(executor)
    runs = [computing.run(stage, request(1.0), clock.now_s) for _ in range(6)]
    assert [ran.computed for ran in runs] == [True, False, True, False, False, True]
    assert not any(ran.mismatch for ran in runs)
    executor.offset = 5e-7  # two units in the last place
    later = [computing.run(stage, request(1.0), clock.now_s) for _ in range(3)]
    assert [ran.mismatch for ran in later] == [False, False, True]


def test_computing_that_takes_longer_than_the_calibrated_time_shows_as_overshoot(tmp_path: Path) -> None:
    clock = Clock()
    ran = calibrated(tmp_path, clock).run(stage_of(Doubler(clock, takes_s=0.1)), request(1.0), clock.now_s)
    assert ran.overshoot_s == pytest.approx(0.04)


def test_lateness_does_not_add_up_from_request_to_request(tmp_path: Path) -> None:
    clock = Clock(lateness_s=0.005)
    computing = calibrated(tmp_path, clock)
    stage = stage_of(Doubler(clock))
    runs = [computing.run(stage, request(1.0), 100.0) for _ in range(10)]  # all had arrived at once
    assert clock.waits == pytest.approx([100.0 + 0.06 * number for number in range(1, 11)])
    assert [ran.started_s for ran in runs] == pytest.approx([100.0 + 0.06 * number for number in range(10)])
    late = computing.run(stage, request(1.0), 200.0)  # nothing to do until then
    assert late.started_s == 200.0


def test_noise_is_seeded_and_has_the_mean_it_should(tmp_path: Path) -> None:
    def times(seed: int) -> list[float]:
        clock = Clock()
        computing = calibrated(tmp_path, clock, noise=0.05, seed=seed)
        stage = stage_of(Doubler(clock))
        starts = []
        for _ in range(400):
            starts.append(clock.now_s)
            computing.run(stage, request(1.0), clock.now_s)
        return [due - start for due, start in zip(clock.waits, starts, strict=True)]

    one = times(1)
    assert one == times(1)
    assert one != times(2)
    mean = sum(one) / len(one)
    deviation = (sum((time - mean) ** 2 for time in one) / len(one)) ** 0.5
    assert mean == pytest.approx(0.06, rel=0.01)
    assert deviation / mean == pytest.approx(0.05, rel=0.15)


def test_outputs_that_cannot_be_kept_are_computed_each_time_and_it_is_said_once(tmp_path: Path) -> None:
    clock = Clock()
    notes: list[str] = []
    computing = calibrated(tmp_path / "missing", clock, notes)
    executor = Doubler(clock)
    for _ in range(3):
        assert values(computing.run(stage_of(executor), request(1.0), clock.now_s)) == [2.0]
    assert executor.runs == 3
    assert len(notes) == 1


def test_a_stage_without_times_is_refused(tmp_path: Path) -> None:
    clock = Clock()
    with pytest.raises(ProtocolError, match="operations 2 to 7"):
        calibrated(tmp_path, clock).run(stage_of(Doubler(clock), 2, 7), request(1.0), 0.0)


def test_real_compute_computes_each_request_and_holds_it_to_the_declared_speed() -> None:
    clock = Clock(lateness_s=0.0002)
    executor = Doubler(clock, takes_s=0.04)
    computing = real(clock)
    runs = [computing.run(stage_of(executor), request(1.0), 100.0) for _ in range(3)]
    assert executor.runs == 3
    assert all(ran.computed for ran in runs)
    assert clock.waits == pytest.approx([100.06, 100.12, 100.18])
    assert [ran.overshoot_s for ran in runs] == pytest.approx([0.0002] * 3)


def test_a_cpu_that_computes_too_slowly_is_busy_until_it_is_done() -> None:
    clock = Clock()
    executor = Doubler(clock, takes_s=0.1)
    computing = real(clock)
    slow = computing.run(stage_of(executor), request(1.0), 100.0)
    executor.takes_s = 0.01
    next_one = computing.run(stage_of(executor), request(1.0), 100.0)
    assert slow.overshoot_s == pytest.approx(0.04)
    assert (next_one.started_s, next_one.overshoot_s) == (pytest.approx(100.1), pytest.approx(0.0))
    assert clock.now_s == pytest.approx(100.16)


def test_a_node_without_a_pace_holds_nothing_back() -> None:
    computing = computing_of(None, None, lambda _: None)
    assert isinstance(computing, UnheldComputing)
    ran = computing.run(stage_of(Doubler(Clock())), request(1.5), 0.0)
    assert values(ran) == [3.0]
    assert (ran.computed, ran.overshoot_s) == (True, None)


@pytest.mark.slow
def test_a_calibrated_pipeline_answers_right_and_is_never_faster_than_its_table(tmp_path: Path) -> None:
    with system(tmp_path, workers=2) as running:
        outputs = tmp_path / "outputs"
        outputs.mkdir()
        ops = len(running.graph.ops)
        pace = {"op_seconds": [0.04 / ops] * ops, "speed": 1.0}
        running.start_nodes(pace=pace, outputs={"folder": str(outputs), "verify_every": 4})
        segments = running.problem.chain.segments
        first = (Assignment("node1", 0, segments // 2), Assignment("node2", segments // 2, segments))
        running.start_dispatcher(first)
        running.start_client(duration_s=1.5)
        assert running.finish().unanswered == 0
        outcomes = Counter(event.outcome for event in running.of(RequestCompleted))
        assert outcomes == {"ok": len(running.of(RequestSubmitted))}
        executed = running.of(StageExecuted)
        assert {event.computed for event in executed} == {True, False}
        assert not running.of(OutputMismatch)
        assert len(list(outputs.iterdir())) == 2 * len(running.samples.inputs)
        (plan,) = running.of(PlanAdopted)
        by_stage = {stage.stage: stage for stage in plan.stages}
        for event in executed:
            stage = by_stage[event.stage]
            table_s = 0.04 / ops * (stage.last_op - stage.first_op)
            assert event.overshoot_s is not None
            assert event.finished_s - event.started_s >= table_s


def test_a_speed_that_changes_counts_from_the_next_request_on(tmp_path: Path) -> None:
    clock, file = Clock(), tmp_path / "speed"
    write_speed(file, 0.5)
    pace = Pace.from_json({"op_seconds": [0.010, 0.020], "speed": str(file)})
    computing = PacedComputing(pace, clock=clock, wait_until=clock.wait_until)
    stage = stage_of(Doubler(clock))
    took_s = []
    for speed in (0.5, 0.25, 1.0):
        write_speed(file, speed)
        began_s = clock.now_s
        computing.run(stage, request(1.0), began_s)
        took_s.append(clock.now_s - began_s)
    assert took_s == pytest.approx([0.06, 0.12, 0.03])

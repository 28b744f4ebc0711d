"""The policy ``skip`` on loopback: a lost residual stage is left out at once, answers are marked, and it comes back.

Every degraded answer is compared, bit for bit, with what the graph without the lost operations gives in one piece.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.degraded import judge_degraded, settled
from runner.history import History
from runner.left_out import left_out
from testbed.emulation.nursery import Nursery
from testbed.planning.evaluate import stage_memory_bytes
from testbed.planning.plan import Assignment
from testbed.serving.codecs import NONE
from testbed.serving.events import (
    ChangeWeighed,
    EpochActive,
    EpochFenced,
    PlanAdopted,
    RequestCompleted,
    ServiceState,
    WeightsSupplied,
)
from tests.serving.system import DISPATCHER, System, shared_nursery, system
from tests.serving.test_policies import hosts_of, restart, sent_bytes
from tests.serving.test_system import assert_each_answered_once

pytestmark = pytest.mark.slow

PROGRAMS_BYTES = 50_000
"""More than the programs and manifests of a deployment that moves no weights."""


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with shared_nursery(tmp_path_factory.mktemp("nursery")) as started:
        yield started


def stages(running: System, hosts: int = 3) -> tuple[Assignment, ...]:
    """What is before the residual stream on the first host, what is behind it on the last, the stream on the others."""
    streams = running.problem.chain.streams
    stream, _ = Counter(stream for stream in streams if stream is not None).most_common(1)[0]
    places = [place for place, found in enumerate(streams) if found == stream]
    inner = [places[(len(places) - 1) * part // (hosts - 2)] for part in range(hosts - 1)]
    bounds = [0, *inner, running.problem.chain.segments]
    return tuple(Assignment(f"node{n}", *bounds[n - 1 : n + 1]) for n in range(1, hosts + 1))


def without_room(running: System, decision: tuple[Assignment, ...]) -> None:
    """No host has memory for more than its own stage."""
    held = {at.host: at for at in decision}
    workers = tuple(
        dataclasses.replace(
            worker,
            memory_bytes=stage_memory_bytes(running.problem, worker, held[worker.name].first, held[worker.name].last)
            if worker.name in held
            else 0,
        )
        for worker in running.problem.workers
    )
    running.problem = dataclasses.replace(running.problem, workers=workers)


def serve(running: System, duration_s: float, *, hosts: int = 3, room: bool = False, **policy: str) -> None:
    """Start everything under the policy, and wait until it answers.

    Args:
        running: Where.
        duration_s: Of the workload.
        hosts: With a stage.
        room: Whether hosts have memory for more than their own stages.
        policy: What it has besides its name.
    """
    decision = stages(running, hosts)
    if not room:
        without_room(running, decision)
    running.start_nodes()
    running.start_dispatcher(decision, policy={"name": "skip", **policy})
    running.start_client(duration_s=duration_s)
    running.wait_for(RequestCompleted, 3)


def finish(running: System, codec: str = NONE) -> list[RequestCompleted]:
    """Wait for all outcomes; the degraded answers, judged: all must be right, and those of plans that leave nothing out
    must not be among them.
    """
    assert running.finish().unanswered == 0
    judged = judge_degraded(running.history.events, running.graph, running.samples.inputs, running.answers, codec)
    history = History(events=settled([*running.history.events, *judged]))
    assert_each_answered_once(history)
    plans = {plan.epoch: plan for plan in running.of(PlanAdopted)}
    for plan in plans.values():
        pairs = [(stage.first_op, stage.last_op) for stage in plan.stages]
        assert plan.skipped == left_out(pairs, len(running.graph.ops))
    answers = [event for event in history.events if isinstance(event, RequestCompleted)]
    for answer in answers:
        assert answer.degraded == bool(plans[answer.epoch].skipped)
    return [answer for answer in answers if answer.degraded]


def wait_degraded(running: System, count: int) -> None:
    running.watch.wait(lambda e: isinstance(e, RequestCompleted) and e.degraded, count, 30, "degraded answers")


def test_a_lost_residual_stage_is_left_out_until_its_host_is_back(tmp_path: Path, nursery: Nursery) -> None:
    with system(tmp_path, nursery=nursery) as running:
        serve(running, 2.0)
        running.servers["node2"].kill()
        running.wait_state("degraded")
        wait_degraded(running, 5)
        restart(running, "node2")
        running.wait_for(EpochActive, 3)
        degraded = finish(running)
        first, bridge, whole = running.of(PlanAdopted)
        assert hosts_of(bridge) == ["node1", "node3"]
        assert bridge.strategy == "skip"
        assert bridge.skipped == ((first.stages[1].first_op, first.stages[1].last_op),)
        assert [stage.host for stage in whole.stages] == hosts_of(first)
        # Nothing moved, neither for the bridge nor for the way back.
        assert max(sent_bytes(running, 2).values()) < PROGRAMS_BYTES
        assert max(sent_bytes(running, 3).values()) < PROGRAMS_BYTES
        # Nobody had room for the lost stage; that was found out once, not again and again.
        refused = [event for event in running.of(ChangeWeighed) if not event.changes]
        assert [event.epoch for event in refused] == [2]
        # What it costs is told: the answers are not the whole model's.
        assert min(answer.error or 0.0 for answer in degraded) > 0
        assert {answer.epoch for answer in degraded} == {2}


def test_weights_travel_ahead_to_a_spare_while_degraded_answers_are_given(tmp_path: Path, nursery: Nursery) -> None:
    with system(tmp_path, workers=4, nursery=nursery) as running:
        serve(running, 1.5, room=True)
        running.servers["node2"].kill()
        running.wait_for(EpochActive, 3)
        finish(running)
        _, bridge, whole = running.of(PlanAdopted)[:3]
        assert bridge.skipped
        assert not whole.skipped
        assert max(sent_bytes(running, 2).values()) < PROGRAMS_BYTES
        (moved,) = running.of(WeightsSupplied)
        assert (moved.purpose, moved.failure) == ("move", "")
        assert moved.host in hosts_of(whole)
        fenced = next(event for event in running.of(EpochFenced) if event.epoch == 2)
        assert running.of(EpochActive)[1].t_s < moved.t_s < fenced.t_s, "the bridge served until the weights were there"
        assert max(sent_bytes(running, 3).values()) < PROGRAMS_BYTES


def test_another_loss_while_degraded_is_left_out_too(tmp_path: Path, nursery: Nursery) -> None:
    with system(tmp_path, workers=4, nursery=nursery) as running:
        serve(running, 2.0, hosts=4)
        running.servers["node2"].kill()
        wait_degraded(running, 3)
        running.servers["node3"].kill()
        running.wait_for(EpochActive, 3)
        running.watch.wait(lambda e: isinstance(e, RequestCompleted) and e.epoch == 3, 3, 30, "answers without both")
        restart(running, "node2")
        running.wait_for(EpochActive, 4)
        restart(running, "node3")
        running.wait_for(EpochActive, 5)
        finish(running)
        plans = running.of(PlanAdopted)
        assert [hosts_of(plan) for plan in plans[:3]] == [
            ["node1", "node2", "node3", "node4"],
            ["node1", "node3", "node4"],
            ["node1", "node4"],
        ]
        assert [hosts_of(plan) for plan in plans[-1:]] == [["node1", "node2", "node3", "node4"]]


def test_a_host_that_has_the_stages_on_both_sides_goes_on_alone(tmp_path: Path, nursery: Nursery) -> None:
    with system(tmp_path, workers=2, nursery=nursery) as running:
        first, middle, last = stages(running)
        decision = (first, middle, dataclasses.replace(last, host="node1"))
        both = stage_memory_bytes(running.problem, running.problem.workers[0], 0, running.problem.chain.segments)
        room_bytes = both - sum(running.problem.chain.weight_bytes[middle.first : middle.last])
        workers = (dataclasses.replace(running.problem.workers[0], memory_bytes=room_bytes), running.problem.workers[1])
        running.problem = dataclasses.replace(running.problem, workers=workers, stages_per_host=2)
        running.start_nodes()
        running.start_dispatcher(decision, policy={"name": "skip"}, window=16)
        running.start_client(duration_s=2.0, in_flight=16)
        running.wait_for(RequestCompleted, 3)
        running.servers["node2"].kill()
        wait_degraded(running, 20)
        restart(running, "node2")
        running.wait_for(EpochActive, 3)
        finish(running)
        plans = [hosts_of(plan) for plan in running.of(PlanAdopted)]
        assert plans[:2] == [["node1", "node2", "node1"], ["node1", "node1"]]


def test_where_nothing_can_be_left_out_a_new_plan_is_made(tmp_path: Path, nursery: Nursery) -> None:
    with system(tmp_path, nursery=nursery) as running:
        serve(running, 1.0, room=True)
        running.servers["node1"].kill()
        running.wait_for(EpochActive, 2)
        assert finish(running) == []
        assert "node1" not in hosts_of(running.of(PlanAdopted)[1])


def test_or_the_service_is_unavailable_until_a_bridge_is_possible(tmp_path: Path, nursery: Nursery) -> None:
    with system(tmp_path, nursery=nursery) as running:
        serve(running, 1.5, otherwise="unavailable")
        running.servers["node1"].kill()
        running.servers["node2"].kill()
        running.wait_state("unavailable")
        restart(running, "node1")
        wait_degraded(running, 3)
        restart(running, "node2")
        running.wait_state("serving", 2)
        finish(running)
        states = [event.state for event in running.of(ServiceState)]
        assert states.index("unavailable") < states.index("degraded")


def test_a_dispatcher_that_is_started_again_takes_the_bridge_up_and_still_ends_it(
    tmp_path: Path, nursery: Nursery
) -> None:
    with system(tmp_path, nursery=nursery) as running:
        serve(running, 3.0)
        running.servers["node2"].kill()
        wait_degraded(running, 3)
        running.servers[DISPATCHER].kill()
        running.servers[DISPATCHER].wait(5)
        running.start_dispatcher_again()
        running.wait_state("degraded", 2)
        restart(running, "node2")
        running.wait_state("serving", 2)
        finish(running)
        last = running.of(PlanAdopted)[-1]
        assert not last.skipped
        assert hosts_of(last) == ["node1", "node2", "node3"]


@pytest.mark.parametrize("codec", [NONE, "fp16"])
def test_calibrated_compute_and_codecs_give_the_same_degraded_answers(
    tmp_path: Path, nursery: Nursery, codec: str
) -> None:
    with system(tmp_path, nursery=nursery) as running:
        decision = stages(running)
        without_room(running, decision)
        folder = tmp_path / "outputs"
        folder.mkdir()
        pace = {"op_seconds": [1e-4] * len(running.graph.ops), "speed": 1.0}
        outputs = {"folder": str(folder), "verify_every": 3}
        running.start_nodes(codec=codec, pace=pace, outputs=outputs)
        running.start_dispatcher(decision, policy={"name": "skip"})
        running.start_client(duration_s=1.5, codec=codec)
        running.wait_for(RequestCompleted, 3)
        running.servers["node2"].kill()
        wait_degraded(running, 5)
        running.start_node("node2", codec=codec, pace=pace, outputs=outputs)
        running.wait_for(EpochActive, 3)
        assert len(finish(running, codec)) >= 5

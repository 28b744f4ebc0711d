"""The whole system on loopback: right answers, and none lost or doubled when a node dies."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from runner.history import History
from testbed.planning.plan import Assignment
from testbed.serving.events import (
    EpochActive,
    EpochFenced,
    HostLost,
    PlanAdopted,
    RequestCompleted,
    RequestSubmitted,
    StageDeployed,
    StageExecuted,
)
from tests.serving.system import PAIR, PairNet, System, system

pytestmark = pytest.mark.slow


def halves(running: System) -> tuple[Assignment, ...]:
    segments = running.problem.chain.segments
    return (Assignment("node1", 0, segments // 2), Assignment("node2", segments // 2, segments))


def assert_each_answered_once(history: History) -> None:
    submitted = {event.id for event in history.events if isinstance(event, RequestSubmitted)}
    outcomes = Counter((e.id, e.outcome) for e in history.events if isinstance(e, RequestCompleted))
    assert submitted
    assert outcomes == Counter((number, "ok") for number in submitted)


def test_a_pipeline_answers_every_request_bit_for_bit(tmp_path: Path) -> None:
    with system(tmp_path) as running:
        running.start_nodes()
        running.start_dispatcher(halves(running))
        running.start_client(duration_s=1.0)
        assert running.finish().unanswered == 0
        assert_each_answered_once(running.history)
        paths = {event.path for event in running.of(RequestCompleted)}
        assert paths == {("node1", "node2")}
        (plan,) = running.of(PlanAdopted)
        deployed = {event.host: event.bytes_sent for event in running.of(StageDeployed)}
        for stage in plan.stages:
            assert deployed[stage.host] >= stage.weights_bytes
        asked = len(running.of(RequestSubmitted))
        running.wait_for(StageExecuted, 2 * asked)  # a node tells of a request after it has passed it on
        executed = Counter(event.stage for event in running.of(StageExecuted))
        assert executed == {0: asked, 1: asked}


def test_two_inputs_and_two_outputs(tmp_path: Path) -> None:
    with system(tmp_path, module=PairNet(), inputs=PAIR, max_cut_tensors=None) as running:
        assert [spec.dtype for spec in running.graph.inputs] == ["int64", "float32"]
        assert len(running.graph.outputs) == 2
        cut = running.graph.cut(running.problem.chain.boundary_ops[running.problem.chain.segments // 2])
        assert len(cut.tensors) >= 4
        running.start_nodes()
        running.start_dispatcher(halves(running))
        running.start_client(duration_s=1.0)
        assert running.finish().unanswered == 0
        assert_each_answered_once(running.history)
        assert {event.path for event in running.of(RequestCompleted)} == {("node1", "node2")}


def test_a_killed_node_is_noticed_replaced_and_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    with system(tmp_path) as running:
        running.start_nodes()
        running.start_dispatcher(halves(running))
        running.start_client(duration_s=3.0)
        running.wait_for(RequestCompleted, 5)
        running.servers["node2"].kill()
        running.wait_for(EpochActive, 2)
        assert running.finish().unanswered == 0
        assert_each_answered_once(running.history)
        (lost,) = running.of(HostLost)
        assert (lost.host, lost.how) == ("node2", "connection")
        again = sum(event.attempts == 2 for event in running.of(RequestCompleted))
        assert again == running.of(EpochActive)[1].replayed, "what was in flight was sent again, and nothing else"
        assert max(event.attempts for event in running.of(RequestCompleted)) <= 2
        (fenced,) = running.of(EpochFenced)
        assert (fenced.epoch, fenced.reason) == (1, "node2 was lost")
        last = running.of(PlanAdopted)[-1]
        assert lost.t_s <= fenced.t_s <= last.t_s
        assert "node2" not in {stage.host for stage in last.stages}


@pytest.mark.alone
def test_the_stage_that_survives_stays_where_it_is(tmp_path: Path) -> None:
    with system(tmp_path) as running:
        running.start_nodes()
        running.start_dispatcher(halves(running))
        running.start_client(duration_s=2.0)
        running.wait_for(RequestCompleted, 3)
        running.servers["node2"].kill()
        running.wait_for(EpochActive, 2)
        running.finish()
        first, second = running.of(PlanAdopted)
        if [(s.first_op, s.last_op) for s in first.stages] == [(s.first_op, s.last_op) for s in second.stages]:
            assert second.stages[0].host == "node1"
            sent = {event.host: event.bytes_sent for event in running.of(StageDeployed) if event.epoch == 2}
            assert sent["node1"] < 50_000


def test_losing_every_node_makes_the_service_unavailable_and_rejects_by_deadline(tmp_path: Path) -> None:
    with system(tmp_path, workers=1) as running:
        running.start_nodes()
        running.start_dispatcher((Assignment("node1", 0, running.problem.chain.segments),))
        running.start_client(duration_s=1.5, deadline_s=0.5)
        running.wait_for(RequestCompleted, 3)
        running.servers["node1"].kill()
        running.wait_state("unavailable")
        assert running.finish().unanswered == 0
        outcomes = Counter(event.outcome for event in running.of(RequestCompleted))
        assert set(outcomes) == {"ok", "rejected"}
        assert sum(outcomes.values()) == len(running.of(RequestSubmitted))


def test_an_open_loop_over_capacity_is_rejected_not_queued_without_end(tmp_path: Path) -> None:
    with system(tmp_path, workers=1) as running:
        running.start_nodes()
        running.start_dispatcher((Assignment("node1", 0, running.problem.chain.segments),), window=1, queue=2)
        running.start_client(duration_s=1.0, in_flight=None, rate_rps=2000.0, arrivals="uniform")
        running.finish()
        outcomes = Counter(event.outcome for event in running.of(RequestCompleted))
        assert outcomes["rejected"] > 0
        assert outcomes["ok"] > 0
        assert sum(outcomes.values()) == len(running.of(RequestSubmitted))

"""Several stages on a host, on loopback: right answers under load, losses, and what is kept from plan to plan."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.planning.evaluate import evaluate
from testbed.planning.plan import Assignment
from testbed.serving.auth import Greeting
from testbed.serving.connection import connect
from testbed.serving.deployment import Deployment
from testbed.serving.events import (
    EpochActive,
    PlanAdopted,
    RequestCompleted,
    RequestSubmitted,
    StageDeployed,
    StageExecuted,
)
from testbed.serving.package import Package, write_package
from testbed.serving.wire import Frame, FrameKind, Limits, receive_frame, send_frame
from tests.serving.system import DISPATCHER, System, system
from tests.serving.test_system import assert_each_answered_once

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def revisiting(folder: Path, workers: int) -> Iterator[System]:
    """A system whose hosts may hold two stages each."""
    with system(folder, workers) as running:
        running.problem = dataclasses.replace(running.problem, stages_per_host=2)
        running.start_nodes()
        yield running


def route(running: System, *hosts: str) -> tuple[Assignment, ...]:
    """Stages on these hosts in order, as even in segments as can be."""
    segments = running.problem.chain.segments
    bounds = [segments * index // len(hosts) for index in range(len(hosts) + 1)]
    return tuple(Assignment(*each) for each in zip(hosts, bounds, bounds[1:], strict=False))


def test_every_request_passes_hosts_twice_with_many_in_flight(tmp_path: Path) -> None:
    with revisiting(tmp_path, 2) as running:
        hosts = ("node1", "node2", "node1", "node2")
        running.start_dispatcher(route(running, *hosts), window=64, queue=64)
        running.start_client(duration_s=3.0, in_flight=64)
        assert running.finish().unanswered == 0
        assert_each_answered_once(running.history)
        assert {event.path for event in running.of(RequestCompleted)} == {hosts}
        asked = len(running.of(RequestSubmitted))
        running.wait_for(StageExecuted, 4 * asked)
        ran_on = Counter((event.stage, event.host) for event in running.of(StageExecuted))
        assert ran_on == dict.fromkeys(enumerate(hosts), asked)
        # One processor: a host never computes two stages at a time.
        for host in set(hosts):
            ran = sorted(
                (event.started_s, event.finished_s) for event in running.of(StageExecuted) if event.host == host
            )
            assert all(before[1] <= after[0] for before, after in itertools.pairwise(ran))


def test_the_stages_of_a_host_share_its_one_processor(tmp_path: Path) -> None:
    """A calibrated host is as fast as the sum of its stages allows, not as the longest of them."""
    with system(tmp_path, workers=2) as running:
        operations = running.problem.chain.boundary_ops[-1]
        op_seconds = (0.2 / operations,) * operations
        bounds = running.problem.chain.boundary_ops
        compute_s = tuple(sum(op_seconds[first:last]) for first, last in itertools.pairwise(bounds))
        chain = dataclasses.replace(running.problem.chain, compute_s=compute_s)
        workers = tuple(dataclasses.replace(worker, speed=1.0) for worker in running.problem.workers)
        running.problem = dataclasses.replace(running.problem, chain=chain, workers=workers, stages_per_host=2)
        outputs = tmp_path / "outputs"
        outputs.mkdir()
        running.start_nodes(
            pace={"op_seconds": op_seconds, "speed": 1.0}, outputs={"folder": str(outputs), "verify_every": 20}
        )
        decision = route(running, "node1", "node2", "node1")
        predicted = evaluate(running.problem, decision, "mine", None, 0.0)
        longest_s = max(stage.compute_s for stage in predicted.stages)
        assert predicted.bottleneck == "compute on node1"
        assert predicted.bottleneck_s > 1.3 * longest_s
        running.start_dispatcher(decision, window=8)
        running.start_client(duration_s=8.0, in_flight=8)
        assert running.finish().unanswered == 0
        assert_each_answered_once(running.history)
        times_s = sorted(event.t_s for event in running.of(RequestCompleted))[10:]
        measured_s = (times_s[-1] - times_s[0]) / (len(times_s) - 1)
        assert measured_s == pytest.approx(predicted.bottleneck_s, rel=0.05)


@pytest.mark.parametrize("victim", ["node1", "node2"])
def test_a_host_with_two_stages_or_one_between_them_is_lost_and_replaced(tmp_path: Path, victim: str) -> None:
    with revisiting(tmp_path, 3) as running:
        running.start_dispatcher(route(running, "node1", "node2", "node1"), window=16)
        running.start_client(duration_s=4.0, in_flight=16)
        running.wait_for(RequestCompleted, 20)
        running.servers[victim].kill()
        running.wait_for(EpochActive, 2)
        assert running.finish().unanswered == 0
        assert_each_answered_once(running.history)
        again = running.of(PlanAdopted)[1]
        assert victim not in {stage.host for stage in again.stages}
        assert {event.epoch for event in running.of(RequestCompleted)} == {1, 2}


def test_a_dispatcher_that_is_started_again_goes_on_with_the_same_plan(tmp_path: Path) -> None:
    with revisiting(tmp_path, 2) as running:
        running.start_dispatcher(route(running, "node1", "node2", "node1"))
        running.start_client(duration_s=4.0)
        running.wait_for(RequestCompleted, 10)
        running.servers[DISPATCHER].kill()
        running.servers[DISPATCHER].wait(10)
        running.start_dispatcher_again()
        running.wait_for(EpochActive, 2)
        assert running.finish().unanswered == 0
        first, second = running.of(PlanAdopted)
        assert [stage.host for stage in second.stages] == [stage.host for stage in first.stages]
        # The nodes hold these very stages: only programs travel.
        sent = {event.stage: event.bytes_sent for event in running.of(StageDeployed) if event.epoch == second.epoch}
        assert sent.keys() == {0, 1, 2}
        assert all(sent[stage.stage] < stage.weights_bytes for stage in second.stages if stage.weights_bytes > 20_000)


def test_a_node_keeps_the_stage_that_it_still_has_and_asks_for_the_other_one_alone(tmp_path: Path) -> None:
    with revisiting(tmp_path, 2) as running:
        write_package(running.graph, tmp_path / "model")
        package, problem = Package(tmp_path / "model"), running.problem
        segments = problem.chain.segments
        before = route(running, "node1", "node2", "node1")
        after = (
            Assignment("node1", 0, before[0].last),
            Assignment("node2", before[0].last, segments - 1),
            Assignment("node1", segments - 1, segments),
        )
        connection, _ = connect(running.addresses["node1"], running.token, Greeting("control", DISPATCHER))
        with connection:
            connection.settimeout(30)
            wanted = []
            for epoch, decision in ((1, before), (2, after)):
                # An empty storage, so that what is asked for tells what is held in memory.
                for chunk in (tmp_path / "storage" / "node1").iterdir():
                    chunk.unlink()
                deployment = Deployment(epoch, evaluate(problem, decision, "mine", None, 0.0), package)
                # Who receives the answers is another node: it takes any connection of a current epoch.
                addresses = {**running.addresses, DISPATCHER: running.addresses["node2"]}
                send_frame(connection, deployment.prepare("node1", addresses, DISPATCHER))
                want = _awaited(connection, FrameKind.WANT)
                wanted.append(set(want.meta["chunks"]))
                for frame in deployment.chunks("node1", want.meta["chunks"]):
                    send_frame(connection, frame)
                assert _awaited(connection, FrameKind.READY).epoch == epoch
        stages = [evaluate(problem, decision, "mine", None, 0.0).stages for decision in (before, after)]
        chunks = [
            [set(package.parcel(stage.first_op, stage.last_op).chunk_ids) for stage in (plan[0], plan[2])]
            for plan in stages
        ]
        assert wanted[0] == chunks[0][0] | chunks[0][1]
        assert wanted[1] == chunks[1][1]
        assert chunks[1][0]


def _awaited(connection: object, kind: FrameKind) -> Frame:
    while (frame := receive_frame(connection, Limits())) is not None:  # type: ignore[arg-type]
        assert frame.kind is not FrameKind.FAILED, frame.meta
        if frame.kind is kind:
            return frame
    raise AssertionError(f"the node hung up before {kind.name}")

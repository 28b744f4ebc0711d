"""Hosts come and go on loopback: whatever the policy, each request has one outcome and the service mends itself."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.emulation.nursery import Nursery
from testbed.planning.plan import Assignment
from testbed.serving.events import (
    ChangeWeighed,
    EpochActive,
    HostFound,
    HostLeaving,
    HostLost,
    PlanAdopted,
    RequestCompleted,
    ServerListening,
    ServiceState,
    StageDeployed,
    WeightsSupplied,
)
from testbed.serving.patience import PATIENCE
from tests.serving.system import System, shared_nursery, system
from tests.serving.test_system import assert_each_answered_once, halves

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with shared_nursery(tmp_path_factory.mktemp("nursery")) as started:
        yield started


def restart(running: System, host: str) -> None:
    """The host's server anew, with what is on its disk."""
    running.servers[host].kill()
    running.servers[host].wait(5)
    started = len(running.of(ServerListening))
    running.start_node(host)
    running.watch.wait(lambda e: isinstance(e, ServerListening), started + 1, 20, f"the start of {host}")


def hosts_of(plan: PlanAdopted) -> list[str]:
    return [stage.host for stage in plan.stages]


def sent_bytes(running: System, epoch: int) -> dict[str, int]:
    return {event.host: event.bytes_sent for event in running.of(StageDeployed) if event.epoch == epoch}


def test_an_unavailable_service_ends_by_itself_when_its_host_returns(tmp_path: Path, nursery: Nursery) -> None:
    with system(tmp_path, workers=1, nursery=nursery) as running:
        running.start_nodes()
        running.start_dispatcher((Assignment("node1", 0, running.problem.chain.segments),))
        running.start_client(duration_s=1.5)
        running.wait_for(RequestCompleted, 3)
        running.servers["node1"].kill()
        running.wait_state("unavailable")
        restart(running, "node1")
        running.wait_for(EpochActive, 2)
        assert running.finish().unanswered == 0
        assert_each_answered_once(running.history)
        assert len(running.of(HostFound)) == 2
        # What the node held on its disk it told, and was not sent again.
        last = running.of(EpochActive)[-1].epoch
        assert sent_bytes(running, last)["node1"] < sent_bytes(running, 1)["node1"] / 10


def test_a_lost_disk_is_not_assumed_to_hold_anything(tmp_path: Path, nursery: Nursery) -> None:
    with system(tmp_path, workers=1, nursery=nursery) as running:
        running.start_nodes()
        running.start_dispatcher((Assignment("node1", 0, running.problem.chain.segments),))
        running.start_client(duration_s=1.0)
        running.wait_for(RequestCompleted, 3)
        running.servers["node1"].kill()
        running.wait_state("unavailable")
        for chunk in (tmp_path / "storage" / "node1").iterdir():
            chunk.unlink()
        restart(running, "node1")
        running.wait_for(EpochActive, 2)
        running.finish()
        assert_each_answered_once(running.history)
        last = running.of(EpochActive)[-1].epoch
        assert sent_bytes(running, last)["node1"] > sent_bytes(running, 1)["node1"] / 2


def test_restart_waits_for_the_host_and_deploys_the_same_plan(tmp_path: Path, nursery: Nursery) -> None:
    with system(tmp_path, nursery=nursery) as running:
        running.start_nodes()
        running.start_dispatcher(halves(running), policy={"name": "restart", "wait_s": 60.0})
        running.start_client(duration_s=1.5)
        running.wait_for(RequestCompleted, 3)
        running.servers["node2"].kill()
        running.wait_for(HostLost)
        restart(running, "node2")
        running.wait_for(EpochActive, 2)
        running.finish()
        assert_each_answered_once(running.history)
        first, second = running.of(PlanAdopted)[:2]
        assert [(s.host, s.first_op, s.last_op) for s in first.stages] == [
            (s.host, s.first_op, s.last_op) for s in second.stages
        ]


def test_the_first_plan_does_not_wait_for_a_host_that_is_not_there_yet(tmp_path: Path, nursery: Nursery) -> None:
    with system(tmp_path, nursery=nursery) as running:
        running.start_nodes()
        running.servers["node3"].kill()
        running.servers["node3"].wait(5)
        # Somebody takes its connections and never says a word, so each attempt to reach it takes seconds.
        with socket.create_server(running.addresses["node3"]):
            running.start_dispatcher(halves(running))
        began, served = running.of(ServiceState)[:2]
        assert (began.state, served.state) == ("deploying", "serving")
        assert served.t_s - began.t_s < PATIENCE.greeting_s - 1
        assert {found.host for found in running.of(HostFound)} == {"node1", "node2"}


def threads_and_descriptors(pid: int) -> tuple[int, int]:
    return tuple(len(list(Path(f"/proc/{pid}/{kind}").iterdir())) for kind in ("task", "fd"))  # type: ignore[return-value]


def test_a_fenced_epoch_leaves_a_node_no_thread_and_no_descriptor(tmp_path: Path, nursery: Nursery) -> None:
    with system(tmp_path, nursery=nursery) as running:
        running.start_nodes()
        running.start_dispatcher(halves(running), policy={"name": "restart", "wait_s": 60.0})
        idle = threads_and_descriptors(running.servers["node3"].pid)
        survivor = running.servers["node1"].pid
        assert threads_and_descriptors(survivor) > idle
        # Hung, not dead: nothing that is sent to it fails, and its kernel closes no connection.
        os.kill(running.servers["node2"].pid, signal.SIGSTOP)
        running.wait_for(HostLost)
        deadline_s = time.monotonic() + 10
        while threads_and_descriptors(survivor) != idle:
            assert time.monotonic() < deadline_s, (threads_and_descriptors(survivor), idle)
            time.sleep(0.01)


def test_restart_plans_anew_when_the_host_stays_away(tmp_path: Path, nursery: Nursery) -> None:
    with system(tmp_path, nursery=nursery) as running:
        running.start_nodes()
        running.start_dispatcher(halves(running), policy={"name": "restart", "wait_s": 0.3})
        running.start_client(duration_s=1.5)
        running.wait_for(RequestCompleted, 3)
        running.servers["node2"].kill()
        running.wait_for(EpochActive, 2)
        running.finish()
        assert_each_answered_once(running.history)
        (lost,) = running.of(HostLost)
        plan = running.of(PlanAdopted)[1]
        assert "node2" not in hosts_of(plan)
        assert plan.t_s - lost.t_s >= 0.3


def test_restart_may_stay_unavailable_until_the_host_is_back(tmp_path: Path, nursery: Nursery) -> None:
    with system(tmp_path, nursery=nursery) as running:
        running.start_nodes()
        policy = {"name": "restart", "wait_s": 0.1, "otherwise": "unavailable"}
        running.start_dispatcher(halves(running), policy=policy)
        running.start_client(duration_s=1.0)
        running.wait_for(RequestCompleted, 3)
        running.servers["node2"].kill()
        running.wait_state("unavailable")
        restart(running, "node2")
        running.wait_for(EpochActive, 2)
        running.finish()
        assert_each_answered_once(running.history)
        assert hosts_of(running.of(PlanAdopted)[-1]) == ["node1", "node2"]


def test_a_standby_takes_over_without_weights_on_the_network(tmp_path: Path, nursery: Nursery) -> None:
    with system(tmp_path, nursery=nursery) as running:
        running.start_nodes()
        running.start_dispatcher(halves(running), policy={"name": "standby"})
        (copies,) = running.wait_for(WeightsSupplied)
        assert isinstance(copies, WeightsSupplied)
        assert (copies.host, copies.purpose, copies.failure) == ("node3", "standby", "")
        running.start_client(duration_s=1.5)
        running.wait_for(RequestCompleted, 3)
        running.servers["node2"].kill()
        running.wait_for(EpochActive, 2)
        running.finish()
        assert_each_answered_once(running.history)
        assert hosts_of(running.of(PlanAdopted)[1]) == ["node1", "node3"]
        assert max(sent_bytes(running, 2).values()) < copies.bytes_sent / 10


def test_a_host_that_comes_back_is_used_again_where_that_pays(tmp_path: Path, nursery: Nursery) -> None:
    with system(tmp_path, workers=2, nursery=nursery) as running:
        running.start_nodes()
        running.start_dispatcher(halves(running), policy={"gain": 0.0, "settle_s": 0.1, "horizon_s": 600.0})
        running.start_client(duration_s=1.5)
        running.wait_for(RequestCompleted, 3)
        running.servers["node2"].kill()
        running.wait_for(EpochActive, 2)
        restart(running, "node2")
        weighed = running.wait_for(ChangeWeighed)[0]
        assert isinstance(weighed, ChangeWeighed)
        if weighed.changes:
            running.wait_for(EpochActive, 3)
            assert "node2" in hosts_of(running.of(PlanAdopted)[2])
        running.finish()
        assert_each_answered_once(running.history)
        assert weighed.new_throughput_rps >= weighed.throughput_rps or not weighed.changes


def test_a_host_that_leaves_serves_until_its_stage_was_moved(tmp_path: Path, nursery: Nursery) -> None:
    with system(tmp_path, nursery=nursery) as running:
        running.start_nodes()
        running.start_dispatcher(halves(running))
        running.start_client(duration_s=1.5)
        running.wait_for(RequestCompleted, 3)
        running.servers["node2"].terminate()
        running.wait_for(EpochActive, 2)
        assert running.servers["node2"].wait(20) == 0
        running.finish()
        assert_each_answered_once(running.history)
        (leaving,), (lost,) = running.of(HostLeaving), running.of(HostLost)
        assert (leaving.host, lost.host, lost.how) == ("node2", "node2", "left")
        second = running.of(EpochActive)[1]
        assert lost.t_s > second.t_s, "it left before its stage was moved"
        assert "node2" not in hosts_of(running.of(PlanAdopted)[1])
        # What the plan lacked travelled ahead, while the old one served.
        assert max(sent_bytes(running, 2).values()) < 200_000


def test_two_hosts_at_once_and_a_third_during_recovery(tmp_path: Path, nursery: Nursery) -> None:
    with system(tmp_path, workers=4, nursery=nursery) as running:
        running.start_nodes()
        running.start_dispatcher(halves(running))
        running.start_client(duration_s=1.5)
        running.wait_for(RequestCompleted, 3)
        running.servers["node1"].kill()
        running.servers["node2"].kill()
        running.watch.wait(lambda e: isinstance(e, ServiceState) and e.state == "recovering", 1, 20, "recovery")
        running.servers["node3"].kill()
        (plan,) = running.watch.wait(
            lambda e: isinstance(e, PlanAdopted) and hosts_of(e) == ["node4"], 1, 30, "a plan for node4"
        )
        assert isinstance(plan, PlanAdopted)
        epoch = plan.epoch
        running.watch.wait(lambda e: isinstance(e, EpochActive) and e.epoch == epoch, 1, 30, "the epoch on node4")
        running.finish()
        assert_each_answered_once(running.history)


def test_a_paused_host_is_fenced_off_and_joins_again(tmp_path: Path, nursery: Nursery) -> None:
    with system(tmp_path, nursery=nursery) as running:
        running.start_nodes()
        running.start_dispatcher(halves(running), misses=10)
        running.start_client(duration_s=1.5)
        running.wait_for(RequestCompleted, 3)
        found = len(running.of(HostFound))
        os.kill(running.servers["node2"].pid, signal.SIGSTOP)
        running.wait_for(EpochActive, 2)
        (lost,) = running.of(HostLost)
        assert (lost.host, lost.how) == ("node2", "heartbeat")
        os.kill(running.servers["node2"].pid, signal.SIGCONT)
        running.wait_for(HostFound, found + 1)
        running.finish()
        assert_each_answered_once(running.history)

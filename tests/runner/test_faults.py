"""Faults of hosts find their hosts, and every legal kind has what does it."""

from __future__ import annotations

import dataclasses

import pytest

from runner.faults import Kill
from runner.faults.base import InForce
from runner.faults.compilation import MAKERS
from runner.faults.hosts import host_of, together
from runner.history import History
from runner.observer import LatestPlan
from testbed.errors import ExperimentError
from testbed.serving.events import PlanAdopted, PlannedStage
from testbed.spec.faults import ACCEPTED, KillFault
from testbed.spec.faults.targets import Bottleneck, HostTarget, OfStage
from tests.runner.test_timeline import NoLab


def plan(*hosts: str, slowest: int | None = 0, epoch: int = 1) -> PlanAdopted:
    stages = tuple(
        PlannedStage(
            stage=number,
            host=host,
            first_op=number,
            last_op=number,
            weights_bytes=0,
            memory_bytes=0,
            compute_s=0.1,
            transfer_bits=0.0,
            link_s=0.0,
            is_bottleneck=number == slowest,
        )
        for number, host in enumerate(hosts)
    )
    return PlanAdopted(
        t_s=0.0,
        epoch=epoch,
        strategy="exact",
        reason="start",
        stages=stages,
        return_bits=0.0,
        return_s=0.0,
        throughput_rps=1.0,
        latency_s=1.0,
        bottleneck="",
        gap=None,
        planning_s=0.0,
    )


def kill(target: HostTarget | str) -> Kill:
    return Kill(KillFault(at_s=1.0, kill=target))  # type: ignore[arg-type]


def test_every_legal_kind_is_made() -> None:
    assert set(MAKERS) == set(ACCEPTED)


def test_a_stage_and_the_bottleneck_are_hosts_of_the_plan_in_force() -> None:
    assert host_of(OfStage(1), plan("a", "b")) == "b"
    assert host_of(Bottleneck(), plan("a", "b", "c", slowest=1)) == "b"
    assert host_of(Bottleneck(), plan("a", "b", slowest=None)) == "b"
    with pytest.raises(ExperimentError, match="has 2 stages, so there is no stage 2"):
        host_of(OfStage(2), plan("a", "b"))
    with pytest.raises(ExperimentError, match="no plan is in force, so there is no bottleneck"):
        host_of(Bottleneck(), None)


def test_a_fault_is_aimed_when_it_strikes_and_stays_what_it_was() -> None:
    fault, lab = kill(OfStage(1)), NoLab()
    assert (fault.hosts, fault.target) == ((), "stage 1")
    aimed = fault.aimed(plan("a", "b"))
    assert (aimed.hosts, aimed.target) == (("b",), "b")
    assert (fault.hosts, fault.target) == ((), "stage 1")
    aimed.inject(lab)
    assert lab.done == ["kill b"]
    named = kill("c")
    assert named.aimed(None) is named


def test_several_hosts_are_one_fault() -> None:
    lab = NoLab()
    found = kill(["a", "b"]).inject(lab)  # type: ignore[arg-type]
    assert lab.done == ["kill a", "kill b"]
    assert found.detail == "a: gone; b: gone"
    assert found.confirm is None


def test_a_fault_of_several_hosts_is_in_force_with_the_last_and_confirmed_with_all() -> None:
    found = together([("a", InForce(3.0, "x", lambda: "ended")), ("b", InForce(5.0, "y"))])
    assert found.t_s == 5.0
    assert found.confirm is not None
    assert found.confirm() == "a: ended; b: y"


def test_the_latest_plan_is_that_of_the_highest_epoch() -> None:
    history = History()
    history.append(plan("a", epoch=1))
    latest = LatestPlan(history)
    assert latest() == plan("a", epoch=1)
    history.append(plan("b", epoch=3))
    history.append(dataclasses.replace(plan("c", epoch=2), t_s=9.0))
    assert latest() == plan("b", epoch=3)

"""Faults of hosts find their hosts, and every legal kind has what does it."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from runner.experiment import Options, needed
from runner.faults.base import InForce, Way
from runner.faults.compilation import MAKERS, faults_of, impairs
from runner.faults.hosts import Kill, host_of, together
from runner.faults.links import Flap, Isolate, LinkChange, LinkTrace, Partition, separated
from runner.history import History
from runner.observer import LatestPlan
from testbed.emulation.overlay import Modification, overlaid
from testbed.emulation.shaping import Shape
from testbed.errors import ExperimentError
from testbed.serving.events import PlanAdopted, PlannedStage
from testbed.spec import ClosedWorkload, ComputeSpec, Experiment, HostSpec, LinkSpec, ModelSpec
from testbed.spec.faults import (
    ACCEPTED,
    CpuFault,
    FaultBase,
    FlapFault,
    IsolateFault,
    JoinFault,
    KillFault,
    LeaveFault,
    LinkFault,
    LinkTraceFault,
    LossFault,
    MemoryFault,
    PartitionFault,
    PauseFault,
    PoweroffFault,
    RebootFault,
    RestartFault,
    ThrottleFault,
)
from testbed.spec.faults.targets import Bottleneck, HostTarget, Named, OfStage
from testbed.spec.traces import TraceSpec
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


A = Named(("a",))


@pytest.mark.parametrize(
    ("spec", "struck", "mended"),
    [
        (KillFault(at_s=1.0, kill=A), "kill a", None),
        (RestartFault(at_s=1.0, restart=A), "kill a", "start a"),
        (PoweroffFault(at_s=1.0, poweroff=A), "off a", None),
        (RebootFault(at_s=1.0, reboot=A, for_s=2.0), "off a", "on a"),
        (JoinFault(at_s=1.0, join=A), "on a", None),
        (PauseFault(at_s=1.0, pause=A), "pause a", "resume a"),
        (LeaveFault(at_s=1.0, leave=A), "ask a", None),
        (CpuFault(at_s=1.0, cpu=A, cpu_share=0.05), "cpu a 0.05", "cpu a None"),
        (MemoryFault(at_s=1.0, memory=A, limit_bytes=1 << 20), "memory a 1048576", "memory a None"),
    ],
    ids=lambda value: value.kind if isinstance(value, FaultBase) else None,
)
def test_each_fault_of_a_host_strikes_and_mends(spec: FaultBase, struck: str, mended: str | None) -> None:
    fault, lab = MAKERS[type(spec)](spec, EXPERIMENT), NoLab()
    fault.inject(lab)
    assert lab.done == [struck]
    assert (fault.heal(lab) is None) == (mended is None)
    assert lab.done[1:] == ([] if mended is None else [mended])


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


@dataclass
class LinkLab(NoLab):
    """Knows what faults lay over which directions."""

    modified: dict[Hashable, Modification] = field(default_factory=dict)
    cut: dict[Hashable, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    ways: list[tuple[Way, ...]] = field(default_factory=list)

    def modify_links(self, ways: Sequence[Way], fault: Hashable, modification: Modification | None) -> Sequence[Shape]:
        self.ways.append(tuple(ways))
        self.modified.pop(fault, None)
        if modification is not None:
            self.modified[fault] = modification
        return [overlaid(Shape(rate_bps=20_000_000), self.modified.values()) for _ in ways]

    def cut_hosts(self, fault: Hashable, pairs: Sequence[tuple[str, str]]) -> None:
        self.cut.pop(fault, None)
        if pairs:
            self.cut[fault] = tuple(pairs)


LINK = LinkSpec(between=("a", "s1"), rate_bps=20_000_000)
HOSTS = ("a", "b")


def change(spec: LinkFault) -> LinkChange:
    return LinkChange(spec, LINK, HOSTS)


def test_a_fault_of_a_link_is_taken_away_alone() -> None:
    lab = LinkLab()
    slow = change(ThrottleFault(at_s=0.0, throttle=("s1", "a"), rate_bps=2_000_000))
    lossy = change(LossFault(at_s=0.0, loss=("a", "s1"), loss_share=0.05, from_="s1"))
    assert (slow.target, slow.detail, slow.links, slow.ends) == ("a-s1", "to 2Mbit/s", ("a-s1",), ("a",))
    assert (lossy.target, lossy.detail) == ("s1→a", "of 5%")
    assert slow.inject(lab).detail == "2Mbit/s"
    assert lossy.inject(lab).detail == "2Mbit/s, loss 5%"
    assert slow.heal(lab) == "20Mbit/s, loss 5%"
    assert lossy.heal(lab) == "20Mbit/s"
    both, one = (("a-s1", "a"), ("a-s1", "s1")), (("a-s1", "s1"),)
    assert lab.ways == [both, one, both, one]


def test_a_flapping_link_is_down_first_and_up_for_its_duty() -> None:
    flap = Flap(FlapFault(at_s=1.0, flap=("a", "s1"), period_s=1.0, duty=0.75, for_s=2.1), LINK, HOSTS, 30.0)
    assert flap.turns == (0.25, 1.0, 1.25, 2.0)
    lab = LinkLab()
    assert flap.inject(lab).detail == "down"
    assert [flap.turn(lab, number) for number in range(4)] == ["20Mbit/s", "down", "20Mbit/s", "down"]
    assert flap.heal(lab) == "20Mbit/s"
    to_the_end = Flap(FlapFault(at_s=1.0, flap=("a", "s1"), period_s=1.0), LINK, HOSTS, 3.0)
    assert to_the_end.turns == (0.5, 1.0, 1.5)


def test_a_recording_s_rates_come_in_turn(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("time_s,rate\n0,1Mbit/s\n1,3Mbit/s\n2,30Mbit/s\n")
    recording = TraceSpec(file=tmp_path / "r.csv", format="csv", loop=False)
    spec = LinkTraceFault(at_s=1.0, trace=("a", "s1"), recording=recording, for_s=10.0)
    trace, lab = LinkTrace(spec, LINK, HOSTS, 30.0), LinkLab()
    assert trace.turns == (1.0, 2.0, 3.0)
    assert trace.inject(lab).detail == "1Mbit/s"
    # As far as the declared rate allows; after the end of a recording that doesn't loop, the declared one.
    assert [trace.turn(lab, number) for number in range(3)] == ["3Mbit/s", "20Mbit/s", "20Mbit/s"]


def test_a_partition_cuts_the_pairs_of_different_groups() -> None:
    assert separated((("a", "b"), ("c",), ("d",))) == (
        ("a", "c"),
        ("b", "c"),
        ("a", "d"),
        ("b", "d"),
        ("c", "d"),
    )
    lab = LinkLab()
    cut = Partition(PartitionFault(at_s=1.0, partition=(("a", "b"), ("c",))))
    cut.inject(lab)
    assert list(lab.cut.values()) == [(("a", "c"), ("b", "c"))]
    cut.heal(lab)
    assert not lab.cut


def test_an_isolated_host_loses_all_its_links_both_ways() -> None:
    links = (LINK, LinkSpec(between=("b", "s1")), LinkSpec(between=("b", "a")))
    fault = Isolate(IsolateFault(at_s=1.0, isolate=Bottleneck()), links)
    assert fault.links == ()
    aimed, lab = fault.aimed(plan("b", "a")), LinkLab()
    assert (aimed.hosts, aimed.links) == (("b",), ("b-s1", "b-a"))
    aimed.inject(lab)
    assert lab.ways == [(("b-s1", "b"), ("b-s1", "s1"), ("b-a", "b"), ("b-a", "a"))]
    assert set(lab.modified.values()) == {Modification(down=True)}
    healed = aimed.heal(lab)
    assert healed is not None
    assert healed.detail == "20Mbit/s"
    assert not lab.modified


EXPERIMENT = Experiment(
    name="demo",
    hosts={"dispatcher": HostSpec(cpu=0.1), "a": HostSpec(cpu=0.1), "b": HostSpec(cpu=0.1)},
    switches=("s1",),
    links=tuple(LinkSpec(between=(host, "s1"), rate_bps=20_000_000) for host in ("dispatcher", "a", "b")),
    model=ModelSpec.model_validate({"name": "mobilenet_v2", "input": (1, 3, 224, 224)}),
    compute=ComputeSpec(time_scale=4.0),
    workload=ClosedWorkload(kind="closed", in_flight=1, duration_s=30.0),
    faults=(
        KillFault(at_s=1.0, kill=OfStage(1)),
        ThrottleFault(at_s=2.0, throttle=("a", "s1"), rate_bps=2_000_000, for_s=0.5, every_s=10.0),
    ),
)


def test_the_timeline_is_emulated_slowly_and_told_as_declared() -> None:
    faults = faults_of(EXPERIMENT)
    assert [(fault.verb, fault.at_s, fault.for_s) for fault in faults] == [
        ("kill", 4.0, None),
        ("throttle", 8.0, 2.0),
        ("throttle", 48.0, 2.0),
        ("throttle", 88.0, 2.0),
    ]
    assert faults[1].detail == "to 500kbit/s"
    assert faults[0].entry == "{at: 1s, kill: {stage: 1}}"
    assert faults[0].aimed(plan("a", "b")).entry == "{at: 1s, kill: b}"
    assert faults[2].entry == "{at: 12s, throttle: [a, s1], rate: 2000000bit/s, for: 0.5s}"


def test_delay_and_loss_are_foreseen_so_that_the_machine_is_asked_for_them() -> None:
    assert not impairs(EXPERIMENT)
    lossy = LossFault(at_s=1.0, loss=("a", "s1"), loss_share=0.1)
    assert impairs(EXPERIMENT.model_copy(update={"faults": (lossy,)}))
    options = Options(Path("results"))
    assert "delay" not in needed(EXPERIMENT, options)
    assert "delay" in needed(EXPERIMENT.model_copy(update={"faults": (lossy,)}), options)
    cut = PartitionFault(at_s=1.0, partition=(("a",), ("b",)))
    assert "packet_rules" in needed(EXPERIMENT.model_copy(update={"faults": (cut,)}), options)

"""Faults of disks: which hosts need disks of their own, and how several faults of one disk add up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runner.experiment import Options, needed
from runner.faults.base import InForce
from runner.faults.compilation import fault_of
from runner.faults.storage import CorruptDisk, SpoiledDisk
from runner.lab_disks import LabDisks, disk_sizes
from testbed.emulation.cgroups import Cgroup
from testbed.emulation.disks import Condition
from testbed.spec import ClosedWorkload, Experiment, HostSpec, LinkSpec, ModelSpec
from testbed.spec.faults import (
    DiskCorruptFault,
    DiskFullFault,
    DiskGoneFault,
    DiskReadonlyFault,
    DiskSlowFault,
    FaultBase,
    KillFault,
)
from testbed.spec.faults.targets import Named
from tests.runner.test_timeline import NoLab

NODE1 = Named(("node1",))
SLOW = DiskSlowFault(at_s=3.0, disk_slow=NODE1, rate_bps=8_000_000)
MIB = 2**20


def experiment(*faults: FaultBase) -> Experiment:
    return Experiment(
        name="disks",
        seed=5,
        hosts={
            "dispatcher": HostSpec(cpu=1.0),
            "node1": HostSpec(cpu=1.0),
            "node2": HostSpec(cpu=1.0, storage_bytes=64 * MIB),
        },
        links=(LinkSpec(between=("dispatcher", "node1")), LinkSpec(between=("dispatcher", "node2"))),
        model=ModelSpec(name="mobilenet_v2", input=(1, 3, 32, 32)),
        workload=ClosedWorkload(kind="closed", in_flight=1, duration_s=10.0),
        faults=faults,
    )


def test_hosts_have_disks_where_storage_is_declared_or_disks_break() -> None:
    calm, broken = experiment(KillFault(at_s=1.0, kill=NODE1)), experiment(DiskFullFault(at_s=1.0, disk_full=NODE1))
    assert disk_sizes(calm, possible=True) == {"node2": 64 * MIB}
    assert disk_sizes(calm, possible=False) == {}
    assert disk_sizes(broken, possible=True) == {"node1": None, "node2": 64 * MIB}
    journal = experiment(DiskGoneFault(at_s=1.0, disk_gone=Named(("dispatcher",))))
    assert disk_sizes(journal, possible=True) == {"dispatcher": None, "node1": None, "node2": 64 * MIB}


@pytest.mark.parametrize(
    ("faults", "asked"),
    [
        ((), set()),
        ((KillFault(at_s=1.0, kill=NODE1),), set()),
        ((DiskCorruptFault(at_s=1.0, disk_corrupt=NODE1),), {"disks"}),
        ((SLOW,), {"disks", "disk rates"}),
    ],
)
def test_only_who_breaks_disks_asks_the_machine_for_them(
    faults: tuple[FaultBase, ...], asked: set[str], tmp_path: Path
) -> None:
    names = needed(experiment(*faults), Options(tmp_path))
    assert {"disks", "disk rates"} & set(names) == asked


@pytest.mark.parametrize(
    ("spec", "condition"),
    [
        (DiskFullFault(at_s=3.0, disk_full=NODE1), Condition(full=True)),
        (DiskReadonlyFault(at_s=3.0, disk_readonly=NODE1), Condition(readonly=True)),
        (DiskGoneFault(at_s=3.0, disk_gone=NODE1), Condition(gone=True)),
        (SLOW, Condition(rate_bytes_s=1_000_000)),
    ],
)
def test_each_kind_spoils_a_disk_and_takes_that_back(spec: FaultBase, condition: Condition) -> None:
    fault, lab = fault_of(spec, experiment()), NoLab()
    assert isinstance(fault, SpoiledDisk)
    fault.inject(lab)
    healed = fault.heal(lab)
    assert isinstance(healed, InForce)
    assert healed.detail == "works"
    assert lab.done == [f"disk of node1: {condition}", "disk of node1: None"]


def test_damage_is_the_seed_s_and_stays() -> None:
    fault, lab = fault_of(DiskCorruptFault(at_s=3.0, disk_corrupt=NODE1), experiment()), NoLab()
    assert isinstance(fault, CorruptDisk)
    fault.inject(lab)
    assert fault.heal(lab) is None
    assert lab.done == ["corrupt node1 5/3.0"]


class Disk:
    def __init__(self) -> None:
        self.conditions: list[Condition] = []

    def become(self, wanted: Condition, cgroup: Cgroup) -> str:
        self.conditions.append(wanted)
        return str(wanted)


class Servers:
    groups: dict[str, Any] = {"node1": None}  # noqa: RUF012


def test_faults_of_one_disk_add_up_and_heal_one_by_one() -> None:
    lab, disk = LabDisks(), Disk()
    lab.disks, lab.servers = {"node1": disk}, Servers()  # type: ignore[assignment]
    lab.spoil_disk("node1", Condition(rate_bytes_s=2000), "a")
    lab.spoil_disk("node1", Condition(rate_bytes_s=1000), "b")
    lab.spoil_disk("node1", Condition(full=True), "c")
    lab.spoil_disk("node1", Condition(full=True), "d")
    lab.spoil_disk("node1", None, "b")
    lab.spoil_disk("node1", None, "c")
    lab.spoil_disk("node1", None, "d")
    lab.spoil_disk("node1", None, "a")
    assert disk.conditions == [
        Condition(rate_bytes_s=2000),
        Condition(rate_bytes_s=1000),
        Condition(rate_bytes_s=1000, full=True),
        Condition(rate_bytes_s=1000, full=True),
        Condition(rate_bytes_s=2000, full=True),
        Condition(rate_bytes_s=2000, full=True),
        Condition(rate_bytes_s=2000),
        Condition(),
    ]

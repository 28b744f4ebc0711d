"""From the faults of an experiment to what injects and heals them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from runner.faults.base import Fault
from runner.faults.hosts import CpuChange, Join, Kill, Leave, MemorySqueeze, Pause, Poweroff, Reboot, Restart
from runner.faults.links import Flap, Isolate, LinkChange, LinkTrace, Partition, modification_of
from runner.faults.storage import CorruptDisk, SpoiledDisk
from testbed.emulation.overlay import Modification
from testbed.spec.experiment import Experiment
from testbed.spec.faults import (
    CpuFault,
    DelayFault,
    DiskCorruptFault,
    DiskFullFault,
    DiskGoneFault,
    DiskReadonlyFault,
    DiskSlowFault,
    DownFault,
    FaultBase,
    FlapFault,
    IsolateFault,
    JitterFault,
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
from testbed.spec.faults.timeline import timeline
from testbed.spec.links import LinkSpec
from testbed.spec.scaling import slowed

MAKERS: Mapping[type[FaultBase], Callable[[Any, Experiment], Fault]] = {
    KillFault: lambda spec, _: Kill(spec),
    PoweroffFault: lambda spec, _: Poweroff(spec),
    RebootFault: lambda spec, _: Reboot(spec),
    RestartFault: lambda spec, _: Restart(spec),
    PauseFault: lambda spec, _: Pause(spec),
    LeaveFault: lambda spec, _: Leave(spec),
    JoinFault: lambda spec, _: Join(spec),
    CpuFault: lambda spec, _: CpuChange(spec),
    MemoryFault: lambda spec, _: MemorySqueeze(spec),
    **dict.fromkeys(
        (ThrottleFault, DelayFault, JitterFault, LossFault, DownFault),
        lambda spec, all_: LinkChange(spec, _link(spec, all_), all_.hosts),
    ),
    FlapFault: lambda spec, all_: Flap(spec, _link(spec, all_), all_.hosts, all_.workload.duration_s),
    LinkTraceFault: lambda spec, all_: LinkTrace(spec, _link(spec, all_), all_.hosts, all_.workload.duration_s),
    PartitionFault: lambda spec, _: Partition(spec),
    IsolateFault: lambda spec, all_: Isolate(spec, all_.links),
    **dict.fromkeys(
        (DiskFullFault, DiskReadonlyFault, DiskSlowFault, DiskGoneFault), lambda spec, _: SpoiledDisk(spec)
    ),
    DiskCorruptFault: lambda spec, all_: CorruptDisk(spec, all_.seed),
}
"""What does each kind of fault; every kind in `testbed.spec.faults.ACCEPTED` is here."""


def _link(spec: LinkFault, experiment: Experiment) -> LinkSpec:
    return next(link for link in experiment.links if set(link.between) == set(spec.ends))


def fault_of(spec: FaultBase, experiment: Experiment) -> Fault:
    """The fault that an entry of the flat timeline asks for."""
    return MAKERS[type(spec)](spec, experiment)


def faults_of(declared: Experiment) -> tuple[Fault, ...]:
    """The faults of an experiment's flat timeline as they are emulated, numbered by their places in it.

    The timeline is compiled of what is declared and slowed then, so that it is the same at each time scale.
    """
    flat = timeline(declared)
    emulated = slowed(declared.model_copy(update={"faults": flat, "chaos": None}))
    faults = tuple(fault_of(spec, emulated) for spec in emulated.faults)
    for fault, spec in zip(faults, flat, strict=True):
        fault.declared, fault.folder = spec, declared.source.parent
    return faults


def foreseen(declared: Experiment) -> tuple[Modification, ...]:
    """What the faults of an experiment will do to links, each alone."""
    return tuple(modification_of(spec) for spec in timeline(declared) if isinstance(spec, LinkFault))


def impairs(declared: Experiment) -> bool:
    """Whether packets are delayed or lost on purpose, by the links as declared or by a fault."""
    drawn = any(one.add_delay_s or one.add_jitter_s or one.loss for one in foreseen(declared))
    return drawn or any(link.is_impaired for link in declared.links)

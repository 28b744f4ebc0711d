"""What each emulated host may use of this machine's CPUs.

A quota gives a process its share in slices, one a period. Two errors pull in opposite directions. Short slices cost,
because the process finds its caches cold after each pause: MobileNetV2, 11 ms on a whole core of a 2-core virtual
machine, takes 1.6 to 2 times as much CPU time in slices of 1 ms, 1.1 to 1.4 in 2 ms, 1.0 to 1.15 in 5 ms. Long periods
make short stages bimodal: done within a slice, or a period late. So a period is a sixteenth of the stage's service
time, but its slice about 2 ms as long as that takes no more than 19 ms, and never less than the kernel's 1 ms.

What slices still cost is measured and made up for before the workload, with a margin (:mod:`runner.quota_fit`). That
slices end when they should is the work of the metronome (:mod:`runner.metronome`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from runner.preparation import Prepared
from testbed.emulation.cgroups import CpuLimit

PERIODS_IN_A_SERVICE = 16
SHORTEST_S, LONGEST_S = 0.011, 0.1
GOOD_SLICE_S, LEAST_SLICE_S = 2e-3, 1e-3
GOOD_SLICE_PERIOD_S = 0.019
KERNEL_LONGEST_S = 1.0


@dataclass(frozen=True, slots=True)
class Duty:
    """What a host computes for a request: operations of the model, and how long they take on a whole core."""

    first_op: int
    last_op: int
    core_s: float


def period_s(share: float, service_s: float) -> float:
    """The period of a quota.

    Args:
        share: Of one core.
        service_s: What a request takes at that share.
    """
    good_s = min(GOOD_SLICE_S / share, GOOD_SLICE_PERIOD_S)
    wanted_s = min(max(service_s / PERIODS_IN_A_SERVICE, SHORTEST_S, good_s), LONGEST_S)
    # A little above the kernel's least slice, which rounding must not cross.
    return min(max(wanted_s, LEAST_SLICE_S * 1.001 / share), KERNEL_LONGEST_S)


def duties(prepared: Prepared) -> dict[str, Duty]:
    """What each worker computes: its (longest) stage of the first plan, and for a spare host the longest of all."""
    by_length = sorted(prepared.plan.stages, key=lambda stage: sum(prepared.op_seconds[stage.first_op : stage.last_op]))
    stages = {stage.host: stage for stage in by_length}
    found = {}
    for host in prepared.experiment.workers:
        stage = stages.get(host, by_length[-1])
        core_s = sum(prepared.op_seconds[stage.first_op : stage.last_op])
        found[host] = Duty(stage.first_op, stage.last_op, core_s)
    return found


def cpu_limits(prepared: Prepared) -> Mapping[str, CpuLimit | None]:
    """The limit of every host of the emulated experiment; None where nothing is limited.

    With calibrated compute the workers have none, because they are held back instead. The dispatcher always has its
    own: what it does (admitting, planning) is nothing that could be calibrated.

    Raises:
        MachineError: If the kernel can't account for a share.
    """
    experiment = prepared.emulated.experiment
    given_s = experiment.compute.period_s
    dispatcher = experiment.hosts[experiment.dispatcher].share
    limits: dict[str, CpuLimit | None] = {
        experiment.dispatcher: CpuLimit(dispatcher, given_s or period_s(dispatcher, 0.0))
    }
    for host, duty in duties(prepared).items():
        share = experiment.hosts[host].share
        limits[host] = (
            CpuLimit(share, given_s or period_s(share, duty.core_s / share))
            if experiment.compute.mode == "real"
            else None
        )
    return limits

"""Does the experiment fit this machine? Asked before anything is built, and answered with the sum.

Besides the shares of the hosts a run needs CPU time that belongs to no host. Measured on a 2-core x86-64 virtual
machine (Linux 6.18), as shares of a core:

- the runner, which samples hosts and links and keeps the history, and the client, which hands over inputs and compares
  answers: 0.02 with 4 hosts and 13 requests a second; `RUNNER_SHARE` leaves room for 20 hosts and a live display;
- the delay line, where the kernel has no netem: 0.1 at 100 Mbit/s of full frames, so `DELAY_SHARE_PER_BPS`, at most
  `MOST_DELAY_SHARE` (unshaped links hand over larger pieces: 0.3 at 4 Gbit/s);
- with real compute, the metronomes: :data:`runner.metronome.SHARE` of each core;
- with calibrated compute, what the workers still do: their part of the network's work, a look-up, and a computation
  for every so many requests: 0.6 ms of CPU time were measured for each stage of each request with tensors of 400 kB;
  `CALIBRATED_S_PER_STAGE`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from runner import metronome
from runner.preparation import Prepared
from testbed.errors import MachineError
from testbed.spec.faults import CpuFault
from testbed.spec.faults.targets import Named
from testbed.spec.faults.timeline import timeline
from testbed.units import format_size

RUNNER_SHARE = 0.1
DELAY_SHARE_PER_BPS = 1e-9
MOST_DELAY_SHARE = 0.5
CALIBRATED_S_PER_STAGE = 1e-3
HOSTS = "the hosts"
MEMORY_RESERVE_BYTES = 512 << 20
"""Of the nursery (150 MiB), the delay line, the client with its samples, and the files' cache."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a run needs of the machine; ``cpu`` and ``memory`` are parts by name, in cores and bytes."""

    cpu: Mapping[str, float]
    memory: Mapping[str, int]

    @property
    def cores(self) -> float:
        """All CPU time together."""
        return math.fsum(self.cpu.values())

    @property
    def memory_bytes(self) -> int:
        """All memory together."""
        return sum(self.memory.values())


def demand(prepared: Prepared, shares: Mapping[str, float | None], *, delay_line: bool) -> Demand:
    """What a run needs.

    Args:
        prepared: The experiment.
        shares: The CPU limit of each host, in cores; None for one without.
        delay_line: Whether packets are delayed by a process instead of by the kernel.
    """
    experiment, plan = prepared.emulated.experiment, prepared.plan
    k = prepared.experiment.compute.time_scale
    rate_rps = plan.throughput_rps / k if math.isfinite(plan.throughput_rps) else 0.0
    cpu = {HOSTS: math.fsum(share for share in shares.values() if share is not None)}
    if (faster := _faster(prepared, shares)) > 0:
        cpu["hosts made faster by faults"] = faster
    if experiment.compute.mode == "calibrated":
        again = prepared.whole_model_s / experiment.compute.verify_every
        cpu["the calibrated hosts"] = rate_rps * (len(plan.stages) * CALIBRATED_S_PER_STAGE + again)
    elif any(shares.get(host) is not None for host in experiment.workers):
        cpu["the metronomes"] = metronome.SHARE * len(metronome.cpus())
    cpu["the runner"] = RUNNER_SHARE
    if delay_line:
        cpu["the delay line"] = min(MOST_DELAY_SHARE, delayed_bps(prepared) * DELAY_SHARE_PER_BPS)
    taken: dict[str, int] = {}
    for stage in plan.stages:
        taken[stage.host] = taken.get(stage.host, 0) + stage.memory_bytes
    largest = max(taken.values(), default=0)
    memory = {
        HOSTS: sum(
            largest if host.memory_bytes is None else host.memory_bytes
            for name, host in experiment.hosts.items()
            if name != experiment.dispatcher or host.memory_bytes is not None
        ),
        "the runner": MEMORY_RESERVE_BYTES,
    }
    return Demand(cpu, memory)


def _faster(prepared: Prepared, shares: Mapping[str, float | None]) -> float:
    """What faults of ``cpu`` add to the shares at most; one of a stage or the bottleneck may strike any worker."""
    k, workers = prepared.experiment.compute.time_scale, prepared.experiment.workers
    named: dict[str, float] = {}
    anybody = 0.0
    for fault in timeline(prepared.experiment):
        if isinstance(fault, CpuFault):
            target = fault.struck
            added = {
                host: fault.cpu_share / k - share
                for host in (target.names if isinstance(target, Named) else workers)
                if (share := shares[host]) is not None
            }
            if isinstance(target, Named):
                named |= {host: max(more, named.get(host, 0.0)) for host, more in added.items()}
            else:
                anybody = max(anybody, *added.values(), 0.0)
    return math.fsum(named.values()) + anybody


def delayed_bps(prepared: Prepared) -> float:
    """Bits a second through delayed links: the plan's tensors, and one stage's weights on their way at full rate."""
    network, plan = prepared.emulated.network, prepared.plan
    k = prepared.experiment.compute.time_scale
    dispatcher = prepared.experiment.dispatcher
    stops = [dispatcher, *(stage.host for stage in plan.stages), dispatcher]
    bits = [*(stage.transfer_bits for stage in plan.stages), plan.return_bits]
    steady = 0.0
    for source, target, size in zip(stops, stops[1:], bits, strict=False):
        delayed = sum(1 for link in network.path(source, target) if link.is_impaired)
        steady += delayed * size * plan.throughput_rps / k
    rates = [link.rate_bps for link in network.links if link.is_impaired and link.rate_bps is not None]
    return steady + max(rates, default=0)


def admit(needed: Demand, cores: float, available_bytes: int) -> None:
    """Refuse what doesn't fit.

    Args:
        needed: The demand.
        cores: Of this machine, as far as we may use them.
        available_bytes: Memory that is free or can be freed.

    Raises:
        MachineError: With the sum, and the ways out.
    """
    if needed.cores > cores:
        factor = math.ceil(_dilation(needed, cores))
        raise MachineError(
            f"the experiment needs {needed.cores:.2f} cores ({_sum(needed.cpu)}), this machine has {cores:g}",
            remedy="Use fewer or slower hosts, or `compute: {mode: calibrated}`, which holds results back instead of "
            f"limiting CPUs, or `compute: {{time_scale: {factor}}}`, which runs everything {factor} times slower.",
        )
    if needed.memory_bytes > available_bytes:
        parts = ", ".join(f"{name} {format_size(size)}" for name, size in needed.memory.items())
        raise MachineError(
            f"the experiment needs {format_size(needed.memory_bytes)} of memory ({parts}), "
            f"{format_size(available_bytes)} are available",
            remedy="Use fewer hosts, or hosts with less memory, or end other programs.",
        )


def left_for_hosts(needed: Demand, cores: float) -> float:
    """Cores that the hosts may use together, once everything else has its reserve."""
    return cores - (needed.cores - needed.cpu[HOSTS])


def _dilation(needed: Demand, cores: float) -> float:
    """By how much time must be stretched for the demand to fit; what the runner and its metronomes need stays."""
    fixed = needed.cpu.get("the runner", 0.0) + needed.cpu.get("the metronomes", 0.0)
    return max(2.0, (needed.cores - fixed) / max(cores - fixed, 1e-3))


def _sum(parts: Mapping[str, float]) -> str:
    return " + ".join(f"{name} {share:.2f}" for name, share in parts.items())

"""The soak's experiment: nine hosts on two switches, and seeded chaos in rounds, each of which ends with a calm moment.

In a round faults of all kinds from which hosts come back strike workers, their disks and all links at random times, and
one strikes the dispatcher. Then everything heals and the system has time to settle, so that what its processes take can
be compared from round to round. ``kill``, ``poweroff`` and ``leave`` are for good and would leave no host before long;
``restart`` and ``reboot`` do the same to a host, and give it back.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from testbed.errors import SpecError
from testbed.spec import Experiment
from testbed.spec.checks import check
from testbed.spec.faults import (
    CpuFault,
    FaultBase,
    PauseFault,
    RebootFault,
    RestartFault,
)
from testbed.spec.faults.campaign import chaos, drawable
from testbed.spec.faults.chaos import ChaosSpec, Span
from testbed.spec.faults.targets import Named
from testbed.spec.hosts import ComputeSpec, HostSpec
from testbed.spec.inference import ModelSpec
from testbed.spec.links import LinkSpec
from testbed.spec.recovery import RecoverySpec
from testbed.spec.workload import OpenWorkload

ROUND_S = 40.0
STORM_S = 24.0
"""So long faults begin in a round; they last four seconds at most."""
CALM_S = 5.0
"""The last seconds of a round, in which footprints are compared."""
LASTING = Span(0.5, 4.0)
RATE_RPS = 0.5
FINAL = frozenset({"kill", "poweroff", "leave"})
KINDS = tuple(verb for verb in drawable() if verb not in FINAL)
DISPATCHER = "dispatcher"
WORKERS = tuple(f"node{number}" for number in range(1, 9))


def rounds(minutes: float) -> int:
    """How many rounds there are in a time; one at least."""
    return max(1, round(minutes * 60 / ROUND_S))


def experiment(minutes: float, seed: int) -> Experiment:
    """The soak as a file would declare it.

    Raises:
        SpecError: If the specification refuses what was drawn.
    """
    count = rounds(minutes)
    quiet = Experiment(
        name="soak",
        seed=seed,
        hosts={
            DISPATCHER: HostSpec(cpu=0.4, storage_bytes=64 << 20),
            **{host: HostSpec(cpu=0.1, memory_bytes=96 << 20, storage_bytes=32 << 20) for host in WORKERS},
        },
        switches=("s1", "s2"),
        links=(
            LinkSpec(between=(DISPATCHER, "s1"), rate_bps=100_000_000, delay_s=0.001),
            LinkSpec(between=("s1", "s2"), rate_bps=100_000_000, delay_s=0.001),
            *(
                LinkSpec(between=(host, "s1" if index % 2 else "s2"), rate_bps=50_000_000, delay_s=0.002)
                for index, host in enumerate(WORKERS)
            ),
        ),
        model=ModelSpec(name="squeezenet1_1", input=(1, 3, 96, 96)),
        compute=ComputeSpec(mode="calibrated"),
        workload=OpenWorkload(rate_rps=6.0, duration_s=count * ROUND_S, deadline_s=30.0),
        recovery=RecoverySpec(policy="replan", adaptive=True),
    )
    faults = (fault for number in range(count) for fault in _storm(quiet, seed, number))
    found = quiet.model_copy(update={"faults": tuple(sorted(faults, key=lambda fault: fault.at_s))})
    for finding in check(found):
        raise SpecError(f"{finding.location}: {finding.message}")
    return found


def _storm(quiet: Experiment, seed: int, number: int) -> Iterator[FaultBase]:
    """The faults of a round."""
    begin_s = number * ROUND_S
    chance = random.Random(f"soak/{seed}/{number}")  # noqa: S311 - seeded, not secret
    campaign = ChaosSpec(
        rate_rps=RATE_RPS,
        kinds=KINDS,
        seed=chance.getrandbits(32),
        from_s=begin_s,
        until_s=begin_s + STORM_S,
        lasting=LASTING,
    )
    yield from chaos(quiet.model_copy(update={"chaos": campaign}))
    yield _of_dispatcher(chance, number, begin_s)


def _of_dispatcher(chance: random.Random, number: int, begin_s: float) -> FaultBase:
    """It dies in rounds 2, 4, 8, 16 …, so that it has a long life too; in all others it hangs or is slow."""
    at_s = round(begin_s + chance.uniform(0.0, STORM_S), 3)
    for_s = round(chance.uniform(LASTING.least, LASTING.most), 3)
    it = Named((DISPATCHER,))
    if number > 1 and not number & (number - 1):
        if chance.random() < 0.5:
            return RestartFault(at_s=at_s, for_s=for_s, restart=it)
        return RebootFault(at_s=at_s, for_s=for_s, reboot=it)
    if chance.random() < 0.5:
        return PauseFault(at_s=at_s, for_s=for_s, pause=it)
    return CpuFault(at_s=at_s, for_s=for_s, cpu=it, cpu_share=round(chance.uniform(0.05, 0.3), 3))

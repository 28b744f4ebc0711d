"""Quotas that let a host keep the speed that was declared, as measured on this machine, now.

``cpu: 0.1`` means a tenth of the speed of a core. A quota of a tenth of its time gives less: after each pause a process
finds its caches cold, and does the same work in more CPU time (:mod:`runner.limits`). By how much depends on the stage,
the share, the period, and on what else runs: the same stage at the same quota took 1.11 and 1.44 times its time within
a minute, so no factor could be kept from another day, and no quota is right for a whole run. So a host is given more
than it needs, and holds its results back to the declared speed (:mod:`testbed.serving.computing`).

How much it needs is measured before the workload: each worker computes its stage of the first plan, all workers at
once, under the very quotas that they will have; each quota is then corrected so that the stage takes the declared time
over :data:`MARGIN`, and measured again, until all are close to that or the rounds are over. Of that margin comes, too,
what receiving and sending take. What the emulated hosts feel is the declared speed; what the machine pays is the quota.
Where the quotas together would be more than the machine has, the margins and corrections are cut to what there is.

Quotas without such a margin were measured and rejected, whatever their periods: with corrections before the workload
alone the mean service time of a stage was between 31 % below and 6 % above the declared one, and its 90th percentile
up to 1.3 times the median.

The verdict judges what a stage takes under its last quota (``service_time_ms``), which may be less than declared but
not more, and how much later than due results are released (``overshoot_pct``).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from testbed.emulation.cgroups import CpuLimit
from testbed.model.chunks import WeightAssembler
from testbed.model.executor import StageExecutor
from testbed.model.program import DTYPES, StageProgram, TensorSpec
from testbed.serving.allocator import keep_freed_memory
from testbed.serving.events import now_s
from testbed.serving.package import Package
from testbed.serving.process import reporter

MARGIN = 2.0
"""So much faster than declared a host computes under its quota alone."""
CORRECTIONS = 2
ROUNDS = 3
"""So many measurements at most; after each of the first two the quotas are corrected."""
CLOSE_ENOUGH = 0.1
"""A host whose time is this near the wanted one, as a share of it, keeps its quota."""
LEAST_S, MOST_S = 1.5, 20.0
LEAST_RUNS, MOST_RUNS = 4, 200
WARM_UPS = 2
LOWEST_FACTOR, HIGHEST_FACTOR = 0.4 * MARGIN, 2.5 * MARGIN
"""Of the declared share. A factor beyond these tells of a disturbance while it was measured, not of the quota."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How a host computed its stage: so many runs, back to back, in so much time."""

    runs: int
    took_s: float

    @property
    def service_s(self) -> float:
        """Mean time of a run."""
        return self.took_s / self.runs


def is_close(wanted_s: float, pace: Pace) -> bool:
    """Whether a host computes as fast as it should, so far as one measurement can tell."""
    return abs(pace.service_s / wanted_s - 1) <= CLOSE_ENOUGH


@dataclass(frozen=True, slots=True)
class Trial:
    """What a host took for its stage under a quota."""

    limit: CpuLimit
    pace: Pace

    @property
    def cost_s(self) -> float:
        """CPU time of a run, as far as the quota decides its time."""
        return self.limit.share * self.pace.service_s


def corrected(share: float, wanted_s: float, trials: Sequence[Trial]) -> CpuLimit:
    """The quota under which a run should take the wanted time.

    A run's cost differs by a tenth and more from one measurement to the next (which slices met another host's on the
    same core), so the middle one of all measurements counts, not the last.

    Args:
        share: The declared share.
        wanted_s: What a run should take.
        trials: What was measured, one at least; the quotas' period is that of the last.
    """
    needed = statistics.median(trial.cost_s for trial in trials) / wanted_s
    period_s = trials[-1].limit.period_s
    # A share that is lowered may not bring the quota below what the kernel takes.
    return CpuLimit(max(min(max(needed, LOWEST_FACTOR * share), HIGHEST_FACTOR * share), 1.001e-3 / period_s), period_s)


def within(limits: Mapping[str, CpuLimit], declared: Mapping[str, float], cores: float) -> dict[str, CpuLimit]:
    """Quotas that sum to what the machine has; what exceeds it is taken from the corrections, never from the shares.

    Hosts whose correction is cut to below what they need are slower than declared, which the verdict tells.
    """
    extra = sum(max(0.0, limit.share - declared[host]) for host, limit in limits.items())
    room = max(0.0, cores - sum(min(limit.share, declared[host]) for host, limit in limits.items()))
    if extra <= room:
        return dict(limits)
    return {
        host: CpuLimit(min(limit.share, declared[host]) + max(0.0, limit.share - declared[host]) * room / extra, period)
        for host, limit in limits.items()
        for period in (limit.period_s,)
    }


def pace_of(run: Callable[[], object], service_s: float, clock: Callable[[], float] = time.monotonic) -> Pace:
    """Run a stage back to back for long enough to tell its mean.

    Args:
        run: Computes it once.
        service_s: What it is expected to take, which bounds the time that this may take.
        clock: In seconds.
    """
    most_s = max(MOST_S, LEAST_RUNS * service_s)
    for _ in range(WARM_UPS):
        run()
    started_s = ended_s = clock()
    runs = 0
    while runs < MOST_RUNS and (ended_s - started_s < LEAST_S or (runs < LEAST_RUNS and ended_s - started_s < most_s)):
        run()
        runs += 1
        ended_s = clock()
    return Pace(runs, ended_s - started_s)


def stage_executor(package: Package, first_op: int, last_op: int) -> StageExecutor:
    """A stage with its weights, as a node would hold it."""
    parcel = package.parcel(first_op, last_op)
    weights = WeightAssembler(parcel.manifest)
    for chunk_id in weights.missing:
        weights.add(chunk_id, package.chunk(chunk_id))
    return StageExecutor(StageProgram.from_json(parcel.program), weights.tensors())


def example(specs: tuple[TensorSpec, ...], seed: int = 0) -> list[torch.Tensor]:
    """Inputs of a stage's shapes: random where they are numbers, because zeros and subnormals compute differently."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(spec.shape, generator=generator).to(dtype)
        if (dtype := DTYPES[spec.dtype]).is_floating_point
        else torch.ones(spec.shape, dtype=dtype)
        for spec in specs
    ]


def main(config: Mapping[str, Any], fds: list[int]) -> None:
    """Entry of the measuring process, which is in the host's cgroup.

    Args:
        config: ``host``, ``package`` (folder of the model), ``first_op``, ``last_op``, ``service_s``.
        fds: The socket for events.
    """
    from runner.events import QuotaProbed

    torch.set_num_threads(1)
    keep_freed_memory()
    executor = stage_executor(Package(Path(config["package"])), config["first_op"], config["last_op"])
    inputs = example(executor.program.inputs)
    with torch.inference_mode():
        pace = pace_of(lambda: executor.run(inputs), config["service_s"])
    reporter(fds)(QuotaProbed(t_s=now_s(), host=config["host"], runs=pace.runs, took_s=pace.took_s))

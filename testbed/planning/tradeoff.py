"""What plans are weighed by, which of them no other beats, and which of those a user's weights pick.

Every aim is a figure of which less is better. A plan is beaten (dominated) when another is no worse in every aim and
better in one; Kress et al. (arXiv:2406.19913) weigh latency, energy, throughput, link bytes and memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from testbed.planning.instance import Bools, Floats
from testbed.planning.plan import Plan
from testbed.planning.problem import Problem
from testbed.planning.threshold import TOLERANCE

AIMS: Mapping[str, str] = {
    "latency": "latency_s",
    "throughput": "bottleneck_s",
    "energy": "energy_j",
    "traffic": "traffic_bytes",
    "memory": "memory_bytes",
    "accuracy": "accuracy_loss",
}
"""The aims, each with the name and unit of its figure: seconds of a request alone; seconds of the bottleneck; joules
and bytes sent of a request; bytes of the host that needs most; points of accuracy."""

DEFAULT_WEIGHTS: Mapping[str, float] = {"latency": 1.0, "throughput": 1.0, "energy": 1.0}


def figures(problem: Problem, plan: Plan) -> dict[str, float]:
    """A plan's figure for every aim."""
    losses = problem.accuracy_loss
    return {
        "latency": plan.latency_s,
        "throughput": plan.bottleneck_s,
        "energy": plan.energy_j,
        "traffic": math.fsum([*(stage.transfer_bits for stage in plan.stages), plan.return_bits]) / 8,
        "memory": float(max(stage.memory_bytes for stage in plan.stages)),
        "accuracy": math.fsum(
            loss for stage in plan.stages for loss in losses.get(stage.host, ())[stage.first : stage.last]
        ),
    }


def nondominated(values: Floats, check: Callable[[], None] = lambda: None) -> Bools:
    """Which rows no other row beats; of equal rows the first stays.

    Args:
        values: ``(N, D)``, less is better.
        check: Called between steps; may raise to end it.

    Returns:
        ``(N,)`` mask. Rows within 1e-9 of one another, relatively, count as equal.
    """
    left = np.lexsort(values.T[::-1])
    kept: list[int] = []
    while len(left):
        check()
        first = left[0]
        kept.append(int(first))
        best = values[first]
        # A row stays in question where it is better than the best in some aim.
        left = left[(values[left] < best - np.abs(best) * TOLERANCE).any(axis=1)]
    mask = np.zeros(len(values), dtype=np.bool_)
    mask[kept] = True
    return mask


def choose(values: Floats, weights: Sequence[float]) -> int:
    """The row of least weighted sum, each column scaled to 0..1 over the rows; of equal sums the first.

    Args:
        values: ``(N, D)``, less is better.
        weights: ``D`` of them, at least 0.
    """
    low, high = values.min(axis=0), values.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    return int((((values - low) / span) @ np.asarray(weights, dtype=np.float64)).argmin())

"""DEFER's way: a chain of stages as even as the model allows, on the hosts in their order.

Even in compute; or in layers (operations), as DEFER's own cuts of ResNet50 are: two residual blocks for each of eight
hosts. It sees neither speeds nor memory nor links (arXiv:2201.06769); memory and storage are only checked afterwards.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import numpy as np

from testbed.errors import InfeasibleError
from testbed.planning.evaluate import evaluate, route, usable_path
from testbed.planning.infeasible import enough, limit_bytes, need_bytes, no_workers, overhead_words
from testbed.planning.plan import Assignment, Plan
from testbed.planning.problem import Problem
from testbed.units import format_size

_TOLERANCE = 1e-12


def partition(sizes: Sequence[float], stages: int) -> tuple[int, ...]:
    """Boundaries of the most even cut of a chain into ``stages`` runs: least largest run, then least sum of squares.

    Args:
        sizes: What is to be even, of each of ``L`` segments: seconds, or operations.
        stages: From 1 to ``L``.

    Returns:
        ``stages + 1`` boundaries from 0 to ``L``. Exact, by dynamic programming, O(stages · L²).
    """
    before = np.concatenate(([0.0], np.cumsum(np.asarray(sizes, dtype=np.float64))))
    segments = len(before) - 1
    # runs[i, j]: size of segments i..j-1, infinite where that is empty.
    runs = before[None, :] - before[:, None]
    runs[np.tril_indices(segments + 1)] = np.inf
    least = np.full(segments + 1, np.inf)
    least[0] = 0.0
    for _ in range(stages):
        least = np.maximum(least[:, None], runs).min(axis=0)
    squares = np.where(runs <= least[segments] * (1 + _TOLERANCE), runs**2, np.inf)
    total = np.full(segments + 1, np.inf)
    total[0] = 0.0
    origins = []
    for _ in range(stages):
        sums = total[:, None] + squares
        origins.append(sums.argmin(axis=0))
        total = sums.min(axis=0)
    boundaries = [segments]
    for origin in reversed(origins):
        boundaries.append(int(origin[boundaries[-1]]))
    return tuple(reversed(boundaries))


def solve(problem: Problem) -> Plan:
    """As many stages as there are workers (or ``max_stages``, or segments), as even in ``problem.balance`` as possible.

    Raises:
        InfeasibleError: If a stage doesn't fit its host, or neighbours in the chain can't talk.
    """
    started_s = time.monotonic()
    missing = no_workers(problem)
    if missing is not None:
        raise missing
    workers = problem.workers
    stages = min(len(workers), problem.chain.segments, problem.max_stages or len(workers))
    ops = problem.chain.boundary_ops
    layers = [after - before for before, after in itertools.pairwise(ops)]
    boundaries = partition(layers if problem.balance == "layers" else problem.chain.compute_s, stages)
    assignments = tuple(
        Assignment(worker.name, first, last)
        for worker, (first, last) in zip(workers, itertools.pairwise(boundaries), strict=False)
    )
    for resource in ("memory", "storage"):
        _check_fits(problem, assignments, resource)
    for source, target in route(problem, assignments):
        if usable_path(problem, source, target) is None:
            raise InfeasibleError(
                f"even: {source} can't reach {target}, the next in the hosts' order",
                remedy="link them, order the hosts along their links, or use the strategy exact",
            )
    return evaluate(problem, assignments, "even", None, time.monotonic() - started_s)


def _check_fits(problem: Problem, assignments: Sequence[Assignment], resource: str) -> None:
    workers = {worker.name: worker for worker in problem.workers}
    for index, assignment in enumerate(assignments):
        worker = workers[assignment.host]
        need = need_bytes(problem, worker, resource, assignment.first, assignment.last)
        limit = limit_bytes(worker, resource)
        if limit is not None and need > limit:
            raise InfeasibleError(
                f"even: stage {index} needs {format_size(need)} of {resource}{overhead_words(worker, resource)}, "
                f"its host {worker.name} has {format_size(limit)}: short by {format_size(need - limit)}",
                remedy=f"give {worker.name} at least {enough(need)} of {resource}, or use the strategy exact",
            )

"""Small problems drawn at random, and every legal decision of one, for comparison with brute force."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator

from testbed.planning.evaluate import violations
from testbed.planning.plan import Assignment
from testbed.planning.problem import Chain, Path, Problem, Worker


def draw(seed: int, hosts: int = 4, segments: int = 6) -> Problem:
    """Unequal or equal hosts, asymmetric or flat rates, missing paths, every kind of limit, powers and prices."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    count, length = rng.randint(1, hosts), rng.randint(1, segments)
    chain = Chain(
        boundary_ops=tuple(range(length + 1)),
        boundary_bits=tuple(float(rng.randint(1, 20)) for _ in range(length + 1)),
        weight_bytes=tuple(rng.randint(0, 10) for _ in range(length)),
        activation_bytes=tuple(rng.randint(0, 5) for _ in range(length)),
        compute_s=tuple(rng.choice([0.0, 0.5, 1, 2, 3, 5]) for _ in range(length)),
    )
    alike, flat = rng.random() < 0.4, rng.random() < 0.3
    workers = tuple(
        Worker(
            f"h{index}",
            speed=1.0 if alike else rng.choice([0.1, 0.3, 1.0, 2.0]),
            memory_bytes=20 if alike else rng.choice([None, *range(8, 45)]),
            storage_bytes=None if alike else rng.choice([None, None, rng.randint(8, 30)]),
            overhead_bytes=0 if alike else rng.choice([0, 0, 2]),
            power_w=2.0 if alike else rng.choice([1.0, 5.0, 20.0]),
            price_per_s=0.0 if alike else rng.choice([0.0, 1.0, 3.0]),
        )
        for index in range(count)
    )
    paths = {
        pair: Path(
            5.0 if flat else rng.choice([1, 2, 5, 10, math.inf]),
            0.1 if flat else rng.choice([0, 0.1, 0.5]),
            energy_j_per_bit=0.1 if flat else rng.choice([0.0, 0.1, 1.0]),
        )
        for pair in itertools.permutations([*(worker.name for worker in workers), "d"], 2)
        if rng.random() > 0.15
    }
    return Problem(chain, workers, "d", paths, max_stages=rng.choice([None, None, 1, 2, 3]))


def decisions(problem: Problem) -> Iterator[tuple[Assignment, ...]]:
    """Every legal decision: all partitions on all permutations of hosts that break no constraint."""
    segments = problem.chain.segments
    for stages in range(1, min(len(problem.workers), segments) + 1):
        for cuts in itertools.combinations(range(1, segments), stages - 1):
            bounds = (0, *cuts, segments)
            for hosts in itertools.permutations(problem.workers, stages):
                decision = tuple(
                    Assignment(host.name, first, last)
                    for host, (first, last) in zip(hosts, itertools.pairwise(bounds), strict=True)
                )
                if not violations(problem, decision):
                    yield decision

"""The planner of least latency against one that tries every partition on every permutation of hosts."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import pytest

from testbed.errors import InfeasibleError
from testbed.planning import exact, min_latency
from testbed.planning.evaluate import evaluate, violations
from testbed.planning.plan import Assignment
from testbed.planning.problem import Chain, Path, Problem, Worker
from tests.planning.drawing import decisions, draw


def test_equals_brute_force_in_latency_and_feasibility() -> None:
    infeasible = shorter = 0
    for seed in range(300):
        problem = draw(seed)
        latencies = [evaluate(problem, decision, "all", None, 0.0).latency_s for decision in decisions(problem)]
        if not latencies:
            infeasible += 1
            with pytest.raises(InfeasibleError):
                min_latency.solve(problem)
            continue
        plan = min_latency.solve(problem)
        assert plan.latency_s == pytest.approx(min(latencies), rel=1e-8), seed
        assert plan.latency_gap == 0, seed
        chosen = [Assignment(stage.host, stage.first, stage.last) for stage in plan.stages]
        assert violations(problem, chosen) == (), seed
        shorter += plan.latency_s < exact.solve(problem).latency_s * (1 - 1e-9)
    assert 30 < infeasible < 200
    assert shorter > 20  # the least bottleneck isn't the least latency


def _large(seed: int, hosts: int = 14, segments: int = 60) -> Problem:
    rng = random.Random(seed)  # noqa: S311 - no secret
    weights = tuple(rng.randint(1, 9) for _ in range(segments))
    chain = Chain(
        tuple(range(segments + 1)),
        tuple(rng.uniform(1, 20) * 1e5 for _ in range(segments + 1)),
        weights,
        (0,) * segments,
        tuple(rng.uniform(0.001, 0.02) for _ in range(segments)),
    )
    room = sum(weights) // 6
    workers = tuple(Worker(f"h{i}", rng.uniform(0.1, 1), int(room * rng.uniform(0.6, 2))) for i in range(hosts))
    names = [*(worker.name for worker in workers), "d"]
    paths = {pair: Path(rng.uniform(2e6, 50e6), 0.002) for pair in itertools.permutations(names, 2)}
    return Problem(chain, workers, "d", paths)


def test_out_of_time_it_keeps_the_plan_and_an_honest_bound() -> None:
    problem = _large(3)
    best = min_latency.solve(problem)
    ticks = itertools.count()
    unfinished = []
    for limit in (20, 200, 400, 800, 1600):
        try:
            plan = min_latency.solve(replace(problem, time_limit_s=limit), clock=lambda: float(next(ticks)))
        except InfeasibleError:
            continue
        assert plan.latency_bound_s is not None
        assert plan.latency_bound_s <= best.latency_s * (1 + 1e-9)
        assert plan.latency_s >= (best.latency_bound_s or 0) * (1 - 1e-9)
        if plan.latency_gap:
            unfinished.append(plan.latency_gap)
    assert unfinished
    assert all(0 < gap < math.inf for gap in unfinished)


def test_two_tiers_are_neurosurgeon() -> None:
    """One cut between a slow device and a fast cloud: where it lies depends on the rate."""
    chain = Chain((0, 1, 2, 3), (8e6, 4e6, 1e5, 1e3), (0, 0, 0), (0, 0, 0), (0.1, 0.1, 0.4))
    workers = (Worker("device", 0.2), Worker("cloud", 4.0))
    local = {("d", "device"): Path(math.inf), ("device", "d"): Path(math.inf)}

    def cut(rate_bps: float) -> list[tuple[str, int]]:
        far = {pair: Path(rate_bps, 0.005) for pair in itertools.permutations(("device", "cloud"), 2)}
        far |= {("d", "cloud"): Path(rate_bps, 0.005), ("cloud", "d"): Path(rate_bps, 0.005)}
        plan = min_latency.solve(Problem(chain, workers, "d", local | far))
        return [(stage.host, stage.last) for stage in plan.stages]

    assert cut(1e9) == [("cloud", 3)]
    assert cut(4e6) == [("device", 2), ("cloud", 3)]
    assert cut(2e4) == [("device", 3)]

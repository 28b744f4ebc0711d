"""Dynamic split computing against brute force, and how its cut follows rate, load and demand."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest

from testbed.errors import InfeasibleError
from testbed.planning import dynamic
from testbed.planning.evaluate import evaluate
from testbed.planning.plan import Plan
from testbed.planning.problem import Chain, Path, Problem, Worker
from tests.planning.drawing import decisions, draw

CHAIN = Chain((0, 1, 2, 3, 4), (8e6, 16e6, 2e6, 4e5, 1e3), (0,) * 4, (0,) * 4, (0.05, 0.10, 0.30, 0.20))


def _device_and_server(rate_bps: float) -> Problem:
    paths = {pair: Path(rate_bps, 0.005) for pair in itertools.permutations(("device", "server", "d"), 2)}
    paths[("d", "device")] = paths[("device", "d")] = Path(math.inf)
    return Problem(CHAIN, (Worker("device", 0.2), Worker("server", 2.0)), "d", paths)


def _where(plan: Plan) -> list[tuple[str, int]]:
    return [(stage.host, stage.last) for stage in plan.stages]


@pytest.mark.parametrize("demand_rps", [0.0, 0.2, 50.0])
def test_equals_brute_force_over_its_cuts(demand_rps: float) -> None:
    feasible = overloaded = 0
    for seed in range(200):
        problem = replace(draw(seed), demand_rps=demand_rps)
        cuts = dynamic.bottleneck_cuts(problem.chain)
        allowed = [
            evaluate(problem, decision, "all", None, 0.0)
            for decision in decisions(problem)
            if len(decision) == 1 or (len(decision) == 2 and decision[0].last in cuts)
        ]
        if not allowed:
            with pytest.raises(InfeasibleError, match=r"dynamic|reach|needs|host"):
                dynamic.solve(problem)
            continue
        feasible += 1
        plan = dynamic.solve(problem)
        keeping = [found.latency_s for found in allowed if found.bottleneck_s * demand_rps <= 1 + 1e-9]
        if keeping:
            assert plan.latency_s == pytest.approx(min(keeping)), seed
        else:
            overloaded += 1
            assert plan.bottleneck_s == pytest.approx(min(found.bottleneck_s for found in allowed)), seed
            assert "no split keeps up" in plan.notes[-1]
    assert feasible > 80
    assert (overloaded > 20) == (demand_rps > 0)


def test_only_cuts_smaller_than_the_input() -> None:
    assert dynamic.bottleneck_cuts(CHAIN) == (2, 3)


def test_the_cut_follows_the_rate() -> None:
    cuts = [_where(dynamic.solve(_device_and_server(rate_bps))) for rate_bps in (1e9, 2e6, 1e5)]
    assert cuts == [[("server", 4)], [("device", 2), ("server", 4)], [("device", 4)]]


def test_the_cut_follows_the_load() -> None:
    problem = _device_and_server(2e6)
    busy = replace(problem, workers=(problem.workers[0], Worker("server", 0.1)))
    assert _where(dynamic.solve(busy)) == [("device", 4)]
    faster = replace(problem, paths={**problem.paths, ("d", "server"): Path(1e9, 0.005)})
    assert _where(dynamic.solve(faster)) == [("server", 4)]


def test_the_cut_follows_the_demand() -> None:
    """Alone a request is served soonest by the device's head; many at a time need the link less and the server more."""
    problem = _device_and_server(20e6)
    alone = dynamic.solve(problem)
    many = dynamic.solve(replace(problem, demand_rps=alone.throughput_rps * 1.01))
    assert many.latency_s >= alone.latency_s
    swamped = dynamic.solve(replace(problem, demand_rps=1e6))
    assert "no split keeps up with 1e+06 requests/s" in swamped.notes


def test_a_model_without_a_bottleneck_is_not_split() -> None:
    problem = replace(_device_and_server(2e6), chain=replace(CHAIN, boundary_bits=(1.0, 2.0, 3.0, 4.0, 5.0)))
    plan = dynamic.solve(problem)
    assert len(plan.stages) == 1
    assert plan.notes == ("no cut is smaller than the input, so the model isn't split",)

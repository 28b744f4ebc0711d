"""Several stages on a host, and links that paths share, against an independent implementation that tries everything."""

from __future__ import annotations

import itertools
import math
import random
from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.errors import InfeasibleError
from testbed.planning import exact, pareto
from testbed.planning.beam import Beam
from testbed.planning.deadline import Deadline
from testbed.planning.evaluate import evaluate, violations
from testbed.planning.loads import Loads
from testbed.planning.plan import Assignment, Plan
from testbed.planning.prices import Market
from testbed.planning.problem import Chain, Link, Path, Problem, Worker
from testbed.planning.revisits import PricedDepthFirst
from testbed.planning.threshold import Threshold
from tests.planning.drawing import draw
from tests.planning.test_exact import Ticking, medium

SEGMENTS = 8


def wired(problem: Problem, seed: int) -> Problem:
    """The problem on switches: each host has a link of its own; half of the time a trunk joins two switches."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    names = [*(worker.name for worker in problem.workers), problem.dispatcher]
    rates = {(name, way): float(rng.choice([1, 2, 5, 10])) for name in names for way in ("up", "down")}
    side = {name: rng.random() < 0.5 for name in names} if rng.random() < 0.5 else dict.fromkeys(names, False)
    trunk = float(rng.choice([1, 2, 5]))
    paths = {}
    for source, target in itertools.permutations(names, 2):
        links = [Link(f"{source} → s", rates[source, "up"]), Link(f"s → {target}", rates[target, "down"])]
        if side[source] != side[target]:
            links.insert(1, Link(f"trunk {side[source]} → {side[target]}", trunk))
        paths[source, target] = Path(min(link.rate_bps for link in links), 0.1, links=tuple(links))
    return replace(problem, paths=paths)


def brute_force(problem: Problem) -> float | None:
    """The least bottleneck over every partition on every sequence of hosts, or None if there is no plan."""
    segments, best = problem.chain.segments, math.inf
    most = min(segments, len(problem.workers) * problem.stages_per_host, problem.max_stages or segments)
    for stages in range(1, most + 1):
        for hosts in itertools.product(problem.workers, repeat=stages):
            names = [host.name for host in hosts]
            if any(one == other for one, other in itertools.pairwise(names)):
                continue
            if max(map(names.count, names)) > problem.stages_per_host:
                continue
            for cuts in itertools.combinations(range(1, segments), stages - 1):
                best = min(best, _bottleneck_s(problem, hosts, (0, *cuts, segments)))
    return None if math.isinf(best) else best


def _bottleneck_s(problem: Problem, hosts: tuple[Worker, ...], bounds: tuple[int, ...]) -> float:
    """Infinite where the decision is illegal."""
    chain = problem.chain
    busy: defaultdict[object, float] = defaultdict(float)
    names = [problem.dispatcher, *(host.name for host in hosts), problem.dispatcher]
    for pair, bound in zip(itertools.pairwise(names), bounds, strict=True):
        if pair not in problem.paths:
            return math.inf
        busy[pair] += chain.boundary_bits[bound] / problem.paths[pair].rate_bps
        for link in problem.paths[pair].links:
            busy[link.name] += chain.boundary_bits[bound] / link.rate_bps
    weights: defaultdict[Worker, int] = defaultdict(int)
    peaks: defaultdict[Worker, int] = defaultdict(int)
    for host, (first, last) in zip(hosts, itertools.pairwise(bounds), strict=True):
        weights[host] += sum(chain.weight_bytes[first:last])
        peaks[host] = max(peaks[host], *chain.activation_bytes[first:last])
        busy[host] += sum(chain.compute_s[first:last]) / host.speed
    for host, held in weights.items():
        if host.memory_bytes is not None and held + peaks[host] + host.overhead_bytes > host.memory_bytes:
            return math.inf
        if host.storage_bytes is not None and held > host.storage_bytes:
            return math.inf
    return max(busy.values())


def drawn(seed: int, segments: int = SEGMENTS, hosts: int = 3) -> Problem:
    """Up to three stages a host, over paths of their own or over shared links; also one stage with shared links."""
    problem = draw(seed, hosts, segments)
    problem = problem if seed % 2 else wired(problem, seed)
    most = None if problem.max_stages is None else problem.max_stages + 2
    return replace(problem, stages_per_host=seed % 3 + 1, max_stages=most)


def decision_of(plan: Plan) -> tuple[Assignment, ...]:
    return tuple(Assignment(stage.host, stage.first, stage.last) for stage in plan.stages)


@pytest.mark.parametrize("block", range(6))
def test_equals_brute_force(block: int) -> None:
    infeasible = revisited = better = 0
    for seed in range(block * 100, block * 100 + 100):
        problem = drawn(seed)
        expected = brute_force(problem)
        if expected is None:
            infeasible += 1
            with pytest.raises(InfeasibleError):
                exact.solve(problem)
            continue
        plan = exact.solve(problem)
        assert plan.bottleneck_s == pytest.approx(expected, rel=1e-8), seed
        assert plan.gap == 0, seed
        assert violations(problem, decision_of(plan)) == (), seed
        hosts = [stage.host for stage in plan.stages]
        revisited += len(set(hosts)) < len(hosts)
        try:
            better += plan.bottleneck_s < exact.solve(replace(problem, stages_per_host=1)).bottleneck_s * (1 - 1e-9)
        except InfeasibleError:
            better += 1
    # All kinds are really drawn.
    assert infeasible > 10
    assert revisited > 3
    assert better > 3


def test_each_way_of_deciding_a_threshold_agrees_with_brute_force() -> None:
    """Prices may only rule out what is impossible, a beam only find what is legal, depth-first search must decide."""
    deadline = Deadline(600, lambda: 0.0)
    ruled_out = found = searched = 0
    for seed in range(150):
        problem = drawn(seed, segments=6)
        best_s = brute_force(problem)
        if best_s is None or not best_s:
            continue
        loads = Loads.of(problem)
        for beta_s in (best_s * 0.7, best_s * (1 - 1e-6), best_s * (1 + 1e-8), best_s * 1.5):
            threshold = Threshold.of(loads.instance, beta_s)
            priced, steps = Market(loads, deadline).settle(threshold)
            possible = beta_s > best_s
            assert not (possible and (priced.impossible or not threshold.possible)), seed
            ruled_out += priced.impossible
            for one in (steps, Beam(loads, threshold, priced, deadline).search(3)):
                assert one is None or possible, seed
                found += one is not None
            walk = PricedDepthFirst(loads, threshold, priced, deadline, 10**6).search()
            assert (walk is not None) == possible, seed
            searched += 1
            names = [worker.name for worker in problem.workers]
            for one in (walk, steps):
                if one is not None:
                    decision = [Assignment(names[step.kind], step.first, step.last) for step in one]
                    assert violations(problem, decision) == (), seed
                    assert evaluate(problem, decision, "", None, 0.0).bottleneck_s <= beta_s * (1 + 1e-8), seed
    assert ruled_out > 100
    assert found > 100
    assert searched > 300


def gateway(seed: int = 0) -> Problem:
    """A weak host with the only fast way to the dispatcher, and a fast one behind it; the ends of the model are big.

    Taking all through the slow way, or leaving the gateway one end alone, is the best that one stage a host can do.
    """
    chain = Chain(tuple(range(seed, seed + 6)), (40.0, 4.0, 3.0, 3.0, 4.0, 40.0), (1,) * 5, (0,) * 5,
                  (0.2, 1.0, 1.0, 1.0, 0.2))  # fmt: skip
    workers = (Worker("gateway", 0.5), Worker("inner", 4.0))
    paths = {("d", "gateway"): Path(50.0), ("gateway", "d"): Path(50.0), ("d", "inner"): Path(5.0)}
    paths |= {("inner", "d"): Path(5.0), ("gateway", "inner"): Path(5.0), ("inner", "gateway"): Path(5.0)}
    return Problem(chain, workers, "d", paths)


def test_a_gateway_takes_the_first_and_the_last_stage_around_a_fast_inner_host() -> None:
    one = exact.solve(gateway())
    plan = exact.solve(replace(gateway(), stages_per_host=2))
    assert [(stage.host, stage.first, stage.last) for stage in plan.stages] == [
        ("gateway", 0, 1),
        ("inner", 1, 4),
        ("gateway", 4, 5),
    ]
    assert plan.gap == 0
    # Both of the gateway's stages count: 0.2 / 0.5 twice.
    assert plan.bottleneck_s == pytest.approx(0.8)
    assert one.bottleneck_s > 5 * plan.bottleneck_s


def test_a_hosts_stages_and_the_transfers_over_a_path_or_a_link_add_up() -> None:
    chain = Chain((0, 1, 2, 3, 4), (8.0, 4.0, 2.0, 4.0, 1.0), (10, 20, 30, 40), (5, 1, 2, 9), (1.0, 2.0, 3.0, 4.0))
    workers = (Worker("a", 0.5, memory_bytes=60, storage_bytes=50, overhead_bytes=10), Worker("b", 1.0))
    free = Path(math.inf)
    into = (Link("s → a", 4.0),)
    paths = {("d", "a"): Path(2.0, 1.0, links=into), ("b", "a"): Path(4.0, 0.5, links=into)}
    paths |= {("a", "b"): Path(1.0), ("b", "d"): free, ("a", "d"): free, ("d", "b"): free}
    problem = Problem(chain, workers, "d", paths, stages_per_host=2)
    twice = (Assignment("a", 0, 1), Assignment("b", 1, 2), Assignment("a", 2, 3), Assignment("b", 3, 4))
    plan = evaluate(problem, twice, "mine", None, 0.0)
    assert (plan.bottleneck, plan.bottleneck_s, plan.bottleneck_stage) == ("compute on a", 2.0 + 6.0, 2)
    assert plan.latency_s == pytest.approx((2 + 2 + 6 + 4) + (4 + 4 + 0.5 + 4) + 1.5)
    quick = replace(problem, workers=tuple(replace(worker, speed=100.0) for worker in workers))
    assert (found := evaluate(quick, twice, "mine", None, 0.0)).bottleneck == "link a → b"
    assert (found.bottleneck_s, found.bottleneck_stage) == (4 / 1 + 4 / 1, 1)
    quick = replace(quick, paths=paths | {("a", "b"): free})
    assert (found := evaluate(quick, twice, "mine", None, 0.0)).bottleneck == "link d → a"
    shared = replace(quick, chain=replace(chain, boundary_bits=(6.0, 4.0, 8.0, 4.0, 1.0)))
    assert (found := evaluate(shared, twice, "mine", None, 0.0)).bottleneck == "link s → a, shared"
    assert (found.bottleneck_s, found.bottleneck_stage) == (6 / 4 + 8 / 4, 2)
    assert evaluate(shared.unshared(), twice, "mine", None, 0.0).bottleneck_s == 3.0
    # All weights stay, one stage computes at a time: 10 + 30 and 5, not 5 + 2.
    assert violations(problem, twice) == ()
    assert violations(replace(problem, workers=(replace(workers[0], memory_bytes=54), workers[1])), twice) == (
        "stages 0, 2 together need 55B of memory, a has 54B: short by 1B",
    )
    assert violations(replace(problem, workers=(replace(workers[0], storage_bytes=39), workers[1])), twice) == (
        "stages 0, 2 together need 40B of storage, a has 39B: short by 1B",
    )
    assert violations(replace(problem, stages_per_host=1), twice) == (
        "a holds 2 stages, 1 is allowed",
        "b holds 2 stages, 1 is allowed",
    )
    beside = (Assignment("b", 0, 1), Assignment("b", 1, 4))
    assert violations(problem, beside) == ("stages 0 and 1 are both on b, and so are one stage",)


def test_a_trunk_that_two_transfers_cross_counts_with_one_stage_a_host_too() -> None:
    """Without it a chain there and back over the trunk looks better than it is."""
    chain = Chain((0, 1, 2, 3), (3.0, 3.0, 3.0, 0.0), (1, 1, 1), (0, 0, 0), (1.0, 1.0, 1.0))
    workers = tuple(Worker(name, 1.0, memory_bytes=1) for name in ("near", "far", "other"))
    trunk, side = Link("left → right", 2.0), {"d": "l", "near": "l", "far": "r", "other": "r"}
    paths = {
        (a, b): Path(2.0, links=(trunk,)) if (side[a], side[b]) == ("l", "r") else Path(3.0)
        for a, b in itertools.permutations(side, 2)
    }
    problem = Problem(chain, workers, "d", paths)
    there_and_back = [Assignment("far", 0, 1), Assignment("near", 1, 2), Assignment("other", 2, 3)]
    assert evaluate(problem, there_and_back, "", None, 0.0).bottleneck == "link left → right, shared"
    plan = exact.solve(problem)
    assert plan.bottleneck_s == pytest.approx(brute_force(problem) or math.nan)
    assert plan.gap == 0
    front = pareto.front(problem, ("throughput",))
    assert front.plans[0].bottleneck_s >= plan.bottleneck_s


def test_loads_add_up_where_hosts_or_trunks_are_used_twice() -> None:
    names, trunk = ("d", "gateway", "inner"), Link("left → right", 1.0)
    star = {
        (a, b): Path(1.0, links=(Link(f"{a} → s", 1.0), Link(f"s → {b}", 1.0)))
        for a, b in itertools.permutations(names, 2)
    }
    assert not replace(gateway(), paths=star).loads_may_add_up
    assert replace(gateway(), paths=star, stages_per_host=2).loads_may_add_up
    assert not gateway().loads_may_add_up
    crossing = {("d", "gateway"): Path(1.0, links=(trunk,)), ("gateway", "inner"): Path(1.0, links=(trunk,))}
    assert replace(gateway(), paths=star | crossing).loads_may_add_up


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), hosts=st.integers(1, 5), segments=st.integers(1, 10))
def test_no_plan_breaks_a_constraint_or_is_worse_than_one_stage_a_host(seed: int, hosts: int, segments: int) -> None:
    problem = replace(drawn(seed, segments, hosts), time_limit_s=2.0)
    try:
        plan = exact.solve(problem)
    except InfeasibleError:
        return
    assert violations(problem, decision_of(plan)) == ()
    assert plan.lower_bound_s is not None
    assert plan.lower_bound_s <= plan.bottleneck_s
    assert evaluate(problem, decision_of(plan), "exact", plan.lower_bound_s, plan.planning_s) == plan
    try:
        one = exact.solve(replace(problem, stages_per_host=1))
    except InfeasibleError:
        return
    assert plan.bottleneck_s <= one.bottleneck_s * (1 + 1e-9)


@pytest.mark.parametrize("limit_s", [0.05, 0.2, 0.8, 3.0])
def test_the_time_limit_is_kept_and_the_bound_is_honest(limit_s: float) -> None:
    """A bound is a claim on every plan, whoever found it."""
    problem = replace(medium(3, hosts=6, segments=30, tightness=2.0), stages_per_host=2)
    clock = Ticking()
    plan = exact.solve(replace(problem, time_limit_s=limit_s), clock)
    assert clock.now_s <= limit_s + 0.01
    best = exact.solve(replace(problem, time_limit_s=20.0))
    assert plan.lower_bound_s is not None
    assert best.lower_bound_s is not None
    assert max(plan.lower_bound_s, best.lower_bound_s) <= min(plan.bottleneck_s, best.bottleneck_s) * (1 + 1e-9)
    assert violations(problem, decision_of(plan)) == ()


def test_why_nothing_fits() -> None:
    problem = replace(gateway(), stages_per_host=2)
    small = tuple(replace(worker, memory_bytes=2) for worker in problem.workers)
    with pytest.raises(InfeasibleError, match="holds 4B besides the servers' overhead, the model has 5B of weights"):
        exact.solve(replace(problem, workers=small))
    lonely = replace(problem, workers=small, chain=replace(problem.chain, weight_bytes=(1, 1, 0, 1, 1)))
    paths = {pair: path for pair, path in problem.paths.items() if pair != ("inner", "gateway")}
    with pytest.raises(InfeasibleError, match="as they are linked, with at most 2 stages a host and 1 stage in all"):
        exact.solve(replace(lonely, paths=paths, max_stages=1))

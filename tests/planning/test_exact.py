"""The exact planner against an independent implementation that tries every partition on every permutation of hosts."""

from __future__ import annotations

import itertools
import math
import random
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.errors import InfeasibleError
from testbed.planning import exact
from testbed.planning.deadline import Deadline, OutOfTime
from testbed.planning.decision import Decision
from testbed.planning.depthfirst import DepthFirst
from testbed.planning.evaluate import evaluate, violations
from testbed.planning.instance import Instance
from testbed.planning.labels import LabelSweep
from testbed.planning.plan import Assignment, Plan
from testbed.planning.problem import Chain, Path, Problem, Worker
from testbed.planning.threshold import Threshold
from tests.planning.drawing import draw

SEGMENTS = 7


def brute_force(problem: Problem) -> tuple[float, float] | None:
    """The least bottleneck and the least latency at it, or None if there is no plan."""
    chain, best = problem.chain, None
    most = min(len(problem.workers), chain.segments, problem.max_stages or len(problem.workers))
    for stages in range(1, most + 1):
        for cuts in itertools.combinations(range(1, chain.segments), stages - 1):
            for hosts in itertools.permutations(problem.workers, stages):
                found = _cost(problem, hosts, (0, *cuts, chain.segments))
                if found is not None and (best is None or found < best):
                    best = found
    return best


def _cost(problem: Problem, hosts: tuple[Worker, ...], bounds: tuple[int, ...]) -> tuple[float, float] | None:
    chain, times, delays = problem.chain, [], 0.0
    names = [problem.dispatcher, *(host.name for host in hosts), problem.dispatcher]
    for pair, bound in zip(itertools.pairwise(names), bounds, strict=True):
        if pair not in problem.paths:
            return None
        times.append(chain.boundary_bits[bound] / problem.paths[pair].rate_bps)
        delays += problem.paths[pair].delay_s
    for host, (first, last) in zip(hosts, itertools.pairwise(bounds), strict=True):
        weights = sum(chain.weight_bytes[first:last])
        memory = weights + max(chain.activation_bytes[first:last]) + host.overhead_bytes
        if host.memory_bytes is not None and memory > host.memory_bytes:
            return None
        if host.storage_bytes is not None and weights > host.storage_bytes:
            return None
        times.append(sum(chain.compute_s[first:last]) / host.speed)
    return round(max(times), 9), round(sum(times) + delays, 9)


@pytest.mark.parametrize("block", range(6))
def test_equals_brute_force_in_bottleneck_latency_and_feasibility(block: int) -> None:
    infeasible = 0
    for seed in range(block * 100, block * 100 + 100):
        problem = draw(seed, segments=SEGMENTS)
        expected = brute_force(problem)
        if expected is None:
            infeasible += 1
            with pytest.raises(InfeasibleError):
                exact.solve(problem)
            continue
        plan = exact.solve(problem)
        assert plan.bottleneck_s == pytest.approx(expected[0], rel=1e-8), seed
        assert plan.latency_s == pytest.approx(expected[1], rel=1e-8), seed
        assert plan.gap == 0, seed
        assert plan.lower_bound_s == plan.bottleneck_s, seed
    assert 10 < infeasible < 60  # both kinds are really drawn


def test_equals_brute_force_with_five_hosts_and_eight_segments() -> None:
    for seed in range(1000, 1040):
        problem = draw(seed, hosts=5, segments=8)
        expected = brute_force(problem)
        if expected is None:
            with pytest.raises(InfeasibleError):
                exact.solve(problem)
        else:
            assert exact.solve(problem).bottleneck_s == pytest.approx(expected[0], rel=1e-8), seed


def test_labels_alone_decide_as_brute_force_does() -> None:
    """Small instances end in the depth-first search; without nodes for it, beams and labels must answer the same."""
    yes = no = 0
    for seed in range(400):
        problem = draw(seed, segments=SEGMENTS)
        expected = brute_force(problem)
        instance = Instance.of(problem)
        decision = Decision(instance, Deadline(60, lambda: 0.0), node_limit=0)
        if expected is None:
            no += 1
            assert decision.plan(instance.largest_threshold_s()) is None, seed
            continue
        steps = decision.plan(expected[0] * (1 + 1e-8))
        assert steps is not None, seed
        assert violations(problem, instance.assign(steps)) == (), seed
        yes += 1
        if expected[0] > 0:
            assert decision.plan(expected[0] * (1 - 1e-6)) is None, seed
    assert yes > 100
    assert no > 50


def test_labels_and_depth_first_search_agree_where_brute_force_is_too_slow() -> None:
    answers = []
    for seed in range(40):
        problem = replace(loose(seed, hosts=7, segments=14, dead=0.3), max_stages=6 if seed % 3 == 0 else None)
        instance, deadline = Instance.of(problem), Deadline(60, lambda: 0.0)
        for beta_s in (6.0, 8.0, 10.0, 13.0, 20.0, 1000.0):
            threshold = Threshold.of(instance, beta_s)
            if not threshold.possible:
                continue
            steps = LabelSweep(threshold, deadline).walk(range(instance.kinds))
            expected = DepthFirst(threshold, deadline, node_limit=10**6).search()
            assert (steps is None) == (expected is None), (seed, beta_s)
            answers.append(steps is None)
            assert steps is None or violations(problem, instance.assign(steps)) == (), (seed, beta_s)
    assert answers.count(True) > 20
    assert answers.count(False) > 20


def test_a_walk_has_no_more_stages_than_allowed_even_when_it_forgets_its_hosts() -> None:
    limited = 0
    for seed in range(300):
        instance = Instance.of(draw(seed, segments=SEGMENTS))
        threshold = Threshold.of(instance, instance.largest_threshold_s())
        walk = LabelSweep(threshold, Deadline(60, lambda: 0.0)).walk(())
        if walk is not None and instance.stages_limited:
            limited += 1
            assert len(walk) <= instance.max_stages, seed
    assert limited > 30


def test_equals_brute_force_where_candidates_lie_close() -> None:
    """Many possible bottlenecks within a per cent, and a walk bound that is too low: the last bisection decides."""
    for seed in range(60):
        rng = random.Random(seed)  # noqa: S311 - no secret
        problem = draw(seed, hosts=4, segments=8)
        segments = problem.chain.segments
        chain = replace(
            problem.chain,
            weight_bytes=tuple(rng.randint(8, 10) for _ in range(segments)),
            activation_bytes=(0,) * segments,
            compute_s=tuple(rng.uniform(1, 1.002) for _ in range(segments)),
            boundary_bits=(1.0,) * (segments + 1),
        )
        workers = tuple(
            replace(worker, speed=rng.uniform(1, 1.002), memory_bytes=rng.randint(12, 32), storage_bytes=None)
            for worker in problem.workers
        )
        paths = dict.fromkeys(itertools.permutations([*(worker.name for worker in workers), "d"], 2), Path(100.0))
        problem = Problem(chain, workers, "d", paths)
        expected = brute_force(problem)
        if expected is not None:
            assert exact.solve(problem).bottleneck_s == pytest.approx(expected[0], rel=1e-8), seed


def test_a_walk_that_returns_to_a_host_makes_it_critical() -> None:
    """Only h0 has room for the middle and only h1 reaches it from both sides; h2 has room, but nobody reaches it."""
    chain = Chain((0, 1, 2, 3), (1.0,) * 4, (4, 9, 4), (0, 0, 0), (1.0,) * 3)
    workers = (Worker("h0", 1.0, memory_bytes=9), Worker("h1", 1.0, memory_bytes=8), Worker("h2", 1.0, memory_bytes=5))
    paths = dict.fromkeys(itertools.permutations(("h0", "h1", "d"), 2), Path(1.0))
    instance = Instance.of(Problem(chain, workers, "d", paths))
    threshold = Threshold.of(instance, 100.0)
    assert threshold.possible
    sweep = LabelSweep(threshold, Deadline(60, lambda: 0.0))
    walk = sweep.walk(())
    assert walk is not None
    assert [step.kind for step in walk] == [1, 0, 1]
    assert sweep.repeated(walk) == {1}
    assert sweep.walk({1}) is None


def test_a_short_relay_stage_can_be_essential() -> None:
    """Ending each stage as far as it may go gives 1000 here; cutting only where fewer bits cross than later gives 2."""
    bits = [3.0] * 12
    bits[5], bits[6], bits[10] = 2.0, 1.0, 2.0
    chain = Chain(
        boundary_ops=tuple(range(12)),
        boundary_bits=tuple(bits),
        weight_bytes=(1,) * 11,
        activation_bytes=(0,) * 11,
        compute_s=(0.0,) * 11,
    )
    workers = (Worker("u", 1.0, memory_bytes=10), Worker("v", 1.0), Worker("w", 1.0))
    slow, fast = Path(0.001), Path(100.0)
    paths = dict.fromkeys(itertools.permutations(("u", "v", "w", "d"), 2), slow)
    paths |= {("u", "v"): Path(2.0), ("v", "w"): Path(1.0), ("d", "u"): fast, ("w", "d"): fast}
    problem = Problem(chain, workers, "d", paths)
    plan = exact.solve(problem)
    assert plan.bottleneck_s == 1.0
    assert [(stage.host, stage.first, stage.last) for stage in plan.stages] == [("u", 0, 5), ("v", 5, 6), ("w", 6, 11)]
    labels = Decision(Instance.of(problem), Deadline(60, lambda: 0.0), node_limit=0).plan(1.0)
    assert labels is not None
    assert len(labels) == 3


def test_of_equal_bottlenecks_the_shorter_pipeline_wins() -> None:
    """The answer's way back dominates: one host is as good as three, and quicker for a single request."""
    chain = Chain((0, 1, 2, 3), (1.0, 1.0, 1.0, 100.0), (1, 1, 1), (0, 0, 0), (1.0, 1.0, 1.0))
    names = ("a", "b", "c")
    paths = {pair: Path(10.0, 0.5) for pair in itertools.permutations((*names, "d"), 2)}
    plan = exact.solve(Problem(chain, tuple(Worker(name, 1.0) for name in names), "d", paths))
    assert plan.bottleneck_s == 10.0
    assert len(plan.stages) == 1
    assert plan.latency_s == pytest.approx(0.1 + 3 + 10 + 2 * 0.5)


def test_hosts_that_differ_only_in_delay_are_told_apart() -> None:
    chain = Chain((0, 1), (1.0, 1.0), (1,), (0,), (1.0,))
    paths = {
        ("d", "far"): Path(1.0, 0.9),
        ("far", "d"): Path(1.0, 0.9),
        ("d", "near"): Path(1.0, 0.1),
        ("near", "d"): Path(1.0, 0.1),
    }
    plan = exact.solve(Problem(chain, (Worker("far", 1.0), Worker("near", 1.0)), "d", paths))
    assert plan.stages[0].host == "near"


def test_nothing_takes_time() -> None:
    chain = Chain((0, 1, 2), (1.0, 1.0, 1.0), (1, 1), (0, 0), (0.0, 0.0))
    paths = {pair: Path(math.inf) for pair in itertools.permutations(("a", "d"), 2)}
    plan = exact.solve(Problem(chain, (Worker("a", 1.0),), "d", paths))
    assert plan.bottleneck_s == 0
    assert plan.gap == 0
    assert plan.throughput_rps == math.inf


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), hosts=st.integers(1, 7), segments=st.integers(1, 14))
def test_no_plan_breaks_a_constraint_and_its_costs_are_those_of_its_decision(
    seed: int, hosts: int, segments: int
) -> None:
    problem = draw(seed, hosts, segments)
    try:
        plan = exact.solve(problem)
    except InfeasibleError:
        return
    decision = tuple(Assignment(stage.host, stage.first, stage.last) for stage in plan.stages)
    assert violations(problem, decision) == ()
    assert evaluate(problem, decision, "exact", plan.lower_bound_s, plan.planning_s) == plan
    assert plan.lower_bound_s is not None
    assert plan.lower_bound_s <= plan.bottleneck_s


def medium(seed: int, hosts: int, segments: int, tightness: float) -> Problem:
    """A model that needs about ``1 / tightness`` of the hosts, hosts scattered over a field with wireless rates."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    weights = tuple(int(1e6 * 3 ** (5 * index / segments) * rng.uniform(0.5, 2)) for index in range(segments))
    bits = tuple(2e7 * 2 ** (-5 * index / segments) * rng.uniform(0.5, 2) for index in range(segments + 1))
    chain = Chain(
        boundary_ops=tuple(range(segments + 1)),
        boundary_bits=bits,
        weight_bytes=weights,
        activation_bytes=(0,) * segments,
        compute_s=tuple(0.2 / segments * rng.uniform(0.5, 2) for _ in range(segments)),
    )
    room = sum(weights) / hosts * tightness
    workers = tuple(
        Worker(f"h{index}", rng.choice([0.05, 0.1, 0.3]), int(max(room * rng.uniform(0.5, 2), 1.1 * max(weights))))
        for index in range(hosts)
    )
    names = [*(worker.name for worker in workers), "d"]
    place = {name: complex(rng.uniform(0, 150), rng.uniform(0, 150)) for name in names}
    paths = {
        (a, b): Path(1e6 * math.log2(1 + 283_230 / abs(place[a] - place[b]) ** 2), 0.002)
        for a, b in itertools.permutations(names, 2)
    }
    return Problem(chain, workers, "d", paths)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("tightness", [1.5, 3.0])
def test_medium_instances_are_proven(seed: int, tightness: float) -> None:
    problem = medium(seed, hosts=20, segments=60, tightness=tightness)
    plan = exact.solve(problem)
    assert plan.gap == 0
    decision = tuple(Assignment(stage.host, stage.first, stage.last) for stage in plan.stages)
    assert violations(problem, decision) == ()


class Ticking:
    """A clock on which a millisecond passes with each look."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 0.001
        return self.now_s


@pytest.mark.parametrize("limit_s", [0.02, 0.05, 0.1, 0.2, 0.4, 0.8])
def test_the_time_limit_is_kept_and_the_gap_is_honest(limit_s: float) -> None:
    """Every search looks at the clock and stops at the first look past the limit; no more than a few looks follow."""
    hard = loose()
    optimum_s = exact.solve(hard).bottleneck_s
    clock = Ticking()
    plan = _plan_or_none(replace(hard, time_limit_s=limit_s), clock)
    assert clock.now_s <= limit_s + 0.006
    if plan is not None:
        assert plan.lower_bound_s is not None
        assert plan.lower_bound_s <= optimum_s * (1 + 1e-9)
        assert plan.bottleneck_s >= optimum_s * (1 - 1e-9)
        assert plan.planning_s <= limit_s + 0.006


def _plan_or_none(problem: Problem, clock: Ticking) -> Plan | None:
    try:
        return exact.solve(problem, clock)
    except InfeasibleError:
        return None


def test_a_plan_cut_short_reports_a_gap() -> None:
    """Where the bound is loose, a limit in the middle of the proof leaves a plan with a gap between 0 and infinity."""
    gaps = []
    for looks in range(60, 3000, 60):
        plan = _plan_or_none(replace(loose(), time_limit_s=looks * 0.001), Ticking())
        if plan is not None and plan.gap is not None:
            gaps.append(plan.gap)
    assert any(0 < gap < math.inf for gap in gaps)
    assert gaps[-1] == 0


def loose(seed: int = 11, hosts: int = 8, segments: int = 24, dead: float = 0.0) -> Problem:
    """Unequal hosts, tight memory, links that cost nothing: the walk bound counts on the best host again and again."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    chain = Chain(
        boundary_ops=tuple(range(segments + 1)),
        boundary_bits=(1.0,) * (segments + 1),
        weight_bytes=tuple(rng.randint(8, 12) for _ in range(segments)),
        activation_bytes=(0,) * segments,
        compute_s=tuple(rng.uniform(0.5, 2) for _ in range(segments)),
    )
    room = 40 * 8 * segments // (24 * hosts)
    workers = tuple(Worker(f"h{index}", 0.1 + 0.05 * index, room + index) for index in range(hosts))
    paths = {
        pair: Path(1e6)
        for pair in itertools.permutations([*(worker.name for worker in workers), "d"], 2)
        if rng.random() >= dead
    }
    return Problem(chain, workers, "d", paths)


def test_no_time_at_all() -> None:
    with pytest.raises(InfeasibleError, match="no plan was found within 0 s"):
        exact.solve(replace(medium(0, 5, 10, 3.0), time_limit_s=0.0))


def test_a_deadline_ends_a_search_once_it_has_passed() -> None:
    times = iter([10.0, 10.5, 11.0])
    deadline = Deadline(1.0, lambda: next(times))
    deadline.check()
    with pytest.raises(OutOfTime):
        deadline.check()


def test_planning_runs_in_the_dispatcher_without_torch() -> None:
    code = "import sys, testbed.planning.strategies, testbed.planning.table; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

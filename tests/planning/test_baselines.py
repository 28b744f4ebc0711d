"""SEIFER's strategies and the single host: legal, seeded, never better than the optimum, clear without a plan."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.errors import InfeasibleError
from testbed.planning import joint_greedy, k_path, random_plan, single
from testbed.planning.evaluate import evaluate, violations
from testbed.planning.minsum import MinSum
from testbed.planning.plan import Assignment, Plan, Strategy
from testbed.planning.problem import Chain, Path, Problem, Worker
from testbed.planning.strategies import STRATEGIES, solve

MIB = 2**20
NAMES = ("single", "random", "joint-greedy", "k-path")


def draw(seed: int, hosts: int = 6, segments: int = 7, dead: float = 0.1) -> Problem:
    rng = random.Random(seed)  # noqa: S311 - no secret
    count, length = rng.randint(1, hosts), rng.randint(1, segments)
    chain = Chain(
        boundary_ops=tuple(range(length + 1)),
        boundary_bits=tuple(float(rng.randint(1, 20)) for _ in range(length + 1)),
        weight_bytes=tuple(rng.randint(0, 10) for _ in range(length)),
        activation_bytes=tuple(rng.randint(0, 5) for _ in range(length)),
        compute_s=tuple(rng.choice([0.0, 0.5, 1.0]) for _ in range(length)),
    )
    workers = tuple(
        Worker(
            f"h{index}",
            speed=rng.choice([0.1, 0.3, 1.0]),
            memory_bytes=rng.choice([None, *range(14, 45)]),
            storage_bytes=rng.choice([None, None, rng.randint(10, 30)]),
            overhead_bytes=rng.choice([0, 0, 2]),
        )
        for index in range(count)
    )
    paths = {
        pair: Path(rng.choice([1.0, 2.0, 5.0, 10.0]), rng.choice([0.0, 0.1]))
        for pair in itertools.permutations([*(worker.name for worker in workers), "d"], 2)
        if rng.random() >= dead
    }
    return Problem(chain, workers, "d", paths, max_stages=rng.choice([None, None, 2, 3]), seed=seed)


@given(seed=st.integers(0, 10**6), name=st.sampled_from(NAMES))
@settings(max_examples=400, deadline=None)
def test_a_plan_breaks_no_constraint_and_is_no_better_than_the_optimum(seed: int, name: str) -> None:
    problem = draw(seed)
    try:
        plan = solve(problem, name)
    except InfeasibleError:
        return
    assignments = [Assignment(stage.host, stage.first, stage.last) for stage in plan.stages]
    assert plan.strategy == name
    assert violations(problem, assignments) == ()
    assert plan.bottleneck_s == evaluate(problem, assignments, name, None, 0.0).bottleneck_s
    assert plan.bottleneck_s >= solve(problem, "exact").bottleneck_s * (1 - 1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_plans_are_really_found(name: str) -> None:
    found = 0
    for seed in range(100):
        try:
            found += len(solve(draw(seed), name).stages) > (0 if name == "single" else 1)
        except InfeasibleError:
            continue
    assert found > 15


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_plan(name: str) -> None:
    for seed in range(20):
        problem = draw(seed, dead=0)
        try:
            plans = [replace(solve(problem, name), planning_s=0.0) for _ in range(2)]
        except InfeasibleError:
            continue
        assert plans[0] == plans[1]


def test_other_seeds_draw_other_plans() -> None:
    problem = wireless(3, hosts=8)
    assert len({random_plan.solve(replace(problem, seed=seed)).stages for seed in range(20)}) > 10


def wireless(seed: int, hosts: int) -> Problem:
    """Equal hosts, each with room for two of six segments, at random rates that are equal both ways."""
    rng = np.random.default_rng(seed)
    chain = Chain(
        boundary_ops=tuple(range(7)),
        boundary_bits=tuple(float(bits) for bits in rng.integers(1, 30, 7)),
        weight_bytes=(10,) * 6,
        activation_bytes=(1,) * 6,
        compute_s=(0.0,) * 6,
    )
    names = [*(f"h{index}" for index in range(hosts)), "d"]
    paths = {}
    for pair in itertools.combinations(names, 2):
        paths[pair] = paths[pair[::-1]] = Path(float(rng.uniform(1, 20)))
    return Problem(chain, tuple(Worker(name, 1.0, 21) for name in names[:-1]), "d", paths, seed=seed)


def test_one_class_makes_k_path_the_placement_whose_slowest_link_is_fastest() -> None:
    """All transfers are of one class then, so it seeks the widest path; colour coding misses it once in e^10 times."""
    for seed in range(12):
        problem = wireless(seed, hosts=6)
        plan = k_path.solve(problem, classes=1)
        links = [("d", *(stage.host for stage in plan.stages), "d")]
        links += [
            ("d", *hosts, "d") for hosts in itertools.permutations([w.name for w in problem.workers], len(plan.stages))
        ]
        widths = [min(problem.paths[pair].rate_bps for pair in itertools.pairwise(way)) for way in links]
        assert widths[0] == max(widths), seed


def test_equal_transfers_make_k_path_optimal() -> None:
    for seed in range(12):
        problem = wireless(seed, hosts=6)
        problem = replace(problem, chain=replace(problem.chain, boundary_bits=(7.0,) * 7), max_stages=3)
        assert k_path.solve(problem).bottleneck_s == pytest.approx(solve(problem, "exact").bottleneck_s), seed


def test_k_path_places_the_heaviest_class_first() -> None:
    """The one heavy transfer gets the fastest link, whatever that costs the light ones."""
    chain = Chain((0, 1, 2, 3), (1.0, 1.0, 100.0, 1.0), (1,) * 3, (0,) * 3, (0.0,) * 3)
    names = ("h0", "h1", "h2", "h3", "d")
    paths = dict.fromkeys(itertools.permutations(names, 2), Path(1.0))
    paths["h2", "h1"] = Path(50.0)
    problem = Problem(chain, tuple(Worker(name, 1.0, 1) for name in names[:-1]), "d", paths)
    plan = k_path.solve(problem)
    assert [stage.host for stage in plan.stages[1:]] == ["h2", "h1"]
    assert plan.bottleneck_s == 2.0


def test_joint_greedy_takes_the_fastest_link_at_each_hop_and_the_best_start() -> None:
    chain = Chain((0, 1, 2, 3), (1.0, 10.0, 10.0, 1.0), (1,) * 3, (0,) * 3, (0.0,) * 3)
    names = ("a", "b", "c", "d")
    rates = {("a", "b"): 9.0, ("b", "c"): 1.0, ("a", "c"): 5.0}
    paths = {pair: Path(rates.get(pair, rates.get(pair[::-1], 10.0))) for pair in itertools.permutations(names, 2)}
    plan = joint_greedy.solve(Problem(chain, tuple(Worker(name, 1.0, 1) for name in names[:-1]), "d", paths))
    # From a: a, b, c at 1; from b: b, a, c at 5; from c: c, a, b at 5. The first of the best is kept.
    assert [stage.host for stage in plan.stages] == ["b", "a", "c"]
    assert plan.bottleneck_s == 2.0


@pytest.mark.parametrize("seed", range(60))
def test_the_partition_has_the_least_sum_of_all_that_fit(seed: int) -> None:
    problem = draw(seed, dead=0)
    chain, workers = problem.chain, problem.workers
    most = min(len(workers), chain.segments, problem.max_stages or len(workers))
    sums = []
    for stages in range(1, most + 1):
        for cuts in itertools.combinations(range(1, chain.segments), stages - 1):
            bounds = list(itertools.pairwise((0, *cuts, chain.segments)))
            anywhere = not any(
                "memory" in fault or "storage" in fault
                for worker in workers
                for first, last in bounds
                for fault in violations(problem, [Assignment(worker.name, first, last)])
            )
            if anywhere:
                sums.append(sum(chain.boundary_bits[cut] for cut in cuts))
    if not sums:
        with pytest.raises(InfeasibleError):
            MinSum().partition(problem, "k-path")
        return
    found = MinSum().partition(problem, "k-path")
    assert len(found) - 1 <= most
    assert sum(chain.boundary_bits[cut] for cut in found[1:-1]) == min(sums)


def test_single_takes_the_best_host_that_has_room() -> None:
    problem = wireless(0, hosts=3)
    workers = tuple(
        replace(worker, speed=speed, memory_bytes=memory)
        for worker, speed, memory in zip(problem.workers, (1.0, 0.5, 0.2), (60, 61, None), strict=True)
    )
    heavy = replace(problem, workers=workers, chain=replace(problem.chain, compute_s=(9.0,) * 6))
    plan = single.solve(heavy)
    assert [stage.host for stage in plan.stages] == ["h1"]
    with pytest.raises(InfeasibleError) as caught:
        single.solve(replace(heavy, workers=workers[:1]))
    assert str(caught.value) == (
        "single: the whole model needs 61B of memory; h0, the host that comes closest, has 60B: short by 1B\n"
        "give h0 at least 61B of memory, or use the strategy exact"
    )


def test_single_without_a_way_back() -> None:
    problem = wireless(0, hosts=2)
    paths = {pair: path for pair, path in problem.paths.items() if pair[1] != "d"}
    with pytest.raises(InfeasibleError, match="no host has a way both from and to d"):
        single.solve(replace(problem, paths=paths))


@pytest.mark.parametrize("name", NAMES)
def test_no_host(name: str) -> None:
    with pytest.raises(InfeasibleError, match="no host is left"):
        solve(replace(wireless(0, hosts=2), workers=()), name)


@pytest.mark.parametrize("name", ["random", "joint-greedy", "k-path"])
def test_the_smallest_host_rules(name: str) -> None:
    problem = wireless(0, hosts=3)
    small = (*problem.workers[:2], replace(problem.workers[2], memory_bytes=9))
    with pytest.raises(InfeasibleError, match="doesn't fit the smallest host"):
        solve(replace(problem, workers=small), name)
    with pytest.raises(InfeasibleError, match="are at least 3; 2 are possible"):
        solve(replace(problem, max_stages=2), name)


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        (random_plan.solve, "no 3 of the 3 hosts are linked in a row"),
        (joint_greedy.solve, "every walk over 3 hosts"),
        (k_path.solve, "no path of"),
    ],
)
def test_hosts_that_can_not_reach_each_other(strategy: Strategy, words: str) -> None:
    problem = wireless(0, hosts=3)
    paths = {pair: path for pair, path in problem.paths.items() if "d" in pair}
    with pytest.raises(InfeasibleError, match=words):
        strategy(replace(problem, paths=paths))


def test_k_path_says_where_colour_coding_ends() -> None:
    chain = Chain(tuple(range(21)), (1.0,) * 21, (1,) * 20, (0,) * 20, (0.0,) * 20)
    names = [*(f"h{index}" for index in range(20)), "d"]
    paths = dict.fromkeys(itertools.permutations(names, 2), Path(1.0))
    with pytest.raises(InfeasibleError, match="a run of 22 hosts"):
        k_path.solve(Problem(chain, tuple(Worker(name, 1.0, 1) for name in names[:-1]), "d", paths))


def test_every_strategy_is_registered() -> None:
    plans: list[Plan] = [STRATEGIES[name](draw(8, dead=0)) for name in ("exact", "random")]
    assert [plan.strategy for plan in plans] == ["exact", "random"]
    assert set(NAMES) <= set(STRATEGIES)

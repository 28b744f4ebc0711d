"""DNNSplit's rule: how few candidates there are, that they suffice where they should, and where they don't."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from testbed.errors import InfeasibleError, UsageError
from testbed.planning import dnnsplit, exact
from testbed.planning.dnnsplit import Splitter, best_split, broken_preconditions, candidates, tiers_of
from testbed.planning.evaluate import evaluate, violations
from testbed.planning.plan import Assignment
from testbed.planning.problem import Chain, Path, Problem, Worker


def _resnet152() -> Iterator[int]:
    """Output sizes of Keras' layers in values, the input first."""
    yield from (3 * 224**2, 3 * 230**2, *[64 * 112**2] * 3, 64 * 114**2, 64 * 56**2)
    for filters, side, blocks in ((64, 56, 3), (128, 28, 8), (256, 14, 36), (512, 7, 3)):
        inner, outer = filters * side**2, 4 * filters * side**2
        for block in range(blocks):
            yield from [inner] * 6
            yield from [outer] * (6 if block == 0 else 4)  # a convolution and its normalisation in the first shortcut
    yield from (2048, 1000)


def _vgg16() -> Iterator[int]:
    yield 3 * 224**2
    for filters, side, layers in ((64, 224, 2), (128, 112, 2), (256, 56, 3), (512, 28, 3), (512, 14, 3)):
        yield from [filters * side**2] * layers
        yield filters * (side // 2) ** 2
    yield from (512 * 7**2, 4096, 4096, 1000)


def test_the_published_counts() -> None:
    """517 layers and 5 points of ResNet152, 4 of VGG16, by sizes of layers; the raw input is none of them."""
    resnet152, vgg16 = list(_resnet152()), list(_vgg16())
    assert len(resnet152) == 517
    assert [resnet152[point] for point in candidates(resnet152)[1:]] == [100352, 50176, 25088, 2048, 1000]
    assert len(vgg16) == 23
    assert [vgg16[point] for point in candidates(vgg16)[1:]] == [100352, 25088, 4096, 1000]


def test_equal_sizes_are_no_new_candidate() -> None:
    assert candidates([5, 5, 7, 4, 4, 6, 3]) == (0, 3, 6)
    assert candidates([1, 2, 3]) == (0,)


def _tiers(seed: int) -> Problem:
    """Hosts along a line from device to cloud: faster and cheaper upwards, with room for the whole model above."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    length, count = rng.randint(2, 14), rng.randint(2, 4)
    chain = Chain(
        tuple(range(length + 1)),
        tuple(float(rng.randint(1, 30)) for _ in range(length + 1)),
        tuple(rng.randint(0, 9) for _ in range(length)),
        tuple(rng.randint(0, 3) for _ in range(length)),
        tuple(rng.choice([0.0, 0.5, 1.0, 2.0, 4.0]) for _ in range(length)),
    )
    speeds = sorted(rng.choice([0.2, 0.5, 1.0, 2.0, 4.0, 8.0]) for _ in range(count))
    prices = sorted((rng.uniform(0.1, 3) for _ in range(count)), reverse=True)
    workers = []
    for tier in range(count):
        for twin in range(rng.choice([1, 1, 2])):
            workers.append(
                Worker(
                    f"t{tier}{'ab'[twin]}",
                    speeds[tier],
                    memory_bytes=rng.choice([None, 30, 20]) if tier == 0 else None,
                    price_per_s=prices[tier] * speeds[tier],
                    tier=tier,
                )
            )
    hops = [
        (rng.choice([2.0, 5.0, 10.0, 40.0]), rng.choice([0.0, 0.1, 0.4]), rng.uniform(0, 0.1)) for _ in range(count)
    ]
    paths = {}
    places = [("d", -1), *((worker.name, worker.tier or 0) for worker in workers)]
    for (source, low), (target, high) in itertools.permutations(places, 2):
        crossed = hops[min(low, high) + 1 : max(low, high) + 1] or [(100.0, 0.0, 0.0)]
        rate = min(hop[0] for hop in crossed)
        paths[source, target] = Path(rate, sum(hop[1] for hop in crossed), None, sum(hop[2] for hop in crossed))
    objective = rng.choice(["latency", "cost"])
    return Problem(chain, tuple(workers), "d", paths, rng.choice([None, None, 2]), objective=objective)


def _least(problem: Problem) -> float | None:
    """The least objective over every cut and every choice of hosts of rising tiers, one by one."""
    tiers = dict(zip((worker.name for worker in problem.workers), tiers_of(problem), strict=True))
    segments, best = problem.chain.segments, None
    for stages in range(1, min(len(set(tiers.values())), segments, problem.max_stages or segments) + 1):
        for hosts in itertools.permutations(tiers, stages):
            if any(tiers[a] >= tiers[b] for a, b in itertools.pairwise(hosts)):
                continue
            for cuts in itertools.combinations(range(1, segments), stages - 1):
                bounds = (0, *cuts, segments)
                decision = [
                    Assignment(host, *pair) for host, pair in zip(hosts, itertools.pairwise(bounds), strict=True)
                ]
                if not violations(problem, decision):
                    found = _objective(problem, decision)
                    best = found if best is None else min(best, found)
    return best


def _objective(problem: Problem, decision: list[Assignment] | tuple[Assignment, ...]) -> float:
    plan = evaluate(problem, decision, "x", None, 0.0)
    return plan.cost if problem.objective == "cost" else plan.latency_s


def test_under_its_preconditions_the_candidates_suffice() -> None:
    """1,000 random settings: the best split at the candidates is the best split at any cut."""
    fewer = split = 0
    for seed in range(1000):
        problem = _tiers(seed)
        assert broken_preconditions(problem) == (), seed
        splitter = Splitter.of(problem)
        restricted = splitter.decide(problem)
        everywhere = best_split(problem, range(problem.chain.segments + 1))
        assert everywhere is not None
        found = restricted.cost if problem.objective == "cost" else restricted.latency_s
        assert found == pytest.approx(_objective(problem, everywhere), rel=1e-9), seed
        if seed < 60:
            assert found == pytest.approx(_least(problem), rel=1e-9), seed
        fewer += len(splitter.cuts) - 1 < problem.chain.segments - 1
        split += len(restricted.stages) > 1
    assert fewer > 900
    assert split > 100


CHAIN = Chain((0, 1, 2, 3), (9.0, 5.0, 6.0, 1.0), (4, 4, 4), (0, 0, 0), (1.0, 1.0, 4.0))
"""Boundary 2 is no candidate: more bits cross it than boundary 1."""


def _two(low: Worker, high: Worker) -> Problem:
    pairs = dict.fromkeys(itertools.permutations(("low", "high", "d"), 2), Path(5.0))
    pairs[("d", "low")] = pairs[("low", "d")] = Path(math.inf)
    return Problem(CHAIN, (low, high), "d", pairs)


def test_a_higher_tier_that_is_slower_breaks_it_and_the_plan_says_so() -> None:
    problem = _two(Worker("low", 1.0, memory_bytes=8, tier=0), Worker("high", 0.2, tier=3))
    plan = dnnsplit.solve(problem)
    assert [stage.first for stage in plan.stages] == [0, 1]
    assert plan.latency_s > (_least(problem) or 0) * 1.1
    assert "high is slower than low, a tier below it" in plan.notes[1]


def test_too_little_memory_above_breaks_it() -> None:
    problem = _two(Worker("low", 1.0, memory_bytes=8, tier=0), Worker("high", 2.0, memory_bytes=4, tier=3))
    assert broken_preconditions(problem) == ("high can't hold the whole model",)
    assert _least(problem) is not None
    with pytest.raises(InfeasibleError, match=r"no split at its 2 candidate cuts.*high can't hold the whole model"):
        dnnsplit.solve(problem)


def test_a_slow_direct_way_breaks_it() -> None:
    """Two tiers above the device; the dispatcher's way to the cloud is slower than by way of the device."""
    problem = _two(Worker("low", 1.0, memory_bytes=8, tier=0), Worker("high", 100.0, tier=3))
    paths = {**problem.paths, ("d", "high"): Path(0.5), ("low", "high"): Path(1e6)}
    chain = replace(CHAIN, boundary_bits=(9.0, 10.0, 11.0, 1.0))
    problem = replace(problem, chain=chain, paths=paths)
    assert broken_preconditions(problem) == ("from d to high is faster by way of low",)
    plan = dnnsplit.solve(problem)
    assert plan.latency_s > (_least(problem) or 0) * 2


def test_it_does_not_hold_for_throughput() -> None:
    """All preconditions hold, latency is least, and yet another cut gives more throughput: a tier is overloaded."""
    problem = _two(Worker("low", 1.0, tier=0), Worker("high", 1.0, tier=3))
    problem = replace(problem, chain=replace(CHAIN, compute_s=(1.0, 3.0, 4.0)))
    assert broken_preconditions(problem) == ()
    plan = dnnsplit.solve(problem)
    assert plan.latency_s == pytest.approx(_least(problem))
    assert plan.bottleneck_s > exact.solve(problem).bottleneck_s * 1.5


def test_hosts_of_one_tier_are_not_what_it_is_for() -> None:
    problem = _two(Worker("low", 1.0), Worker("high", 1.0))
    plan = dnnsplit.solve(problem)
    assert len(plan.stages) == 1
    assert "all hosts are of one tier" in plan.notes[1]


def test_tiers_are_declared_or_follow_from_speed() -> None:
    workers = (Worker("a", 0.5), Worker("b", 0.1), Worker("c", 0.5), Worker("e", 2.0))
    problem = Problem(CHAIN, workers, "d", {})
    assert tiers_of(problem) == (1, 0, 1, 2)
    mixed = replace(problem, workers=(replace(workers[0], tier=1), *workers[1:]))
    with pytest.raises(UsageError, match="b has no tier"):
        tiers_of(mixed)


def test_it_decides_anew_when_a_rate_changes() -> None:
    """The same few candidates, the best of them for each rate; equal to what a search over all cuts finds."""
    chain = Chain((0, 1, 2, 3, 4), (8e6, 16e6, 2e6, 4e5, 1e3), (0,) * 4, (0,) * 4, (0.05, 0.10, 0.30, 0.20))
    workers = (Worker("device", 0.2, tier=0), Worker("cloud", 4.0, tier=3))
    problem = Problem(chain, workers, "d", {})
    splitter = Splitter.of(problem)
    assert splitter.cuts == (0, 2, 3, 4)
    cuts = []
    for rate_bps in (1e9, 2e6, 1e5):
        far = {pair: Path(rate_bps, 0.01) for pair in itertools.permutations(("device", "cloud", "d"), 2)}
        far[("d", "device")] = far[("device", "d")] = Path(math.inf)
        now = replace(problem, paths=far)
        plan = splitter.decide(now)
        assert plan.latency_s == pytest.approx(_least(now))
        cuts.append([(stage.host, stage.last) for stage in plan.stages])
    assert cuts == [[("cloud", 4)], [("device", 2), ("cloud", 4)], [("device", 4)]]


def test_cost_needs_prices() -> None:
    problem = replace(_two(Worker("low", 1.0), Worker("high", 2.0)), objective="cost")
    with pytest.raises(UsageError, match="no host or link has a price"):
        dnnsplit.solve(problem)

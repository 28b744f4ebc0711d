"""Fronts against brute force, NSGA-II against complete fronts, and what weights pick."""

from __future__ import annotations

import itertools
import random
import sys
from dataclasses import replace

import numpy as np
import pytest

from testbed.errors import InfeasibleError, UsageError
from testbed.planning import exact, min_latency, pareto
from testbed.planning.evaluate import evaluate, violations
from testbed.planning.plan import Assignment
from testbed.planning.problem import Chain, Path, Problem, Worker
from testbed.planning.tradeoff import AIMS, choose, figures, nondominated
from tests.planning.drawing import decisions, draw

Point = tuple[float, ...]


def _everything(problem: Problem, aims: tuple[str, ...]) -> list[Point]:
    found = []
    for decision in decisions(problem):
        of = figures(problem, evaluate(problem, decision, "all", None, 0.0))
        found.append(tuple(round(of[aim], 9) for aim in aims))
    return found


def _unbeaten(points: list[Point]) -> set[Point]:
    """As the definition has it, one point against all others."""
    distinct = set(points)
    return {
        point
        for point in distinct
        if not any(other != point and all(a <= b for a, b in zip(other, point, strict=True)) for other in distinct)
    }


@pytest.mark.parametrize(
    "aims", [tuple(AIMS), ("latency", "throughput"), ("energy",), ("memory", "traffic", "energy")], ids=",".join
)
def test_the_front_equals_brute_force(aims: tuple[str, ...]) -> None:
    infeasible, sizes = 0, []
    for seed in range(90):
        problem = draw(seed, hosts=4, segments=5)
        rng = random.Random(seed)  # noqa: S311 - no secret
        losses = {
            worker.name: tuple(rng.choice([0.0, 0.5, 1.0]) for _ in range(problem.chain.segments))
            for worker in problem.workers[1:]
        }
        problem = replace(problem, accuracy_loss=losses)
        expected = _unbeaten(_everything(problem, aims))
        if not expected:
            infeasible += 1
            with pytest.raises(InfeasibleError):
                pareto.front(problem, aims)
            continue
        found = pareto.front(problem, aims)
        assert found.complete
        assert {tuple(round(figure, 9) for figure in point) for point in found.values} == expected, seed
        assert len(found.plans) == len(expected), seed
        sizes.append(len(expected))
    assert infeasible > 5
    assert max(sizes) > (1 if len(aims) == 1 else 2) or aims == ("energy",)


def _unequal(seed: int, hosts: int, segments: int) -> Problem:
    rng = random.Random(seed)  # noqa: S311 - no secret
    chain = Chain(
        tuple(range(segments + 1)),
        tuple(rng.uniform(1, 20) * 1e5 for _ in range(segments + 1)),
        tuple(rng.randint(1, 9) for _ in range(segments)),
        (0,) * segments,
        tuple(rng.uniform(0.001, 0.02) for _ in range(segments)),
    )
    workers = tuple(Worker(f"h{i}", rng.uniform(0.1, 1), power_w=rng.uniform(1, 9)) for i in range(hosts))
    names = [*(worker.name for worker in workers), "d"]
    paths = {pair: Path(rng.uniform(2e6, 50e6), 0.002) for pair in itertools.permutations(names, 2)}
    return Problem(chain, workers, "d", paths)


def test_nsga_comes_close_to_the_complete_front() -> None:
    """Hypervolume in two aims, which a front is worth: all that it beats up to the worst point of both."""
    for seed in range(3):
        problem = _unequal(seed, hosts=3, segments=14)
        complete = pareto.front(problem, ("throughput", "energy"))
        found = pareto.front(problem, ("throughput", "energy"), clock=lambda: 0.0, most_labels=0)
        assert complete.complete
        assert not found.complete
        worst = np.array([*complete.values, *found.values]).max(axis=0) * 1.01
        assert _area(found.values, worst) > 0.97 * _area(complete.values, worst)
        assert _area(found.values, worst) < (1 + 1e-9) * _area(complete.values, worst)
        for plan in found.plans:
            chosen = [Assignment(stage.host, stage.first, stage.last) for stage in plan.stages]
            assert violations(problem, chosen) == ()
        assert set(found.values) == _unbeaten(list(found.values))


def _area(points: tuple[Point, ...], worst: np.ndarray) -> float:  # type: ignore[type-arg]
    area, height = 0.0, float(worst[1])
    for x, y in sorted(points):
        area += (float(worst[0]) - x) * (height - y)
        height = y
    return area


def test_nsga_is_the_same_for_the_same_seed() -> None:
    problem = replace(_unequal(5, hosts=4, segments=10), max_stages=3)
    first, second = (pareto.front(problem, clock=lambda: 0.0, most_labels=0) for _ in range(2))
    assert first.values == second.values
    other = pareto.front(replace(problem, seed=9), clock=lambda: 0.0, most_labels=0)
    assert other.values != first.values


def test_nsga_keeps_to_memory_and_reach() -> None:
    checked = 0
    for seed in range(12):
        problem = draw(seed)
        try:
            found = pareto.front(problem, clock=lambda: 0.0, most_labels=0)
        except InfeasibleError:
            assert not list(decisions(problem))
            continue
        for plan in found.plans:
            chosen = [Assignment(stage.host, stage.first, stage.last) for stage in plan.stages]
            assert violations(problem, chosen) == (), seed
            checked += 1
    assert checked > 10


def test_without_pymoo_a_large_front_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymoo.algorithms.moo.nsga2", None)
    with pytest.raises(UsageError, match=r"edge-inference-testbed\[pareto\]"):
        pareto.front(_unequal(0, 3, 5), most_labels=0)


def test_a_single_weight_is_the_best_in_that_aim() -> None:
    for seed in range(8):
        problem = _unequal(seed, hosts=3, segments=12)
        fast = pareto.solve(replace(problem, weights={"throughput": 2.0}))
        assert fast.bottleneck_s == pytest.approx(exact.solve(problem).bottleneck_s)
        short = pareto.solve(replace(problem, weights={"latency": 1.0, "energy": 0.0}))
        assert short.latency_s == pytest.approx(min_latency.solve(problem).latency_s)
        assert short.strategy == "pareto"
        assert "no other beats in latency" in short.notes[0]


def test_weights_move_the_choice_along_the_front() -> None:
    problem = _unequal(1, hosts=3, segments=12)
    by_energy = [
        pareto.solve(replace(problem, weights={"throughput": 1.0, "energy": weight}))
        for weight in (0.01, 0.3, 1.0, 3.0, 100.0)
    ]
    energies, bottlenecks = [plan.energy_j for plan in by_energy], [plan.bottleneck_s for plan in by_energy]
    assert energies == sorted(energies, reverse=True)
    assert bottlenecks == sorted(bottlenecks)
    assert energies[0] > energies[-1]


def test_a_choice_is_scaled_by_the_front() -> None:
    values = np.array([[1.0, 3000.0], [1.5, 1100.0], [2.0, 1000.0]])
    assert choose(values, (1.0, 1.0)) == 1
    assert choose(values, (1.0, 0.0)) == 0
    assert choose(values, (0.0, 1.0)) == 2
    assert choose(values[:1], (1.0, 1.0)) == 0


def test_of_equal_rows_one_stays() -> None:
    values = np.array([[2.0, 1.0], [1.0, 2.0], [1.0, 2.0], [2.0, 2.0]])
    assert nondominated(values).tolist() == [True, True, False, False]


def test_an_unknown_aim_is_named() -> None:
    with pytest.raises(UsageError, match="no aim 'speed'"):
        pareto.front(_unequal(0, 2, 3), ("speed",))
    with pytest.raises(UsageError, match="at least one aim"):
        pareto.front(_unequal(0, 2, 3), ())

"""The energy model, worked out by hand."""

from __future__ import annotations

import itertools
import json
import math

import pytest

from testbed.planning.energy import DEFAULT_POWER_W, ethernet_j_per_bit
from testbed.planning.evaluate import evaluate
from testbed.planning.plan import Assignment
from testbed.planning.problem import Chain, Link, Path, Problem, Worker
from testbed.serving.process import problem_from_json, problem_to_json

CHAIN = Chain((0, 1, 2), (8e6, 1e6, 1e3), (0, 0), (0, 0), (0.5, 1.0))


def _problem(workers: tuple[Worker, ...], path: Path) -> Problem:
    pairs = itertools.permutations([*(worker.name for worker in workers), "d"], 2)
    return Problem(CHAIN, workers, "d", dict.fromkeys(pairs, path))


def test_compute_power_times_time_and_bits_times_their_energy() -> None:
    workers = (Worker("a", 0.5, power_w=3.0, price_per_s=2.0), Worker("b", 2.0))
    problem = _problem(workers, Path(1e6, 0.0, energy_j_per_bit=1e-7, price_per_bit=1e-6))
    plan = evaluate(problem, (Assignment("a", 0, 1), Assignment("b", 1, 2)), "x", None, 0.0)
    assert plan.energy_j == pytest.approx(3.0 * 1.0 + DEFAULT_POWER_W * 0.5 + 1e-7 * (8e6 + 1e6 + 1e3))
    assert plan.cost == pytest.approx(2.0 * 1.0 + 1e-6 * (8e6 + 1e6 + 1e3))


def test_without_figures_a_path_is_ethernet_of_its_rate() -> None:
    problem = _problem((Worker("a", 1.0, power_w=0.0),), Path(1e9))
    plan = evaluate(problem, (Assignment("a", 0, 2),), "x", None, 0.0)
    assert plan.energy_j == pytest.approx(0.6e-9 * (8e6 + 1e3))


@pytest.mark.parametrize(
    ("rate_bps", "nanojoules"), [(1e4, 2.0), (100e6, 2.0), (101e6, 0.6), (10e9, 0.4), (math.inf, 0.4)]
)
def test_ethernet_as_cnnparted_has_it(rate_bps: float, nanojoules: float) -> None:
    assert ethernet_j_per_bit(rate_bps) == pytest.approx(nanojoules * 1e-9)


def test_the_dispatcher_gets_all_of_it_as_json() -> None:
    links = (Link("d → s", 2e6), Link("s → a", 1e6))
    path = Path(1e6, 0.1, energy_j_per_bit=1e-7, price_per_bit=1e-6, links=links)
    problem = Problem(
        CHAIN,
        (Worker("a", 0.5, power_w=3.0, price_per_s=2.0, tier=1),),
        "d",
        {("d", "a"): path, ("a", "d"): Path(math.inf)},
        weights={"latency": 1.0},
        accuracy_loss={"a": (0.5, 0.25)},
        stages_per_host=2,
    )
    assert problem_from_json(json.loads(json.dumps(problem_to_json(problem)))) == problem

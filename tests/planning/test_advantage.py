"""By what a strategy calls one plan better: what it is for."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest

from testbed.planning.advantage import advantage, keeps_up
from testbed.planning.evaluate import evaluate
from testbed.planning.plan import Assignment, Plan
from testbed.planning.problem import Chain, Path, Problem, Worker

CHAIN = Chain((0, 1, 2), (1e6, 1e6, 1e3), (2, 2), (0, 0), (0.1, 0.1))
PROBLEM = Problem(
    CHAIN,
    (Worker("a", 1.0, price_per_s=1.0), Worker("b", 1.0, price_per_s=3.0)),
    "d",
    dict.fromkeys(itertools.permutations(("a", "b", "d"), 2), Path(1e7)),
)


def plan(*stages: tuple[str, int, int]) -> Plan:
    return evaluate(PROBLEM, [Assignment(*stage) for stage in stages], "x", None, 0.0)


ALONE, SPLIT = plan(("a", 0, 2)), plan(("a", 0, 1), ("b", 1, 2))


def test_throughput_latency_or_cost() -> None:
    faster = ALONE.bottleneck_s / SPLIT.bottleneck_s
    sooner = ALONE.latency_s / SPLIT.latency_s
    assert faster == pytest.approx(2.0)
    assert sooner < 1
    for strategy in ("exact", "even", "k-path"):
        assert advantage(PROBLEM, strategy, SPLIT, ALONE) == pytest.approx(faster)
    for strategy in ("min-latency", "dnnsplit", "dynamic"):
        assert advantage(PROBLEM, strategy, SPLIT, ALONE) == pytest.approx(sooner)
        assert advantage(PROBLEM, strategy, ALONE, SPLIT) == pytest.approx(1 / sooner)
    by_cost = replace(PROBLEM, objective="cost")
    assert advantage(by_cost, "dnnsplit", SPLIT, ALONE) == pytest.approx(0.5)


def test_dynamic_counts_throughput_where_one_of_them_does_not_keep_up() -> None:
    asked = replace(PROBLEM, demand_rps=8.0)
    assert keeps_up(asked, SPLIT)
    assert not keeps_up(asked, ALONE)
    assert advantage(asked, "dynamic", SPLIT, ALONE) == pytest.approx(2.0)
    assert advantage(replace(PROBLEM, demand_rps=4.0), "dynamic", SPLIT, ALONE) < 1


def test_pareto_weighs_all_its_aims() -> None:
    weighed = replace(PROBLEM, weights={"latency": 1.0, "throughput": 3.0})
    sooner = ALONE.latency_s / SPLIT.latency_s
    assert advantage(weighed, "pareto", SPLIT, ALONE) == pytest.approx((sooner * 2.0**3) ** 0.25)
    assert advantage(PROBLEM, "pareto", ALONE, ALONE) == 1.0


def test_a_loss_of_accuracy_where_there_was_none_is_never_made_up_for() -> None:
    lossy = replace(PROBLEM, weights={"accuracy": 1.0, "throughput": 9.0}, accuracy_loss={"b": (0.0, 2.0)})
    assert advantage(lossy, "pareto", SPLIT, ALONE) == 0.0
    assert advantage(lossy, "pareto", ALONE, SPLIT) == math.inf

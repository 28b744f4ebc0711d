"""Strategies side by side."""

from __future__ import annotations

from dataclasses import replace

import pytest

from testbed.errors import UsageError
from testbed.planning.comparison import compare, named
from testbed.planning.strategies import STRATEGIES
from tests.planning.drawing import decisions, draw
from tests.planning.test_strategies import PROBLEM


def test_each_has_a_plan_or_a_reason_and_a_gap_to_the_proven_optimum() -> None:
    infeasible = planned = 0
    for seed in range(40):
        problem = replace(draw(seed), time_limit_s=5)
        found = compare(problem, ("even", "exact", "min-latency", "dynamic", "dnnsplit", "single"))
        possible = any(True for _ in decisions(problem))
        for contender in found:
            if contender.plan is None:
                assert contender.reason
                assert "\n" not in contender.reason
                assert contender.gap is None
                infeasible += 1
            else:
                assert possible
                assert contender.gap is not None
                assert contender.gap >= 0
                planned += 1
        best = found[1]
        assert (best.plan is not None) == possible
        assert best.gap == (0 if possible else None)
    assert infeasible > 20
    assert planned > 60


def test_the_bound_is_there_also_when_exact_was_not_asked_for() -> None:
    (even,) = compare(PROBLEM, ("even",))
    assert even.strategy == "even"
    assert even.gap == 0
    slow = replace(PROBLEM, workers=(replace(PROBLEM.workers[0], speed=0.001), PROBLEM.workers[1]))
    (even,) = compare(slow, ("even",))
    exact = compare(slow, ("exact",))[0].plan
    assert even.plan is not None
    assert exact is not None
    assert even.gap == pytest.approx(even.plan.bottleneck_s / exact.bottleneck_s - 1)


def test_names() -> None:
    assert named("all") == tuple(STRATEGIES)
    assert named("even, exact,even") == ("even", "exact")
    with pytest.raises(UsageError, match="no planning strategy 'evn'; did you mean 'even'"):
        named("exact,evn")
    with pytest.raises(UsageError, match="no planning strategy ''"):
        named("")

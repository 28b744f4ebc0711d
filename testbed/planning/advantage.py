"""By how much a strategy calls one plan better than another: what a change of plan must bring, by what it is for.

Most strategies are for throughput. Those for latency, for cost or for several aims would give up what they are for if a
change of theirs were judged by throughput: the least latency often has a larger bottleneck than the plan before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from testbed.planning.plan import Plan
from testbed.planning.problem import Problem
from testbed.planning.threshold import TOLERANCE
from testbed.planning.tradeoff import DEFAULT_WEIGHTS, figures

MINDS_DEMAND = frozenset({"dynamic"})
"""Strategies whose choice depends on how many requests are asked for."""


def keeps_up(problem: Problem, plan: Plan) -> bool:
    """Whether a plan answers as many requests a second as are asked for."""
    return plan.bottleneck_s * problem.demand_rps <= 1 + TOLERANCE


def advantage(problem: Problem, strategy: str, plan: Plan, other: Plan) -> float:
    """How many times better ``plan`` is than ``other`` for what a strategy is for; below 1 it is worse.

    It is the ratio of their bottlenecks, for most strategies; of their latencies for ``min-latency`` and ``dnnsplit``
    (or of their costs, if that is its objective); for ``dynamic`` of their latencies if both keep up with the demand,
    else of their bottlenecks. For ``pareto`` it is the geometric mean of the ratios for all aims that have a weight, by
    their weights, so that no unit matters.
    """
    mine = {**figures(problem, plan), "cost": plan.cost}
    others = {**figures(problem, other), "cost": other.cost}
    weights = _weights(problem, strategy, plan, other)
    ratios = [(_ratio(others[aim], mine[aim]), weight) for aim, weight in weights.items() if weight > 0]
    if any(ratio == 0 for ratio, _ in ratios):
        return 0.0
    total = math.fsum(weight for _, weight in ratios)
    return math.exp(math.fsum(weight / total * math.log(ratio) for ratio, weight in ratios))


def _weights(problem: Problem, strategy: str, plan: Plan, other: Plan) -> Mapping[str, float]:
    match strategy:
        case "min-latency":
            return {"latency": 1.0}
        case "dnnsplit":
            return {"cost" if problem.objective == "cost" else "latency": 1.0}
        case "dynamic" if keeps_up(problem, plan) and keeps_up(problem, other):
            return {"latency": 1.0}
        case "pareto":
            return problem.weights or DEFAULT_WEIGHTS
        case _:
            return {"throughput": 1.0}


def _ratio(before: float, now: float) -> float:
    if before == now:
        return 1.0
    return before / now if now else math.inf

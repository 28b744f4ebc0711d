"""The planning strategies by name: what ``placement.strategy`` may say."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from testbed.errors import UsageError
from testbed.planning import (
    dnnsplit,
    dynamic,
    even,
    exact,
    joint_greedy,
    k_path,
    min_latency,
    pareto,
    random_plan,
    single,
)
from testbed.planning.plan import Plan, Strategy
from testbed.planning.problem import Problem

STRATEGIES: Mapping[str, Strategy] = MappingProxyType(
    {
        "exact": exact.solve,
        "even": even.solve,
        "single": single.solve,
        "random": random_plan.solve,
        "joint-greedy": joint_greedy.solve,
        "k-path": k_path.solve,
        "min-latency": min_latency.solve,
        "pareto": pareto.solve,
        "dnnsplit": dnnsplit.solve,
        "dynamic": dynamic.solve,
    }
)

ACROSS_BRANCHES = frozenset({"min-latency"})
"""Strategies that also cut where several tensors cross, at the best places for two tiers of hosts."""


def strategy_named(name: str) -> Strategy:
    """Look a strategy up.

    Raises:
        UsageError: If there is none of that name; says which is nearest.
    """
    if name in STRATEGIES:
        return STRATEGIES[name]
    near = difflib.get_close_matches(name, STRATEGIES, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UsageError(f"there is no planning strategy {name!r}{hint}", remedy=f"strategies: {', '.join(STRATEGIES)}")


def solve(problem: Problem, strategy: str) -> Plan:
    """Plan with the strategy of that name.

    Raises:
        UsageError: If there is none of that name.
        InfeasibleError: If no plan satisfies the constraints.
    """
    return strategy_named(strategy)(problem)

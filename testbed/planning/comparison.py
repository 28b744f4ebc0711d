"""Strategies side by side on one problem: a plan each, or why there is none, against the proven bound."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from testbed.errors import InfeasibleError
from testbed.planning.plan import Plan
from testbed.planning.problem import Problem
from testbed.planning.strategies import STRATEGIES, solve, strategy_named

ALL = "all"
BOUNDING = "exact"
"""The strategy whose bound on the bottleneck all others are held against."""


@dataclass(frozen=True, slots=True)
class Contender:
    """What a strategy made of a problem.

    Attributes:
        strategy: Its name.
        plan: Its plan; None where it found none.
        reason: Why it found none, on one line; else what its plan notes.
        gap: How far the plan's bottleneck is above the least that any plan can have, relative to it; 0 means proven
            optimal, None that there is no bound, or no plan.
    """

    strategy: str
    plan: Plan | None
    reason: str
    gap: float | None


def named(text: str) -> tuple[str, ...]:
    """The strategies of a list such as ``exact,even``; ``all`` are all.

    Raises:
        UsageError: If there is none of some name.
    """
    if text.strip() == ALL:
        return tuple(STRATEGIES)
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        strategy_named(name)
    return names


def compare(
    problem: Problem, strategies: Sequence[str], own: Mapping[str, Problem] | None = None
) -> tuple[Contender, ...]:
    """Plan with each strategy; the bound comes from ``exact``, which plans even when it isn't asked for.

    Args:
        problem: What to plan.
        strategies: Who plans.
        own: For strategies that cut the model elsewhere, the problem as they see it.

    Raises:
        UsageError: If there is no strategy of some name, or one can't be used as the problem is stated.
    """
    problems = own or {}
    found = {name: _attempt(problems.get(name, problem), name) for name in dict.fromkeys((*strategies, BOUNDING))}
    best = found[BOUNDING][0]
    bound_s = None if best is None else best.lower_bound_s
    return tuple(Contender(name, *found[name], _gap(found[name][0], bound_s)) for name in strategies)


def _attempt(problem: Problem, strategy: str) -> tuple[Plan | None, str]:
    try:
        plan = solve(problem, strategy)
    except InfeasibleError as error:
        return None, " ".join(error.message.split()).removeprefix(f"{strategy}: ")
    return plan, "; ".join(plan.notes)


def _gap(plan: Plan | None, bound_s: float | None) -> float | None:
    if plan is None or bound_s is None:
        return None
    if plan.bottleneck_s <= bound_s * (1 + 1e-9):
        return 0.0
    return plan.bottleneck_s / bound_s - 1 if bound_s else math.inf

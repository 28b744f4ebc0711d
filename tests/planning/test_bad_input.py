"""What every strategy makes of problems at the edge of what can be planned."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from testbed.errors import InfeasibleError
from testbed.planning.problem import Chain, Path, Problem, Worker
from testbed.planning.strategies import STRATEGIES, solve

CHAIN = Chain((0, 1, 2, 3), (8e6, 4e6, 1e6, 1e3), (2**20,) * 3, (2**18,) * 3, (0.1, 0.2, 0.3))

CHAINS = ("even",)
"""Strategies that want all hosts in a chain, whatever links them."""


def _problem(hosts: int) -> Problem:
    workers = tuple(Worker(f"h{index}", 0.5 + index) for index in range(hosts))
    pairs = itertools.permutations([*(worker.name for worker in workers), "d"], 2)
    return Problem(CHAIN, workers, "d", dict.fromkeys(pairs, Path(10e6, 0.001)))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_host_takes_all(strategy: str) -> None:
    plan = solve(_problem(1), strategy)
    assert [(stage.host, stage.first, stage.last) for stage in plan.stages] == [("h0", 0, 3)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_host_is_told_of(strategy: str) -> None:
    with pytest.raises(InfeasibleError, match="no host is left to hold a stage"):
        solve(_problem(0), strategy)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_more_stages_than_there_are_cuts(strategy: str) -> None:
    plan = solve(replace(_problem(6), max_stages=50), strategy)
    assert 1 <= len(plan.stages) <= 3
    assert plan.stages[-1].last == 3


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_model_without_a_cut(strategy: str) -> None:
    whole = Chain((0, 3), (8e6, 1e3), (2**20,), (2**18,), (0.6,))
    assert len(solve(replace(_problem(3), chain=whole), strategy).stages) == 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_links_of_no_rate_can_not_be_used(strategy: str) -> None:
    problem = _problem(3)
    with pytest.raises(InfeasibleError, match=r"reach|link"):
        solve(replace(problem, paths=dict.fromkeys(problem.paths, Path(0.0))), strategy)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_hosts_that_can_not_reach_each_other(strategy: str) -> None:
    """Each host alone can be used, unless a strategy wants a chain through all of them."""
    problem = _problem(3)
    alone = replace(problem, paths={pair: path for pair, path in problem.paths.items() if "d" in pair})
    if strategy in CHAINS:
        with pytest.raises(InfeasibleError, match=r"reach|link"):
            solve(alone, strategy)
    else:
        assert len(solve(alone, strategy).stages) == 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_too_little_memory_names_what_is_short(strategy: str) -> None:
    problem = _problem(2)
    small = tuple(replace(worker, memory_bytes=2**20) for worker in problem.workers)
    with pytest.raises(InfeasibleError, match=r"memory|fits"):
        solve(replace(problem, workers=small), strategy)

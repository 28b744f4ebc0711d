from __future__ import annotations

import itertools

import numpy as np
import pytest

from testbed.planning.hosttypes import UsedSets, merge
from testbed.planning.instance import Instance
from testbed.planning.problem import Chain, Path, Problem, Worker


def test_equal_hosts_on_a_switch_are_one_type() -> None:
    rates = np.full((4, 4), 5.0)
    assert merge([(1.0,)] * 4, [rates]) == ((0, 1, 2, 3),)


def test_another_attribute_or_another_rate_to_a_third_makes_another_type() -> None:
    rates = np.full((4, 4), 5.0)
    assert merge([(1.0,), (2.0,), (1.0,), (2.0,)], [rates]) == ((0, 2), (1, 3))
    rates[0, 3] = 4.0
    assert merge([(1.0,)] * 4, [rates]) == ((0,), (1, 2), (3,))


def test_unequal_rates_between_the_two_keep_them_apart() -> None:
    rates = np.full((2, 2), 5.0)
    rates[0, 1] = 4.0
    assert merge([(1.0,)] * 2, [rates]) == ((0,), (1,))


def test_delays_count_only_where_asked() -> None:
    names = ("a", "b", "d")
    paths = {pair: Path(1.0, 0.1 if "a" in pair else 0.2) for pair in itertools.permutations(names, 2)}
    problem = Problem(Chain((0, 1), (1, 1), (1,), (0,), (1.0,)), (Worker("a", 1.0), Worker("b", 1.0)), "d", paths)
    assert Instance.of(problem).members == ((0, 1),)
    assert Instance.of(problem, by_delay=True).members == ((0,), (1,))


@pytest.mark.parametrize("counted", [False, True])
def test_used_sets_fill_up_and_compare_as_subsets(counted: bool) -> None:
    sets = UsedSets([2, 1], counted=counted)
    one = sets.add_stage(sets.add(0, 0))
    two = sets.add_stage(sets.add(one, 0))
    both = sets.add_stage(sets.add(one, 1))
    assert [sets.copies(used, 0) for used in (0, one, two, both)] == [0, 1, 2, 1]
    assert [sets.stages(used) for used in (0, one, two, both)] == [0, 1, 2, 2]
    assert sets.full(two, 0)
    assert not sets.full(one, 0)
    assert one & two == one
    assert one & both == one
    assert two & both != two


def test_a_counted_stage_shows_where_the_host_is_forgotten() -> None:
    sets = UsedSets([2, 1], counted=True)
    assert sets.stages(sets.add_stage(sets.add_stage(0))) == 2

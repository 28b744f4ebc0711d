from __future__ import annotations

import itertools

from runner.link_sample import links_to_measure
from testbed.spec.links import LinkSpec
from testbed.spec.network import Network

HOSTS = tuple(f"h{number}" for number in range(20))
COMPLETE = Network(HOSTS, (), tuple(LinkSpec(between=pair) for pair in itertools.combinations(HOSTS, 2)))


def test_few_links_are_all_measured() -> None:
    few = Network(HOSTS, (), COMPLETE.links[:30])
    assert links_to_measure(few, (), 1) == tuple(link.name for link in few.links)


def test_of_many_those_of_the_plan_and_others_by_the_seed() -> None:
    stops = ("h0", "h7", "h13", "h13", "h0")
    chosen = links_to_measure(COMPLETE, stops, 1)
    assert len(chosen) == len(set(chosen)) == 30
    assert {"h0-h7", "h7-h13", "h0-h13"} <= set(chosen)
    assert chosen == links_to_measure(COMPLETE, stops, 1)
    assert chosen != links_to_measure(COMPLETE, stops, 2)
    names = [link.name for link in COMPLETE.links]
    assert sorted(chosen, key=names.index) == list(chosen)


def test_a_plan_with_more_links_than_may_be_measured() -> None:
    assert len(links_to_measure(COMPLETE, HOSTS, 1, most=5)) == 5

from __future__ import annotations

from collections.abc import Sequence

import pytest

from runner.events import Check
from runner.lab_checks import MOST_MEASUREMENTS, link_checks, settled_checks
from testbed.emulation.probe import LinkMeasurement
from testbed.spec.links import LinkSpec
from testbed.spec.network import Network
from testbed.spec.verdict import Bar, VerdictSpec


def test_both_ends_of_a_link_may_have_any_name() -> None:
    network = Network(("edge-1",), ("s-1",), (LinkSpec(between=("edge-1", "s-1"), rate_bps=10**6, delay_s=0.005),))

    def way(source: str, target: str) -> LinkMeasurement:
        return LinkMeasurement("edge-1-s-1", source, target, 10**6, 1e6, 0.01, 0.02, 0.02, 100, 0)

    found = [way("edge-1", "s-1"), way("s-1", "edge-1")]
    checks = [
        (check.check, check.subject, check.level) for check in link_checks(found, network, "after", 1, VerdictSpec())
    ]
    assert checks == [
        ("rate_after_mbit_s", "edge-1→s-1", "valid"),
        ("rtt_after_ms", "edge-1-s-1", "invalid"),
        ("rate_after_mbit_s", "s-1→edge-1", "valid"),
    ]
    relaxed = VerdictSpec(round_trip_error=Bar(2, 2))
    assert {check.level for check in link_checks(found, network, "after", 1, relaxed)} == {"valid"}


def test_links_of_a_dilated_run_are_judged_in_declared_units() -> None:
    network = Network(("a",), ("s1",), (LinkSpec(between=("a", "s1"), rate_bps=10**6, delay_s=0.04),))
    found = LinkMeasurement("a-s1", "a", "s1", 10**6, 1e6, 0.08, 0.082, 0.09, 100, 0)
    rate, trip = link_checks([found], network, "before", 8, VerdictSpec())
    assert (rate.requested, rate.measured) == (8, 8)
    assert (trip.requested, trip.measured) == (pytest.approx(10), pytest.approx(10.25))


@pytest.mark.parametrize(("wrong_times", "level"), [(0, "valid"), (1, "valid"), (2, "valid"), (9, "suspect")])
def test_a_link_is_off_only_when_it_is_so_each_time(wrong_times: int, level: str) -> None:
    links = tuple(LinkSpec(between=(host, "s1"), rate_bps=10**6, delay_s=0.005) for host in ("a", "b"))
    network = Network(("a", "b"), ("s1",), links)
    asked: list[tuple[str, ...]] = []

    def take(names: Sequence[str]) -> list[LinkMeasurement]:
        asked.append(tuple(names))
        wrong = {"a-s1": 9.5e5} if len(asked) <= wrong_times else {}
        return [
            LinkMeasurement(name, *ends, 10**6, wrong.get(name, 1e6), 0.01, 0.01, 0.01, 100, 0)
            for name in names
            for ends in ((name[0], "s1"), ("s1", name[0]))
        ]

    told = list(settled_checks(take, ["a-s1", "b-s1"], network, "before", 1, VerdictSpec(), lambda: False))
    checks = [one for one in told if isinstance(one, Check)]
    again = min(wrong_times, MOST_MEASUREMENTS - 1)
    assert asked == [("a-s1", "b-s1"), *[("a-s1",)] * again]
    assert sorted(check.subject for check in checks) == ["a-s1", "a→s1", "b-s1", "b→s1", "s1→a", "s1→b"]
    assert {check.level for check in checks if check.check.startswith("rate") and "a" in check.subject} == {level}
    notes = [one.text for one in told if not isinstance(one, Check)]
    assert len(notes) == again
    assert all("a-s1 is measured again" in text and "950kbit/s instead of 1Mbit/s" in text for text in notes)


def test_a_broken_emulation_is_not_measured_again() -> None:
    network = Network(("a",), ("s1",), (LinkSpec(between=("a", "s1"), rate_bps=10**6, delay_s=0.005),))
    asked: list[tuple[str, ...]] = []

    def take(names: Sequence[str]) -> list[LinkMeasurement]:
        asked.append(tuple(names))
        ways = (("a", "s1"), ("s1", "a"))
        return [LinkMeasurement("a-s1", *ends, 10**6, 0.0, 0.01, None, None, 100, 100) for ends in ways]

    told = list(settled_checks(take, ["a-s1"], network, "before", 1, VerdictSpec(), lambda: bool(asked)))
    assert asked == [("a-s1",)]
    assert [one.level for one in told if isinstance(one, Check)] == ["invalid"] * 3
    assert len(told) == 3

from __future__ import annotations

import pytest

from runner.lab_checks import link_checks
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

"""Damping: whatever a link does, the plan changes only so often."""

from __future__ import annotations

from testbed.serving.settling import Settling


def changes(settle_s: float, horizon_s: float, until_s: float) -> list[float]:
    """When a plan changes that always has a reason to."""
    settling = Settling(settle_s, horizon_s)
    found: list[float] = []
    began_s, now_s = 0.0, 0.0
    while now_s < until_s:
        now_s += 0.5
        if settling.has_settled(now_s - began_s):
            settling.changed(now_s - began_s)
            found.append(now_s)
            began_s = now_s
    return found


def test_each_change_waits_twice_as_long_as_the_one_before_up_to_the_horizon() -> None:
    assert changes(5, 60, 260) == [5, 15, 35, 75, 135, 195, 255]
    assert changes(5, 1, 20) == [5, 10, 15, 20]


def test_a_plan_that_has_served_for_two_horizons_ends_the_suspicion() -> None:
    settling = Settling(5, 60)
    settling.changed(5)
    assert not settling.has_settled(9)
    settling.changed(119)
    assert not settling.has_settled(19)
    settling.changed(120)
    assert settling.has_settled(5)

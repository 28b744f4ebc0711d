"""The sentinel: honest about lateness, and judged by it both ways."""

from __future__ import annotations

import math
import time

import pytest

from runner import fidelity_checks, sentinel
from runner.events import SchedulingSample, event_from_json
from testbed.serving.events import Event, to_json


def sample(*lateness_ms: float) -> SchedulingSample:
    return SchedulingSample(t_s=1.0, began_s=0.0, lateness_ms=lateness_ms)


@pytest.mark.parametrize(
    ("late_ms", "level"), [(0.1, "valid"), (4.9, "valid"), (5.5, "suspect"), (19.0, "suspect"), (21.0, "invalid")]
)
def test_the_verdict_falls_with_lateness(late_ms: float, level: str) -> None:
    found = fidelity_checks.check_scheduling([sample(*[0.1] * 90), sample(*[late_ms] * 10)])
    assert found.level == level
    assert found.ok is (level == "valid")


def test_one_late_wake_up_in_many_is_no_reason() -> None:
    assert fidelity_checks.check_scheduling([sample(*[0.1] * 999), sample(50.0)]).ok


def test_a_sentinel_that_says_nothing_makes_a_run_suspect() -> None:
    found = fidelity_checks.check_scheduling([])
    assert (found.level, found.check) == ("suspect", "scheduling_samples")
    assert math.isfinite(found.measured)


def test_samples_survive_the_history() -> None:
    assert event_from_json(to_json(sample(0.1, 2.5))) == sample(0.1, 2.5)


@pytest.mark.alone
def test_it_reports_every_wake_up_and_what_it_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [100.0]
    naps = [0]

    def nap(gap_s: float) -> None:
        naps[0] += 1
        now_s[0] += gap_s + (0.25 if naps[0] == 10 else 0.0002)

    monkeypatch.setattr(time, "sleep", nap)
    monkeypatch.setattr(sentinel, "now_s", lambda: now_s[0])
    heard: list[Event] = []
    sentinel.watch(heard.append, periods=2)
    first, second = heard
    assert isinstance(first, SchedulingSample)
    assert isinstance(second, SchedulingSample)
    assert max(first.lateness_ms) == pytest.approx(250, abs=1)
    assert sum(late > 1 for late in first.lateness_ms) == 1
    assert set(second.lateness_ms) == {0.2}
    assert len(second.lateness_ms) == pytest.approx(100, abs=1)

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.emulation.lateness import LatenessHistogram, LatenessSummary


def test_nothing_counted() -> None:
    assert LatenessHistogram().summary() == LatenessSummary()


@given(st.lists(st.floats(0, 10), min_size=1, max_size=200))
def test_quantiles_are_within_a_bucket_and_the_rest_exact(seen_s: list[float]) -> None:
    histogram = LatenessHistogram()
    for late_s in seen_s:
        histogram.add(late_s)
    summary = histogram.summary()
    assert summary.count == len(seen_s)
    assert summary.mean_s == pytest.approx(statistics.fmean(seen_s))
    assert summary.max_s == max(seen_s)
    median_s = sorted(seen_s)[(len(seen_s) + 1) // 2 - 1]
    assert median_s * 0.999 <= summary.p50_s <= max(1e-6, median_s * 1.1)
    assert summary.p50_s <= summary.p99_s <= summary.max_s


def test_early_is_on_time_and_clearing_forgets() -> None:
    histogram = LatenessHistogram()
    histogram.add(-0.5)
    assert histogram.summary() == LatenessSummary(1, 0.0, 0.0, 0.0, 0.0)
    histogram.clear()
    assert histogram.summary().count == 0


def test_survives_json() -> None:
    summary = LatenessSummary(3, 0.1, 0.2, 0.3, 0.4)
    assert LatenessSummary.from_json(summary.to_json()) == summary

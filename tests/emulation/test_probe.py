from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from testbed.emulation.probe import _batches, _measurements

CAPACITY = 300


@given(st.lists(st.tuples(st.none() | st.integers(1, 500), st.none() | st.integers(1, 500)), max_size=30))
def test_batches_hold_each_shaped_direction_once_and_stay_within_the_capacity(
    rates: list[tuple[int | None, int | None]],
) -> None:
    batches = _batches(rates, CAPACITY)
    shaped = [(link, end) for link, both in enumerate(rates) for end, rate in enumerate(both) if rate is not None]
    assert sorted(way for batch in batches for way in batch) == shaped
    for batch in batches:
        assert batch
        assert len(batch) == 1 or sum(rates[link][end] or 0 for link, end in batch) <= CAPACITY


def test_quickstart_is_measured_at_once() -> None:
    rates = [(50_000_000, 50_000_000), *[(20_000_000, 20_000_000)] * 3]
    assert len(_batches(rates, 300_000_000)) == 1


def test_a_link_gives_a_row_for_each_direction() -> None:
    job = {"link": "a-b", "nodes": ["a", "b"], "rates_bps": [10, None], "rtt_s": 0.01}
    answer = {"rtts_s": [0.013, 0.011, 0.012], "rates_bps": [9.9, None]}
    there, back = _measurements(job, answer, 4)
    assert (there.source, there.target, there.requested_rate_bps, there.rate_bps) == ("a", "b", 10, 9.9)
    assert (back.source, back.target, back.requested_rate_bps, back.rate_bps) == ("b", "a", None, None)
    assert there.rtt_s == back.rtt_s == 0.012
    assert there.rtt_p99_s == 0.013
    assert there.round_trips_lost == 1


def test_silent_link_has_no_round_trip() -> None:
    job = {"link": "a-b", "nodes": ["a", "b"], "rates_bps": [10, 10], "rtt_s": 0.01}
    there, _ = _measurements(job, {"rtts_s": [], "rates_bps": [None, None]}, 4)
    assert there.rtt_s is there.rtt_p99_s is there.rate_bps is None
    assert there.round_trips_lost == 4

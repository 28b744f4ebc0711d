from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.emulation import probe_process
from testbed.emulation.probe import _batches, _measurements

CAPACITY = 300
FRAME_BITS = 1514 * 8


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


class Bucket:
    """A socket at the end of a link whose bucket of two frames is full at first; a queue of ten is behind it."""

    def __init__(self, rate_bps: int) -> None:
        self.rate_bps = rate_bps
        self.now_s = 0.0
        self.free_s = -2 * FRAME_BITS / rate_bps
        self.left_s: list[float] = []

    def sendto(self, piece: memoryview, address: object) -> None:
        self.free_s = max(self.free_s, self.now_s - 2 * FRAME_BITS / self.rate_bps) + FRAME_BITS / self.rate_bps
        self.left_s.append(max(self.now_s, self.free_s))


@pytest.mark.parametrize("rate_bps", [100_000, 200_000, 1_000_000, 10_000_000])
def test_the_bucket_of_a_link_is_empty_before_arrivals_count(rate_bps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_process._Flow, "_arrival_s", lambda _: 0.0)
    bucket: Any = Bucket(rate_bps)
    flow = probe_process._Flow(bucket, bucket, ("10.0.0.1", 1), rate_bps, 0.0)
    for tick in range(1000):
        bucket.now_s = tick * 0.002
        flow.send(bucket.now_s)
    counted = [left_s for left_s in bucket.left_s if 0.2 <= left_s < 2]
    assert (len(counted) - 1) * FRAME_BITS / (counted[-1] - counted[0]) == pytest.approx(rate_bps, rel=0.001)


def test_a_slow_link_is_measured_for_longer() -> None:
    links = [probe_process.Link([], [], [rate_bps, None]) for rate_bps in (10_000_000, 100_000, None)]
    assert probe_process.frame_s(links, [(0, 0), (1, 0)]) == pytest.approx(0.12112)
    assert probe_process.frame_s(links, [(2, 0)]) == 0


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

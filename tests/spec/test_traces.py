from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.spec.traces import (
    LOWEST_BPS,
    PACKET_BYTES,
    RateChange,
    Trace,
    TraceError,
    TraceSpec,
    parse_csv,
    parse_mahimahi,
)

FRAME_BITS = PACKET_BYTES * 8


def test_packets_are_counted_in_windows() -> None:
    trace = parse_mahimahi("10\n20\n20\n\n150\n200\n", 0.1)
    assert trace.length_s == 0.2
    assert trace.steps == ((0.0, 3 * FRAME_BITS * 10), (0.1, 2 * FRAME_BITS * 10))


def test_windows_fit_the_trace_and_silence_lets_a_frame_through_now_and_then() -> None:
    trace = parse_mahimahi("1\n2\n330\n", 0.1)
    assert [at_s for at_s, _ in trace.steps] == pytest.approx([0.0, 0.11, 0.22])
    assert trace.steps[1][1] == LOWEST_BPS


@given(st.lists(st.integers(0, 5000), min_size=2, max_size=200).filter(lambda times: max(times) > 0))
def test_no_packet_is_lost_in_counting(times: list[int]) -> None:
    trace = parse_mahimahi("".join(f"{time}\n" for time in sorted(times)), 0.25)
    each_s = trace.length_s / len(trace.steps)
    bits = sum(rate_bps * each_s for _, rate_bps in trace.steps if rate_bps > LOWEST_BPS)
    assert bits <= len(times) * FRAME_BITS + len(trace.steps)
    assert bits >= (len(times) - len(trace.steps)) * FRAME_BITS - len(trace.steps)


def test_rows_of_a_csv_hold_until_the_next() -> None:
    trace = parse_csv("time_s,rate\n0,1Mbit/s\n2.5,500kbit/s\n3,10kbit/s\n")
    assert trace == Trace(((0.0, 1_000_000), (2.5, 500_000), (3.0, 10_000)), 3.5)
    assert parse_csv("time_s, rate_mbit_s\n0,1\n1,0\n") == Trace(((0.0, 1_000_000), (1.0, LOWEST_BPS)), 2.0)


TWO = Trace(((0.0, 100_000), (1.0, 200_000)), 2.0)


def test_a_loop_starts_anew_and_a_single_pass_ends_with_the_declared_rate() -> None:
    looped = TWO.changes(4.5, loop=True)
    assert [(change.at_s, change.rate_bps) for change in looped] == [
        (0.0, 100_000),
        (1.0, 200_000),
        (2.0, 100_000),
        (3.0, 200_000),
        (4.0, 100_000),
    ]
    assert TWO.changes(9.0, loop=False)[-1] == RateChange(2.0, None)
    assert TWO.changes(1.5, loop=False) == looped[:2]


def test_steps_to_the_rate_that_holds_are_left_out() -> None:
    assert len(Trace(((0.0, 100_000), (1.0, 100_000), (2.0, 90_000)), 3.0).changes(3.0, loop=True)) == 2


def test_no_frame_outlasts_the_rate_that_it_is_sent_at() -> None:
    """The kernel would keep a link silent for as long as the frame takes at a rate that is over."""
    gap = Trace(((0.0, 1_000_000), (1.0, LOWEST_BPS), (1.05, LOWEST_BPS), (1.1, 1_000_000)), 2.0)
    dead = gap.changes(9.0, loop=False)[1]
    assert dead.at_s == 1.0
    assert dead.rate_bps == pytest.approx(8 * PACKET_BYTES / 0.1, abs=1)
    long = Trace(((0.0, 1_000_000), (1.0, LOWEST_BPS), (4.0, 1_000_000)), 5.0)
    assert long.changes(9.0, loop=False)[1].rate_bps == LOWEST_BPS
    assert long.changes(2.0, loop=False)[1].rate_bps == LOWEST_BPS
    still = Trace(((0.0, LOWEST_BPS),), 0.1)
    assert len(still.changes(60.0, loop=True)) == 1


def test_a_slower_world_has_a_longer_trace() -> None:
    assert TWO.stretched(1) == TWO
    slow = Trace(((0.0, 100_000), (1.0, 200_000)), 2.0).stretched(4)
    assert slow == Trace(((0.0, 25_000), (4.0, 50_000)), 8.0)


def test_changes_without_end_are_refused() -> None:
    with pytest.raises(TraceError, match="more than 100000 times"):
        Trace(((0.0, 10_000), (0.001, 20_000)), 0.002).changes(1000.0, loop=True)


@pytest.mark.parametrize(
    ("parse", "text", "told"),
    [
        ("mahimahi", "", "no line is later"),
        ("mahimahi", "0\n", "no line is later"),
        ("mahimahi", "5\n4\n", "line 2: 4 is before"),
        ("mahimahi", "5\n1.5\n", "line 2: '1.5' is no time"),
        ("csv", "", "the header must be"),
        ("csv", "time,rate\n", "the header must be"),
        ("csv", "time_s,rate\n1,1Mbit/s\n", "the first row must be at 0"),
        ("csv", "time_s,rate\n0,1Mbit/s\n", "two rows"),
        ("csv", "time_s,rate\n0,1\n1,2\n", "line 2: '1' has no unit"),
        ("csv", "time_s,rate_mbit_s\n0,1\n0,2\n", "line 3: 0 isn't after"),
        ("csv", "time_s,rate_mbit_s\n0,-1\n", "line 2: '-1' is no rate"),
        ("csv", "time_s,rate_mbit_s\n0,nan\n", "line 2: 'nan' is no rate"),
        ("csv", "time_s,rate_mbit_s\n0,1,2\n", "line 2: has 3 columns"),
    ],
)
def test_what_is_no_trace_is_told_with_its_line(parse: str, text: str, told: str) -> None:
    with pytest.raises(TraceError, match=told):
        parse_csv(text) if parse == "csv" else parse_mahimahi(text, 0.1)


def test_too_many_windows_are_refused() -> None:
    with pytest.raises(TraceError, match="longer window"):
        parse_mahimahi("100000\n", 0.0001)


def test_a_file_is_named_in_its_errors(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("traces")
    bad = folder / "bad.trace"
    bad.write_bytes(b"1\nx\n")
    with pytest.raises(TraceError, match=r"bad\.trace, line 2"):
        TraceSpec(file=bad, format="mahimahi").read()
    bad.write_bytes(b"\xff\n")
    with pytest.raises(TraceError, match="is no text"):
        TraceSpec(file=bad, format="mahimahi").read()
    bad.write_bytes(b"100\n")
    assert TraceSpec(file=bad, format="mahimahi").slowed(2).read().length_s == pytest.approx(0.2)

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.emulation.impairment import Bursts
from testbed.emulation.netlink import attributes
from testbed.emulation.queues import (
    EgressState,
    LeafLimit,
    NetemState,
    RateClass,
    RateSetting,
    parse_rate_class,
    rate_messages,
)
from testbed.emulation.shaping import (
    FRAME_BYTES,
    Egress,
    Shape,
    build,
    burst_bytes,
    change,
    change_of_rate,
    differences,
    has_queue,
    offload_segments,
    queue_bytes,
)
from testbed.spec.quantities import QueueLimit

RATES = st.integers(100_000, 2_000_000_000)


def words(commands: list[tuple[str, ...]]) -> list[str]:
    return [" ".join(command) for command in commands]


def segments_of(*shapes: Shape, with_netem: bool = False) -> int:
    return offload_segments(shapes, with_netem=with_netem)


def test_unshaped_link_has_no_queue_at_all() -> None:
    assert build("eth0", Egress(Shape())) == []
    assert build("eth0", Egress(Shape(), with_netem=True)) == []


def test_rate_is_a_class_with_derived_bucket_and_queue() -> None:
    assert words(build("eth0", Egress(Shape(20_000_000, 0.005), round_trip_s=0.02))) == [
        "tc qdisc add dev eth0 root handle 10: htb default 1",
        "tc class add dev eth0 parent 10: classid 10:1 htb rate 20000000bit ceil 20000000bit burst 5000b cburst 5000b "
        "quantum 1514",
        "tc qdisc add dev eth0 parent 10:1 handle 20: bfifo limit 65140",
    ]


def test_netem_stands_before_the_rate_or_alone() -> None:
    netem, rate, *rest = words(build("eth0", Egress(Shape(20_000_000, 0.005, 0.001), 0.02, with_netem=True)))
    assert netem == (
        "tc qdisc add dev eth0 root handle 1: netem limit 100000 delay 5000.000us loss 0.10000000% rate 100000000000bit"
    )
    assert rate == "tc qdisc add dev eth0 parent 1:1 handle 10: htb default 1"
    assert [command.split()[1] for command in rest] == ["class", "qdisc"]
    assert words(build("eth0", Egress(Shape(None, 0.005), with_netem=True))) == [
        "tc qdisc add dev eth0 root handle 1: netem limit 100000 delay 5000.000us loss 0.00000000% rate 100000000000bit"
    ]


def test_rate_under_netem_changes_in_place() -> None:
    before = Egress(Shape(20_000_000, 0.005), with_netem=True)
    commands = words(change("eth0", before, Egress(Shape(2_000_000, 0.05), with_netem=True)))
    assert [command.split()[1:3] for command in commands] == [
        ["qdisc", "change"],
        ["class", "change"],
        ["qdisc", "change"],
    ]


def test_rate_changes_in_place() -> None:
    before, after = Egress(Shape(20_000_000)), Egress(Shape(2_000_000))
    commands = words(change("eth0", before, after))
    assert [command.split()[1:3] for command in commands] == [["class", "change"], ["qdisc", "change"]]
    assert not any("del" in command.split() for command in commands)


@pytest.mark.parametrize("with_netem", [False, True])
def test_removing_a_rate_first_lets_the_queue_out(with_netem: bool) -> None:
    before = Egress(Shape(20_000_000), with_netem=with_netem)
    opened, removed = words(change("eth0", before, Egress(Shape(), with_netem=with_netem)))
    assert "class change" in opened
    assert "rate 100000000000bit" in opened
    assert removed == "tc qdisc del dev eth0 root"


def test_unshaped_netem_comes_changes_and_goes() -> None:
    nothing, some, more = (Egress(Shape(None, delay_s), with_netem=True) for delay_s in (0.0, 0.005, 0.05))
    assert [command.split()[2] for command in words(change("eth0", nothing, some))] == ["add"]
    assert [command.split()[2] for command in words(change("eth0", some, more))] == ["change"]
    assert words(change("eth0", some, nothing)) == ["tc qdisc del dev eth0 root"]
    assert change("eth0", nothing, nothing) == []


def test_rate_comes_and_goes_behind_a_netem_that_stays() -> None:
    without, with_rate = Egress(Shape(None, 0.005), with_netem=True), Egress(Shape(10**7, 0.005), with_netem=True)
    assert [command.split()[1:3] for command in words(change("eth0", without, with_rate))] == [
        ["qdisc", "change"],
        ["qdisc", "add"],
        ["class", "add"],
        ["qdisc", "add"],
    ]
    assert words(change("eth0", with_rate, without))[-1] == "tc qdisc del dev eth0 parent 1:1"


@given(RATES, st.floats(0, 1), st.integers(1, 43))
def test_queue_bounds(rate_bps: int, round_trip_s: float, segments: int) -> None:
    limit = queue_bytes(rate_bps, round_trip_s, segments)
    floor = max(10, 2 * segments) * FRAME_BYTES
    assert limit >= floor
    assert limit == floor or limit * 8 / rate_bps <= 0.1


@given(RATES)
def test_one_piece_of_the_sender_fits_bucket_and_queue_and_lasts_1_ms(rate_bps: int) -> None:
    segments = segments_of(Shape(rate_bps))
    assert segments == 1 or segments * FRAME_BYTES * 8 / rate_bps <= 0.001
    assert burst_bytes(rate_bps, segments) >= segments * FRAME_BYTES
    assert burst_bytes(rate_bps, segments) <= max(FRAME_BYTES, rate_bps * 0.002 / 8 + 1)
    assert queue_bytes(rate_bps, 0.0, segments) >= 2 * segments * FRAME_BYTES


def test_slow_links_take_single_frames_and_unshaped_ones_whole_pieces() -> None:
    assert segments_of(Shape(1_000_000)) == 1
    assert segments_of(Shape(20_000_000)) == 1
    assert segments_of(Shape(100_000_000)) == 8
    assert segments_of(Shape()) == segments_of(Shape(10**9)) == segments_of() == 43
    assert segments_of(Shape(10**9), Shape(100_000_000), Shape()) == 8


def test_pieces_are_single_frames_where_each_frame_counts() -> None:
    fast, lossy = Shape(10**9), Shape(10**9, 0.005, loss=0.01)
    assert segments_of(fast, lossy) == 43
    assert segments_of(fast, lossy, with_netem=True) == 1
    assert segments_of(fast, Shape(10**9, 0.005), with_netem=True) == 43
    assert segments_of(fast, Shape(10**9, queue=QueueLimit(packets=50))) == 1


def state_of(egress: Egress) -> EgressState:
    rate_bps = egress.shape.rate_bps
    assert rate_bps is not None
    # tc passes whole microseconds on.
    burst_s = math.floor(burst_bytes(rate_bps, egress.segments) * 8e6 / rate_bps) * 1e-6
    return EgressState(
        "htb",
        RateClass(rate_bps // 8 * 8, rate_bps // 8 * 8, burst_s, burst_s),
        LeafLimit("bfifo", queue_bytes(rate_bps, egress.round_trip_s, egress.segments)),
    )


@given(RATES, st.integers(1, 43))
def test_what_was_set_is_found_right(rate_bps: int, segments: int) -> None:
    egress = Egress(Shape(rate_bps), segments=segments)
    assert differences(egress, state_of(egress)) == []


def test_every_deviation_is_told() -> None:
    egress = Egress(Shape(20_000_000))
    assert differences(egress, EgressState()) == ["no rate is set instead of 20Mbit/s"]
    assert differences(egress, state_of(Egress(Shape(20_001_000))))[0] == "rate is 20001000 bit/s instead of 20000000"
    rate = RateClass(20_000_000, 20_000_000, 0.12, 0.12)
    assert differences(egress, EgressState("htb", rate, LeafLimit("bfifo", 1))) == [
        "burst is 300000 bytes instead of 5000",
        "queue limit is 1 bytes instead of 27640 bytes",
    ]
    assert differences(Egress(Shape()), state_of(egress)) == ["a rate is set on an unshaped link"]


def netem_state(**other: Any) -> EgressState:
    settings = {"delay_s": 0.005, "jitter_s": 0.0, "loss": 0.01, "duplicate": 0.0, "reorder": 0.0}
    return EgressState(
        "netem", netem=NetemState(**{**settings, "orderly_bps": 10**11, "limit_packets": 100_000, **other})
    )


def test_every_deviation_of_netem_is_told() -> None:
    egress = Egress(Shape(None, 0.005, 0.01), with_netem=True)
    assert differences(egress, netem_state()) == []
    assert differences(egress, EgressState()) == ["there is no netem"]
    assert differences(egress, netem_state(delay_s=0.05, loss=0.1, orderly_bps=0, limit_packets=1000)) == [
        "delay is 50ms instead of 5ms",
        "loss is 0.1 instead of 0.01",
        "netem's own rate is 0 instead of 100000000000 bit/s",
        "netem limit is 1000 packets instead of 100000",
    ]
    assert len(differences(egress, netem_state(jitter_s=0.001, duplicate=0.5, reorder=0.5))) == 3


BURSTS = Bursts(0.01, 0.25, 1.0, 0.001)


def test_bursts_are_read_back_part_by_part() -> None:
    egress = Egress(Shape(None, 0.005, BURSTS), with_netem=True)
    assert differences(egress, netem_state(loss=(0.01, 0.25, 1.0, 0.001))) == []
    assert len(differences(egress, netem_state(loss=(0.01, 0.25, 0.9, 0.001)))) == 1
    assert len(differences(egress, netem_state(loss=0.01))) == 1


def test_netem_is_given_all_that_is_drawn() -> None:
    shape = Shape(None, 0.02, BURSTS, jitter_s=0.002, reorder=0.01, duplicate=0.001)
    (netem,) = words(build("eth0", Egress(shape, with_netem=True)))
    assert netem.split("limit 100000 ")[1] == (
        "delay 20000.000us 2000.000us distribution normal loss gemodel 1.00000000% 25.00000000% 100.00000000% "
        "0.10000000% duplicate 0.10000000% reorder 1.00000000% rate 100000000000bit"
    )
    shuffling = Shape(None, 0.02, jitter_s=0.002, jitter_distribution="uniform", jitter_reorders=True)
    (netem,) = words(build("eth0", Egress(shuffling, with_netem=True)))
    assert netem.endswith("delay 20000.000us 2000.000us loss 0.00000000%")


def test_a_queue_of_its_own_length() -> None:
    in_bytes, in_packets = (
        words(build("eth0", Egress(Shape(10**7, queue=queue))))[-1]
        for queue in (QueueLimit(bytes=100_000), QueueLimit(packets=50))
    )
    assert in_bytes.endswith("handle 20: bfifo limit 100000")
    assert in_packets.endswith("handle 20: pfifo limit 50")
    assert segments_of(Shape(10**9, queue=QueueLimit(bytes=100_000))) == 33
    assert segments_of(Shape(10**9, queue=QueueLimit(bytes=2_000))) == 1


@pytest.mark.parametrize("with_netem", [False, True])
@pytest.mark.parametrize("rate_bps", [None, 10**7])
def test_a_direction_goes_down_and_comes_back(rate_bps: int | None, with_netem: bool) -> None:
    up = Egress(Shape(rate_bps), with_netem=with_netem)
    down = Egress(Shape(rate_bps, up=False), with_netem=with_netem)
    assert has_queue(down)
    cut, mended = words(change("eth0", up, down)), words(change("eth0", down, up))
    if rate_bps is not None:
        assert cut[-1].endswith("handle 20: bfifo limit 0")
        assert not any("del" in command.split() for command in cut + mended)
    elif with_netem:
        assert "loss 100%" in cut[0]
        assert mended == ["tc qdisc del dev eth0 root"]
    else:
        assert cut == ["tc qdisc add dev eth0 root handle 20: bfifo limit 0"]
        assert mended == ["tc qdisc del dev eth0 root"]
    assert differences(down, EgressState()) != []


def test_only_a_change_of_rate_or_queue_takes_the_quick_way() -> None:
    slow, fast = (Egress(Shape(rate_bps, 0.005), with_netem=True) for rate_bps in (10**6, 10**7))
    quick = change_of_rate(slow, fast)
    assert quick is not None
    assert quick[0].rate_bps == 10**7
    assert quick[1] == LeafLimit("bfifo", queue_bytes(10**7, 0.0))
    down = Egress(Shape(10**6, 0.005, up=False), with_netem=True)
    cut = change_of_rate(slow, down)
    assert cut is not None
    assert cut[1] == LeafLimit("bfifo", 0)
    for other in (Shape(), Shape(10**6, 0.006), Shape(10**6, 0.005, queue=QueueLimit(packets=5))):
        assert change_of_rate(slow, Egress(other, with_netem=True)) is None
    # Without netem delays aren't the scheduler's business.
    assert change_of_rate(Egress(Shape(10**6, 0.005)), Egress(Shape(10**6, 0.006))) is not None


@given(st.integers(8_000, 10_000_000_000), st.integers(1, 43))
def test_the_quick_way_says_what_is_read_back(rate_bps: int, segments: int) -> None:
    """The kernel echoes what it was given; the layout of its answer is that of the request."""
    setting = RateSetting(rate_bps, burst_bytes(rate_bps, segments), segments * FRAME_BYTES)
    (kind, body), (leaf_kind, leaf) = rate_messages(7, setting, LeafLimit("bfifo", 1234))
    assert (kind, leaf_kind) == (40, 36)
    found = parse_rate_class(attributes(body[20:])[2])
    assert abs(found.rate_bps - rate_bps) < 8
    assert found.ceil_bps == found.rate_bps
    limit = queue_bytes(rate_bps, 0.0, segments)
    state = EgressState("htb", found, LeafLimit("bfifo", limit))
    assert differences(Egress(Shape(rate_bps), segments=segments), state) == []
    assert int.from_bytes(attributes(leaf[20:])[2], "little") == 1234

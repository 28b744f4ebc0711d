from __future__ import annotations

import itertools
import json
import math
import select
import socket
import statistics
import struct
import subprocess
import sys
import time
from typing import Any

from testbed.emulation import nfqueue
from testbed.emulation.held_queue import HeldQueue
from testbed.emulation.impairment import Bursts, Impairment
from testbed.emulation.lateness import LatenessHistogram
from testbed.emulation.netlink import messages
from testbed.emulation.timer import Timer

WAIT_S = 20.0
ONE, UP_TO = (3 << 8) | 1, (3 << 8) | 3


class FakeChannel:
    """Notes each verdict: (kind of message, decision, packet)."""

    def __init__(self) -> None:
        self.verdicts: list[tuple[int, int, int]] = []

    def send(self, datagram: bytes) -> int:
        for kind, _, body in messages(datagram):
            decision, packet = struct.unpack(">II", body[8:16])
            self.verdicts.append((kind, decision, packet))
        return len(datagram)


def held(delay_s: float = 1.0, loss: float | Bursts = 0.0, seed: int = 1, **more: Any) -> tuple[HeldQueue, FakeChannel]:
    channel = FakeChannel()
    return HeldQueue(channel, 7, Impairment(delay_s, loss=loss, **more), seed), channel


def test_one_verdict_lets_all_go_that_are_due() -> None:
    queue, channel = held(delay_s=1.0)
    for packet, came_s in ((1, 10.0), (2, 10.2), (3, 10.9)):
        queue.take(came_s, packet)
    lateness = LatenessHistogram()
    queue.release(10.5, 0.0, lateness)
    assert channel.verdicts == []
    queue.release(11.3, 0.0, lateness)
    assert channel.verdicts == [(UP_TO, nfqueue.ACCEPT, 2)]
    assert (queue.released, len(queue)) == (2, 1)
    assert lateness.summary().count == 2
    assert abs(lateness.summary().max_s - 0.3) < 1e-9


def test_shorter_delay_lets_nothing_overtake() -> None:
    queue, channel = held(delay_s=1.0)
    queue.take(10.0, 1)
    queue.set(Impairment(0.1))
    queue.take(10.1, 2)
    queue.release(10.5, 0.0, LatenessHistogram())
    assert channel.verdicts == []
    queue.release(11.0, 0.0, LatenessHistogram())
    assert channel.verdicts == [(UP_TO, nfqueue.ACCEPT, 2)]


def test_lead_makes_up_for_the_wake_up() -> None:
    queue, channel = held(delay_s=1.0)
    queue.take(10.0, 1)
    lateness = LatenessHistogram()
    queue.release(10.9999, 0.0002, lateness)
    assert channel.verdicts == [(UP_TO, nfqueue.ACCEPT, 1)]
    assert lateness.summary().max_s == 0.0


def test_lost_packets_are_dropped_as_they_come_and_the_same_ones_for_a_seed() -> None:
    def lost(seed: int) -> list[int]:
        queue, channel = held(loss=0.1, seed=seed)
        for packet in range(2000):
            queue.take(0.0, packet)
        assert all(kind == ONE and decision == nfqueue.DROP for kind, decision, _ in channel.verdicts)
        assert len(queue) + queue.lost == 2000
        return [packet for _, _, packet in channel.verdicts]

    assert lost(1) == lost(1) != lost(2)
    assert 150 < len(lost(1)) < 250


def test_jitter_scatters_around_the_delay_and_keeps_the_order() -> None:
    for distribution, largest_s in (("normal", 0.06), ("uniform", 0.0101)):
        queue, channel = held(0.1, jitter_s=0.01, jitter_distribution=distribution)
        due_s = []
        for packet in range(2000):
            # So far apart that none has to wait for another.
            queue.take(packet * 1.0, packet)
            due_s.append(queue.next_due_s - packet)
            queue.release(packet + 0.5, 0.0, LatenessHistogram())
        deviation = [due - 0.1 for due in due_s]
        expected = 0.01 if distribution == "normal" else 0.01 / math.sqrt(3)
        assert abs(statistics.fmean(deviation)) < 0.001
        assert abs(statistics.pstdev(deviation) / expected - 1) < 0.08
        assert max(map(abs, deviation)) < largest_s
        assert [packet for _, _, packet in channel.verdicts] == list(range(2000))
        crowded, channel = held(0.1, jitter_s=0.05, jitter_distribution=distribution)
        for packet in range(100):
            crowded.take(packet * 0.001, packet)
        for step in range(500):
            crowded.release(step * 0.001, 0.0, LatenessHistogram())
        released = [packet for kind, _, packet in channel.verdicts if kind == UP_TO]
        assert released == sorted(released)
        assert len(crowded) == 0


def test_jitter_reorders_only_when_asked_and_then_packet_by_packet() -> None:
    queue, channel = held(0.1, jitter_s=0.05, jitter_reorders=True)
    for packet in range(100):
        queue.take(packet * 0.001, packet)
    for step in range(500):
        queue.release(step * 0.001, 0.0, LatenessHistogram())
    order = [packet for _, _, packet in channel.verdicts]
    assert sorted(order) == list(range(100))
    assert order != sorted(order)
    assert {kind for kind, _, _ in channel.verdicts} == {ONE}


def test_order_returns_when_jitter_may_shuffle_no_more() -> None:
    queue, channel = held(1.0)
    queue.take(0.0, 1)
    queue.set(Impairment(1.0, 0.9, "uniform", jitter_reorders=True))
    for packet in range(2, 50):
        queue.take(0.01, packet)
    queue.set(Impairment(0.1))
    queue.take(0.02, 50)
    queue.take(0.03, 51)
    queue.release(5.0, 0.0, LatenessHistogram())
    assert [packet for _, _, packet in channel.verdicts][-2:] == [50, 51]
    assert len(channel.verdicts) == 51


def test_reordered_packets_are_not_held_and_overtake() -> None:
    queue, channel = held(1.0, reorder=0.1)
    for packet in range(1000):
        queue.take(packet * 0.0001, packet)
    overtaking = [packet for kind, _, packet in channel.verdicts if kind == ONE]
    assert queue.overtaking == queue.released == len(overtaking)
    assert 60 < len(overtaking) < 140
    queue.release(5.0, 0.0, LatenessHistogram())
    assert channel.verdicts[-1] == (UP_TO, nfqueue.ACCEPT, 999)
    assert queue.released == 1000


def test_bursts_lose_as_much_as_the_chain_says_and_in_runs() -> None:
    queue, channel = held(loss=Bursts(0.02, 0.25, 1.0, 0.0), seed=3)
    count = 50_000
    for packet in range(count):
        queue.take(float(packet), packet)
    lost = [packet for _, decision, packet in channel.verdicts if decision == nfqueue.DROP]
    assert abs(len(lost) / count / (0.02 / 0.27) - 1) < 0.1
    runs = 1 + sum(after - before > 1 for before, after in itertools.pairwise(lost))
    # A stay in the bad state lasts 1/r = 4 packets on average.
    assert 3.6 < len(lost) / runs < 4.6


def test_losses_are_the_same_whatever_the_jitter() -> None:
    def lost(**more: Any) -> list[int]:
        queue, channel = held(loss=0.1, **more)
        for packet in range(500):
            queue.take(float(packet), packet)
        return [packet for _, decision, packet in channel.verdicts if decision == nfqueue.DROP]

    assert lost() == lost(jitter_s=0.1)


def test_settings_travel_as_json() -> None:
    for impairment in (
        Impairment(0.01),
        Impairment(0.1, 0.02, "uniform", True, Bursts(0.1, 0.2, 0.9, 0.01), 0.03),
    ):
        assert Impairment.from_json(json.loads(json.dumps(impairment.to_json()))) == impairment


def test_process_answers_and_ends_with_its_control_socket() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(WAIT_S)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "testbed.emulation.delayline", str(theirs.fileno())], pass_fds=[theirs.fileno()]
        )
    with process, ours:
        assert json.loads(ours.recv(1 << 16))["ok"] is True
        ours.send(b'{"do": "dance"}')
        assert json.loads(ours.recv(1 << 16)) == {"ok": False, "error": "ValueError: unknown request 'dance'"}
        ours.send(b'{"do": "statistics", "clear": false}')
        answer = json.loads(ours.recv(1 << 16))
        assert answer["lateness"]["count"] == answer["kernel_drops"] == 0
        ours.close()
        assert process.wait(WAIT_S) == 0


def test_timer_wakes_not_before_its_time() -> None:
    timer = Timer()
    try:
        at_s = time.monotonic() + 0.02
        timer.arm(at_s)
        assert select.select([timer], [], [], WAIT_S)[0]
        assert time.monotonic() >= at_s
        timer.acknowledge()
        assert not select.select([timer], [], [], 0)[0]
        timer.arm(at_s)
        assert select.select([timer], [], [], WAIT_S)[0]
        timer.arm(0)
        assert not select.select([timer], [], [], 0)[0]
    finally:
        timer.close()

"""Links that change while packets flow, and what is random about them."""

from __future__ import annotations

import itertools
import math
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testbed.emulation import shaping
from testbed.emulation.cluster import Cluster
from testbed.emulation.directions import LinkCounters
from testbed.emulation.impairment import Bursts
from testbed.emulation.machine import capabilities
from testbed.emulation.probe import measure_links
from testbed.errors import MachineError
from testbed.spec.network import Network
from tests.emulation import emulated
from tests.emulation.emulated import cluster, link

pytestmark = pytest.mark.root

WAIT_S = 20.0
FAST_BPS, SLOW_BPS = 50_000_000, 2_000_000
HEADERS_BYTES = 42


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    network = Network(
        ("a", "b"),
        (),
        (link("a", "b", rate="50Mbit/s", delay="20ms", backward={"rate": "5Mbit/s", "delay": "5ms", "queue": "60kB"}),),
    )
    with cluster(network, tmp_path_factory.mktemp("run")) as made:
        yield made


def udp(made: Cluster, host: str) -> socket.socket:
    """With room for all that a test sends before it reads."""
    end = emulated.udp(made, host)
    end.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
    return end


def counters(made: Cluster, source: str) -> LinkCounters:
    (found,) = [found for found in made.link_counters() if found.source == source]
    return found


def flood(made: Cluster, source: str, target: str, until: threading.Event) -> int:
    """Send as fast as the link takes it; returns how many datagrams were handed over."""
    sent = 0
    with udp(made, source) as sender, udp(made, target) as sink:
        sender.setblocking(False)
        while not until.is_set():
            select.select([], [sender], [], 1.0)
            sender.sendto(bytes(1472), sink.getsockname())
            sent += 1
    return sent


def test_each_direction_has_its_own_settings(running: Cluster) -> None:
    there, back = running.current_shape("a-b", "a"), running.current_shape("a-b", "b")
    assert (there.rate_bps, there.delay_s) == (50_000_000, 0.02)
    assert (back.rate_bps, back.delay_s) == (5_000_000, 0.005)
    one, other = measure_links(running)
    assert one.rate_bps == pytest.approx(50_000_000, rel=0.05)
    assert other.rate_bps == pytest.approx(5_000_000, rel=0.05)
    assert one.rtt_s == pytest.approx(0.025, abs=0.003)


CHANGES: list[tuple[str, Callable[[Cluster], None]]] = [
    ("slower", lambda made: made.set_link("a-b", rate_bps=SLOW_BPS)),
    ("faster", lambda made: made.set_link("a-b", rate_bps=FAST_BPS)),
    ("one direction", lambda made: made.set_link("a-b", rate_bps=10_000_000, source="a")),
    ("delay", lambda made: made.set_link("a-b", delay_s=0.05)),
    ("jitter", lambda made: made.set_link("a-b", jitter_s=0.002)),
    ("loss", lambda made: made.set_link("a-b", loss=0.1)),
    ("bursts of loss", lambda made: made.set_link("a-b", loss=Bursts(0.05, 0.3, 1.0, 0.0))),
    ("down", lambda made: made.set_link("a-b", up=False)),
    ("up", lambda made: made.set_link("a-b", up=True)),
    ("everything back", lambda made: made.restore_link("a-b")),
]


def test_no_change_lets_more_pass_than_rate_and_burst(running: Cluster) -> None:
    """Counted where packets leave for the wire, in the second around each change, under overload."""
    done = threading.Event()
    sender = threading.Thread(target=flood, args=(running, "a", "b", done))
    sender.start()
    try:
        select.select([], [], [], 0.3)
        for what, change in CHANGES:
            before_bps = running.current_shape("a-b", "a").rate_bps or 0
            # Before the counters are read: their own time is taken after it, and the sender may run in between.
            counted_s = time.monotonic()
            first = counters(running, "a")
            change(running)
            changed_s = time.monotonic()
            select.select([], [], [], 0.25)
            last = counters(running, "a")
            after = running.current_shape("a-b", "a")
            after_bps = (after.rate_bps or 0) if after.up else 0
            burst = max(shaping.burst_bytes(rate_bps) for rate_bps in (before_bps, after.rate_bps or 0) if rate_bps)
            backlog = first.backlog_bytes if not after.up else 0
            allowed = (
                max(before_bps, after_bps) / 8 * (changed_s - counted_s)  # somewhere in it the new rate began
                + after_bps / 8 * (last.t_s - changed_s)
                + burst
                + shaping.FRAME_BYTES
                + backlog
            )
            assert last.sent_bytes - first.sent_bytes <= allowed, what
    finally:
        done.set()
        sender.join()
        running.restore_link("a-b")
    assert running.current_shape("a-b", "a") == running.declared_shape("a-b", "a")


def test_down_loses_silently_and_up_brings_it_back(running: Cluster) -> None:
    with udp(running, "a") as one, udp(running, "b") as other:
        running.set_link("a-b", up=False, source="a")
        try:
            for _ in range(3):
                one.sendto(b"lost", other.getsockname())
            other.sendto(b"the way back is open", one.getsockname())
            assert one.recv(100) == b"the way back is open"
            other.settimeout(0.2)
            with pytest.raises(TimeoutError):
                other.recv(10)
        finally:
            running.set_link("a-b", up=True, source="a")
        other.settimeout(WAIT_S)
        one.sendto(b"there", other.getsockname())
        assert other.recv(10) == b"there"


def numbered(made: Cluster, count: int, gap_s: float, source: str = "a", target: str = "b") -> list[tuple[int, float]]:
    """(number, delay) of each datagram that arrives, in order of arrival."""
    found: list[tuple[int, float]] = []
    sent_s: list[float] = []
    with udp(made, source) as sender, udp(made, target) as sink:
        sink.setblocking(False)

        def take_until(deadline_s: float) -> None:
            while (left_s := deadline_s - time.monotonic()) > 0:
                if select.select([sink], [], [], left_s)[0]:
                    number = int.from_bytes(sink.recv(64), "big")
                    found.append((number, time.monotonic() - sent_s[number]))

        for number in range(count):
            sent_s.append(time.monotonic())
            sender.sendto(number.to_bytes(4, "big"), sink.getsockname())
            take_until(sent_s[-1] + gap_s)
        take_until(time.monotonic() + 0.3)
    return found


def test_jitter_scatters_delays_and_keeps_the_order(running: Cluster) -> None:
    running.set_link("a-b", jitter_s=0.004)
    try:
        arrived = numbered(running, 400, 0.001)
    finally:
        running.restore_link("a-b")
    numbers = [number for number, _ in arrived]
    assert numbers == sorted(numbers)
    assert len(numbers) == 400
    delays_s = sorted(delay_s for _, delay_s in arrived)
    # Each waits for those before it, so most are later than the median of one alone; yet some are early.
    assert delays_s[0] < 0.02
    assert delays_s[-20] - delays_s[20] > 0.004


def test_reordered_packets_overtake(tmp_path: Path) -> None:
    network = Network(("a", "b"), (), (link("a", "b", rate="50Mbit/s", delay="20ms", reorder="10%"),))
    with cluster(network, tmp_path) as made:
        arrived = numbered(made, 1000, 0.001)
    numbers = [number for number, _ in arrived]
    assert sorted(numbers) == list(range(1000))
    early = [delay_s for _, delay_s in arrived if delay_s < 0.01]
    # 99.9 % of a binomial distribution.
    assert abs(len(early) - 100) < 3.3 * math.sqrt(1000 * 0.1 * 0.9)
    assert sum(after < before for before, after in itertools.pairwise(numbers)) > 50


def test_bursts_lose_in_runs(tmp_path: Path) -> None:
    bursts = {"model": "gilbert-elliott", "p": "2%", "r": "25%"}
    network = Network(("a", "b"), (), (link("a", "b", rate="50Mbit/s", delay="2ms", loss=bursts),))
    with cluster(network, tmp_path) as made:
        arrived = {number for number, _ in numbered(made, 6000, 0.0003)}
    lost = [number for number in range(6000) if number not in arrived]
    runs = 1 + sum(after - before > 1 for before, after in itertools.pairwise(lost))
    assert 0.05 < len(lost) / 6000 < 0.10  # 7.4 % in the long run
    assert 3.0 < len(lost) / runs < 5.2  # 4 packets


def test_a_queue_of_its_own_length_drops_what_is_beyond_it(running: Cluster) -> None:
    """60 kB of the slow direction: 39 full frames wait, whatever else comes is lost, but for what leaves meanwhile."""
    arrived = 0
    with udp(running, "b") as sender, udp(running, "a") as sink:
        began_s = time.monotonic()
        for _ in range(100):
            sender.sendto(bytes(1472), sink.getsockname())
        sending_s = time.monotonic() - began_s
        while select.select([sink], [], [], 0.5)[0]:
            sink.recv(2000)
            arrived += 1
    rate_bps = running.current_shape("a-b", "b").rate_bps
    assert rate_bps is not None
    assert 39 <= arrived <= 46 + sending_s * rate_bps / (1514 * 8)


def test_packets_are_doubled_by_netem_or_refused(tmp_path: Path) -> None:
    network = Network(("a", "b"), (), (link("a", "b", rate="50Mbit/s", delay="2ms", duplicate="20%"),))
    made = cluster(network, tmp_path)
    if not capabilities()["netem"].ok:
        with pytest.raises(MachineError, match=r"(?s)doubles packets.*netem"):
            made.start()
        return
    with made:
        assert made.backend == "netem"
        arrived = numbered(made, 1000, 0.0005)
        assert 1140 < len(arrived) < 1260


def test_more_jitter_than_delay_is_refused(running: Cluster) -> None:
    with pytest.raises(ValueError, match="more than the delay"):
        running.set_link("a-b", jitter_s=0.1)
    assert running.current_shape("a-b", "a") == running.declared_shape("a-b", "a")
    with pytest.raises(KeyError):
        running.set_link("a-b", rate_bps=1_000_000, source="c")


def test_measuring_sets_loss_aside_and_brings_it_back(tmp_path: Path) -> None:
    network = Network(("a", "b"), (), (link("a", "b", rate="20Mbit/s", delay="2ms", loss="20%"),))
    with cluster(network, tmp_path) as made:
        measurements = measure_links(made)
        assert {found.round_trips_lost for found in measurements} == {0}
        assert measurements[0].rate_bps == pytest.approx(20_000_000, rel=0.05)
        assert made.current_shape("a-b", "a").loss == made.declared_shape("a-b", "a").loss == 0.2
        assert 700 < len(numbered(made, 1000, 0.0003)) < 900

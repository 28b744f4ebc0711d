from __future__ import annotations

import itertools
import json
import math
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.emulation import links as links_module
from testbed.emulation import shaping
from testbed.emulation.cluster import Cluster
from testbed.emulation.directions import LinkCounters
from testbed.emulation.namespace import network_identity, run
from testbed.emulation.probe import LinkMeasurement, measure_links
from testbed.emulation.processes import ProcessIdentity
from testbed.emulation.shaping import Shape
from testbed.errors import MachineError
from testbed.spec.network import Network
from tests.emulation.emulated import cluster, link, living_namespaces, machine_state, star, udp

pytestmark = pytest.mark.root

WAIT_S = 20.0
DECLARED = Shape(20_000_000, 0.005, 0.0)


@pytest.fixture(scope="module")
def before() -> dict[str, str]:
    return machine_state()


@pytest.fixture(scope="module")
def running(before: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(star(3, rate="20Mbit/s", delay="5ms"), tmp_path_factory.mktemp("run")) as made:
        yield made


def identities(made: Cluster) -> set[int]:
    return {network_identity(made.node_pid(node)) for node in (*made.network.hosts, *made.network.switches)}


def received(sink: socket.socket) -> list[bytes]:
    """All that comes until nothing has come for half a second."""
    sink.settimeout(0.5)
    found: list[bytes] = []
    while True:
        try:
            found.append(sink.recv(2000))
        except TimeoutError:
            return found


def counters(made: Cluster, name: str, source: str) -> LinkCounters:
    (found,) = [found for found in made.link_counters() if (found.link, found.source) == (name, source)]
    return found


def outside_bars(found: LinkMeasurement) -> bool:
    if found.rtt_s is None or abs(found.rtt_s - found.requested_rtt_s) > max(0.0007, 0.05 * found.requested_rtt_s):
        return True
    if found.requested_rate_bps is None:
        return found.rate_bps is not None
    return found.rate_bps is None or abs(found.rate_bps / found.requested_rate_bps - 1) > 0.03


def assert_within_bars(made: Cluster, links: list[str] | None = None) -> list[LinkMeasurement]:
    """Measures up to three times: others may take the CPU for a moment, but a wrong link is wrong each time."""
    for _ in range(3):
        measurements = measure_links(made, links)
        outside = [found for found in measurements if outside_bars(found)]
        if not outside:
            return measurements
    pytest.fail(f"measured three times: {outside}")


@pytest.mark.alone
def test_links_do_what_the_spec_says(running: Cluster) -> None:
    measurements = assert_within_bars(running)
    assert [(found.source, found.target) for found in measurements[:2]] == [("h1", "s1"), ("s1", "h1")]
    assert len(measurements) == 6
    assert all(found.round_trips_lost == 0 for found in measurements)


def test_the_machine_sees_nothing_of_a_run(running: Cluster, before: dict[str, str]) -> None:
    assert machine_state() == before
    assert network_identity("self") not in identities(running)
    assert len(identities(running)) == 4


def test_hosts_reach_each_other_with_nothing_but_ipv4(running: Cluster) -> None:
    lost = running.mininet.ping(running.mininet.hosts, timeout="2")
    assert lost == 0
    for host in running.network.hosts:
        assert run(running.host_pid(host), ["ip", "-6", "-o", "address"]) == ""


@pytest.mark.alone
def test_link_changes_in_place_and_comes_back(running: Cluster) -> None:
    running.set_link("h1-s1", rate_bps=5_000_000, delay_s=0.02)
    try:
        assert running.current_shape("h1-s1", "h1") == Shape(5_000_000, 0.02, 0.0)
        assert running.declared_shape("h1-s1", "h1") == DECLARED
        changed = assert_within_bars(running, ["h1-s1"])
        assert changed[0].requested_rate_bps == 5_000_000
        assert changed[0].requested_rtt_s == pytest.approx(0.04)
        untouched = assert_within_bars(running, ["h2-s1"])
        assert untouched[0].requested_rate_bps == 20_000_000
    finally:
        running.restore_link("h1-s1")
    assert running.current_shape("h1-s1", "s1") == DECLARED
    assert_within_bars(running, ["h1-s1"])


def test_no_more_than_rate_and_burst_passes_after_a_throttle(running: Cluster) -> None:
    datagram = bytes(1472)
    with udp(running, "h2") as sender, udp(running, "h3") as sink:
        sender.setblocking(False)

        def flood(until_s: float) -> None:
            while time.monotonic() < until_s:
                select.select([], [sender], [], 1.0)
                sender.sendto(datagram, sink.getsockname())

        flood(time.monotonic() + 0.3)
        running.set_link("h2-s1", rate_bps=2_000_000)
        first = counters(running, "h2-s1", "h2")
        flood(time.monotonic() + 1.0)
        last = counters(running, "h2-s1", "h2")
        running.restore_link("h2-s1")
        received(sink)  # what comes after the sink is closed would be answered by ICMP
    passed = last.sent_bytes - first.sent_bytes
    allowed = 2_000_000 / 8 * (last.t_s - first.t_s) + shaping.burst_bytes(2_000_000) + shaping.FRAME_BYTES
    assert 0.9 * allowed < passed <= allowed
    assert last.drops > first.drops


def test_loss_is_random_seeded_and_of_the_size_asked_for(running: Cluster) -> None:
    sent, loss = 4000, 0.05
    running.set_link("h3-s1", loss=loss)
    try:
        with udp(running, "h3") as sender, udp(running, "h1") as sink:
            sink.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
            for number in range(sent):
                sender.sendto(number.to_bytes(4, "big"), sink.getsockname())
                if number % 20 == 19:
                    # 20 small packets are 0.6 ms of the link; its queue holds far more.
                    select.select([], [], [], 0.001)
            arrived = [int.from_bytes(datagram, "big") for datagram in received(sink)]
    finally:
        running.restore_link("h3-s1")
    assert arrived == sorted(arrived)
    lost = sent - len(arrived)
    # 99.9 % of a binomial distribution: 3.29 standard deviations.
    assert abs(lost - sent * loss) <= 3.29 * math.sqrt(sent * loss * (1 - loss))
    statistics = running.delayline_lateness()
    if running.backend == "delayline":
        assert statistics is not None
        assert sum(queue.lost for queue in statistics.queues if queue.place == "s1") == lost


def test_counters_count_what_was_sent(running: Cluster) -> None:
    first = counters(running, "h1-s1", "h1")
    with udp(running, "h1") as sender, udp(running, "h2") as sink:
        for _ in range(10):
            sender.sendto(bytes(1000), sink.getsockname())
            assert len(sink.recv(2000)) == 1000
    last = counters(running, "h1-s1", "h1")
    assert last.sent_packets - first.sent_packets == 10
    assert last.sent_bytes - first.sent_bytes == 10 * (1000 + 42)
    assert last.backlog_bytes == 0


def test_delay_line_tells_its_lateness(running: Cluster) -> None:
    if running.backend != "delayline":
        assert running.delayline_lateness() is None
        return
    running.delayline_lateness(clear=True)
    with udp(running, "h1") as sender, udp(running, "h2") as sink:
        for _ in range(10):
            sender.sendto(b"x", sink.getsockname())
            sink.recv(10)
    statistics = running.delayline_lateness()
    assert statistics is not None
    assert statistics.lateness.count == 20
    assert statistics.kernel_drops == 0
    assert statistics.scheduling in ("fifo", "nice")
    assert statistics.cpu_s > 0


def test_disconnected_host_falls_silent_and_comes_back(running: Cluster) -> None:
    with udp(running, "h1") as one, udp(running, "h3") as other:
        running.disconnect_host("h3")
        try:
            one.sendto(b"lost", other.getsockname())
            other.settimeout(0.2)
            with pytest.raises(TimeoutError):
                other.recv(10)
        finally:
            running.reconnect_host("h3")
        other.settimeout(WAIT_S)
        one.sendto(b"there", other.getsockname())
        assert other.recv(10) == b"there"
        other.sendto(b"back", one.getsockname())
        assert one.recv(10) == b"back"


def test_unknown_names(running: Cluster) -> None:
    with pytest.raises(KeyError):
        running.set_link("h1-h9", rate_bps=1)
    with pytest.raises(KeyError):
        running.host_pid("s1")
    with pytest.raises(KeyError):
        measure_links(running, ["h1-h9"])


@pytest.mark.alone
def test_unshaped_link_has_no_queue_until_it_is_throttled(tmp_path: Path) -> None:
    with cluster(star(2), tmp_path) as made:
        assert made.backend == "none"
        pid = made.host_pid("h1")
        bare = json.loads(run(pid, ["tc", "-j", "qdisc", "show", "dev", "h1-eth0"]))
        assert [found["kind"] for found in bare] == ["noqueue"]
        assert [found.rate_bps for found in assert_within_bars(made, ["h1-s1"])] == [None, None]
        made.set_link("h1-s1", rate_bps=10_000_000, delay_s=0.005)
        assert made.backend in ("delayline", "netem")
        assert_within_bars(made, ["h1-s1"])
        made.restore_link("h1-s1")
        assert json.loads(run(pid, ["tc", "-j", "qdisc", "show", "dev", "h1-eth0"])) == bare
        assert "NFQUEUE" not in run(pid, ["iptables-legacy-save", "-t", "mangle"])
        assert_within_bars(made, ["h1-s1"])


def test_counters_go_on_when_a_queue_comes_and_goes(tmp_path: Path) -> None:
    network = Network(("h1", "h2"), ("s1",), (link("h1", "s1"), link("h2", "s1", rate="20Mbit/s")))
    with cluster(network, tmp_path) as made, udp(made, "h1") as sender, udp(made, "h2") as sink:

        def sent_after_one_more() -> int:
            sender.sendto(bytes(958), sink.getsockname())
            sink.recv(2000)
            return counters(made, "h1-s1", "h1").sent_bytes

        totals = [sent_after_one_more()]
        made.set_link("h1-s1", rate_bps=10_000_000)
        totals.append(sent_after_one_more())
        made.restore_link("h1-s1")
        totals.append(sent_after_one_more())
        assert [after - before for before, after in itertools.pairwise(totals)] == [1000, 1000]


@pytest.mark.alone
def test_hosts_joined_directly_relay_for_each_other(tmp_path: Path) -> None:
    network = Network(
        ("a", "b", "c"), (), (link("a", "b", rate="30Mbit/s", delay="10ms"), link("b", "c", rate="10Mbit/s"))
    )
    with cluster(network, tmp_path) as made:
        assert_within_bars(made)
        with udp(made, "a") as one, udp(made, "c") as other:
            one.sendto(b"over b", other.getsockname())
            assert other.recvfrom(10) == (b"over b", one.getsockname())
            other.sendto(b"and back", one.getsockname())
            assert one.recv(10) == b"and back"


def test_death_of_the_delay_line_is_told_at_once(tmp_path: Path) -> None:
    reasons: queue.SimpleQueue[str] = queue.SimpleQueue()
    made = cluster(star(2, rate="20Mbit/s", delay="2ms"), tmp_path, reasons.put)
    with made:
        assert made.failure is None
        entries = made._manifest.of_kind("process")
        (facts,) = [entry.facts for entry in entries if entry.facts["role"] == "delayline"]
        identity = ProcessIdentity(int(str(facts["pid"])), int(str(facts["start_time_ticks"])))
        assert identity.send(signal.SIGKILL)
        assert "delay line has died" in reasons.get(timeout=WAIT_S)
        assert made.failure is not None
        with pytest.raises(MachineError, match="delay line has died"):
            made.delayline_lateness()
        # Its packets stop; they don't run undelayed.
        with udp(made, "h1") as one, udp(made, "h2") as other:
            one.sendto(b"x", other.getsockname())
            other.settimeout(0.2)
            with pytest.raises(TimeoutError):
                other.recv(10)
    assert reasons.empty()


def test_stop_ends_all_and_both_may_be_called_twice(before: dict[str, str], tmp_path: Path) -> None:
    made = cluster(star(2, rate="20Mbit/s", delay="2ms"), tmp_path)
    made.start()
    own = identities(made)
    made.start()
    assert identities(made) == own
    assert own <= living_namespaces()
    made.stop()
    made.stop()
    assert not own & living_namespaces()
    assert made.backend == "none"
    with pytest.raises(MachineError, match="isn't running"):
        made.link_counters()
    made.start()
    assert len(identities(made)) == 3
    made.stop()
    assert machine_state() == before


def test_what_is_read_back_otherwise_is_refused_with_the_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = cluster(star(2, rate="20Mbit/s"), tmp_path)
    real = shaping.change

    def liar(device: str, *states: shaping.Egress) -> list[shaping.Argv]:
        return [
            tuple("19Mbit" if word == "20000000bit" and device == "h2-eth0" else word for word in command)
            for command in real(device, *states)
        ]

    monkeypatch.setattr(links_module.shaping, "change", liar)
    spaces = living_namespaces()
    with pytest.raises(MachineError, match=r"link h2-s1, h2 → s1: rate is 19000000 bit/s instead of 20000000"):
        made.start()
    assert living_namespaces() <= spaces


def test_missing_mnexec_is_told_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError, match="mnexec is missing") as raised:
        cluster(star(1), tmp_path / "run").start()
    assert "package mininet" in (raised.value.remedy or "")


def test_killed_runner_takes_its_cluster_along(tmp_path: Path) -> None:
    program = (
        "import sys, signal; from pathlib import Path; from tests.emulation.emulated import cluster, star\n"
        f"made = cluster(star(2, rate='20Mbit/s', delay='2ms'), Path({str(tmp_path)!r})); made.start()\n"
        "print(*(made.node_pid(node) for node in ('h1', 'h2', 's1')), made._delay_service.pid, flush=True)\n"
        "signal.pause()\n"
    )
    runner = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    with runner:
        assert runner.stdout is not None
        pids = [int(word) for word in runner.stdout.readline().split()]
        assert len(pids) == 4
        pidfds = [os.pidfd_open(pid) for pid in pids]
        runner.kill()
        try:
            for pidfd in pidfds:
                assert select.select([pidfd], [], [], WAIT_S)[0]
        finally:
            for pidfd in pidfds:
                os.close(pidfd)

"""Faults on real links: they compose, heal exactly, and a partition cuts exactly its pairs."""

from __future__ import annotations

import itertools
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.emulation.cluster import Cluster
from testbed.emulation.namespace import run
from testbed.emulation.overlay import Modification
from testbed.emulation.shaping import Shape
from testbed.spec.network import Network
from tests.emulation.emulated import cluster, link, star, udp

pytestmark = pytest.mark.root

WAIT_S = 20.0
BOTH = (("h1-s1", "h1"), ("h1-s1", "s1"))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(star(3, rate="20Mbit/s", delay="2ms"), tmp_path_factory.mktemp("run")) as made:
        yield made


def reached(made: Cluster, wanted: int) -> set[tuple[str, str]]:
    """(source, target) of every datagram that arrives, one sent by each host to each other."""
    hosts = made.network.hosts
    ends = {host: udp(made, host) for host in hosts}
    try:
        addresses = {host: end.getsockname() for host, end in ends.items()}
        names = {end: host for host, end in ends.items()}
        for source, target in itertools.permutations(hosts, 2):
            ends[source].sendto(source.encode(), addresses[target])
        found: set[tuple[str, str]] = set()
        # All that can arrive, and then a while in which more would: they were sent before.
        while ready := select.select(list(names), [], [], WAIT_S if len(found) < wanted else 0.3)[0]:
            found |= {(end.recv(100).decode(), names[end]) for end in ready}
        return found
    finally:
        for end in ends.values():
            end.close()


def shapes(made: Cluster) -> list[Shape]:
    return [made.current_shape(link, source) for link, source in BOTH]


def kernel(made: Cluster) -> str:
    """What the kernel says of the link's queues and of the rules at its ends."""
    texts = []
    for node, interface in (("h1", "h1-eth0"), ("s1", "s1-eth1")):
        texts.append(run(made.node_pid(node), ["tc", "qdisc"]))
        texts += [run(made.node_pid(node), ["tc", "class", "show", "dev", interface])]
        rules = run(made.node_pid(node), ["iptables-legacy-save", "-t", "mangle"]).splitlines()
        texts.append("\n".join(rule for rule in rules if rule.startswith("-A")))
    return "\n".join(texts)


def test_loss_and_throttle_compose_and_heal_exactly(running: Cluster) -> None:
    declared, told = shapes(running), kernel(running)
    running.modify_links(BOTH, "slow", Modification(most_bps=2_000_000))
    lossy = running.modify_links(BOTH[:1], "lossy", Modification(loss=0.2, add_delay_s=0.01))
    assert lossy == (Shape(rate_bps=2_000_000, delay_s=0.012, loss=1 - 0.8),)
    assert shapes(running)[1] == Shape(rate_bps=2_000_000, delay_s=0.002)
    assert kernel(running) != told
    # The rate that a trace sets meanwhile is under the throttle, and comes out when that is healed.
    running.set_link("h1-s1", rate_bps=10_000_000)
    assert [shape.rate_bps for shape in shapes(running)] == [2_000_000, 2_000_000]
    running.modify_links(BOTH, "slow", None)
    assert [shape.rate_bps for shape in shapes(running)] == [10_000_000, 10_000_000]
    assert shapes(running)[0].loss == 1 - 0.8
    running.restore_link("h1-s1")
    running.modify_links(BOTH[:1], "lossy", None)
    assert shapes(running) == declared
    assert kernel(running) == told


def test_a_direction_that_is_down_twice_is_up_when_both_are_healed(running: Cluster) -> None:
    running.modify_links(BOTH, "first", Modification(down=True))
    running.modify_links(BOTH[1:], "second", Modification(down=True))
    cut = {pair for pair in itertools.permutations(running.network.hosts, 2) if "h1" not in pair}
    assert reached(running, 2) == cut
    running.modify_links(BOTH, "first", None)
    assert reached(running, 4) == cut | {("h1", "h2"), ("h1", "h3")}
    running.modify_links(BOTH[1:], "second", None)
    assert len(reached(running, 6)) == 6


def test_a_partition_cuts_exactly_its_pairs_and_heals(running: Cluster) -> None:
    everybody = set(itertools.permutations(running.network.hosts, 2))
    assert reached(running, 6) == everybody
    running.cut_hosts("one", [("h1", "h2")])
    assert reached(running, 4) == everybody - {("h1", "h2"), ("h2", "h1")}
    running.cut_hosts("two", [("h2", "h1"), ("h1", "h3")])
    assert reached(running, 2) == {("h2", "h3"), ("h3", "h2")}
    running.cut_hosts("one", [])
    assert reached(running, 2) == {("h2", "h3"), ("h3", "h2")}
    running.cut_hosts("two", [])
    assert reached(running, 6) == everybody
    for host in running.network.hosts:
        assert "DROP" not in run(running.host_pid(host), ["iptables-legacy-save", "-t", "mangle"])


def test_what_faults_will_need_is_there_before_they_strike(tmp_path: Path) -> None:
    network = Network(("a", "b"), (), (link("a", "b", rate="20Mbit/s"),))
    with cluster(network, tmp_path, foreseen=[Modification(loss=0.5, most_bps=8_000)]) as made:
        assert made.backend in ("netem", "delayline")
        assert made.current_shape("a-b", "a") == Shape(rate_bps=20_000_000)
        assert len(reached(made, 2)) == 2
        (lossy,) = made.modify_links([("a-b", "a")], "loss", Modification(loss=0.999))
        assert lossy.loss == pytest.approx(0.999)
        assert ("b", "a") in reached(made, 1)
        made.modify_links([("a-b", "a")], "loss", None)
        assert len(reached(made, 2)) == 2
    with cluster(network, tmp_path / "other", foreseen=[Modification(most_bps=8_000)]) as made:
        assert made.backend == "none"

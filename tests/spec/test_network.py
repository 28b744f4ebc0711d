"""Paths, addresses and routes on the shapes that experiments use."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.spec import Experiment, LinkSpec, Network


def network(links: list[tuple[str, str]], switches: tuple[str, ...] = ()) -> Network:
    """Hosts in the order of their first link; the nth link has n + 1 Mbit/s, a delay of n ms, and loses n %."""
    hosts = tuple(node for node in dict.fromkeys(itertools.chain(*links)) if node not in switches)
    return Network(
        hosts,
        switches,
        tuple(
            LinkSpec(between=pair, rate_bps=(n + 1) * 10**6, delay_s=n * 1e-3, loss=n / 100)
            for n, pair in enumerate(links)
        ),
    )


def ring(nodes: list[str]) -> list[tuple[str, str]]:
    return list(zip(nodes, [*nodes[1:], nodes[0]], strict=True))


STAR = network([("d", "s"), ("a", "s"), ("b", "s")], ("s",))
TWO_SWITCHES = network([("d", "s"), ("a", "s"), ("s", "t"), ("b", "t"), ("c", "t")], ("s", "t"))
CHAIN = network([("d", "a"), ("a", "b"), ("b", "c")])
RING = network(ring(["d", "a", "e", "c", "b", "f"]))
COMPLETE = network(list(itertools.combinations("dabce", 2)))
BRIDGED = network([("d", "s"), ("s", "t"), ("t", "u"), ("u", "a"), ("d", "x"), ("x", "a")], ("s", "t", "u"))
SHAPES = {
    "star": STAR, "two switches": TWO_SWITCHES, "chain": CHAIN, "ring": RING, "complete": COMPLETE, "bridged": BRIDGED,
}  # fmt: skip


def names(links: tuple[LinkSpec, ...]) -> list[str]:
    return [link.name for link in links]


def test_paths() -> None:
    assert names(STAR.path("a", "b")) == ["a-s", "b-s"]
    assert names(TWO_SWITCHES.path("c", "d")) == ["c-t", "s-t", "d-s"]
    assert names(CHAIN.path("d", "c")) == ["d-a", "a-b", "b-c"]
    assert names(COMPLETE.path("b", "e")) == ["b-e"]
    assert STAR.path("a", "a") == ()


def test_hosts_forward_only_when_there_is_no_other_way() -> None:
    assert names(BRIDGED.path("d", "a")) == ["d-s", "s-t", "t-u", "u-a"]
    assert BRIDGED.forwarders == ()
    assert CHAIN.forwarders == ("a", "b")


def test_what_a_path_carries() -> None:
    assert CHAIN.path_rate_bps("c", "a") == 2e6
    assert CHAIN.path_delay_s("c", "a") == pytest.approx(0.003)
    assert CHAIN.path_loss("c", "a") == pytest.approx(1 - 0.99 * 0.98)
    unshaped = Network(("d", "a"), (), (LinkSpec(between=("d", "a")),))
    assert unshaped.path_rate_bps("d", "a") == math.inf
    assert unshaped.path_rate_bps("d", "d") == math.inf


def test_addresses_begin_with_the_dispatcher_and_follow_the_file(load: Callable[..., Experiment]) -> None:
    experiment = load(("  dispatcher: {cpu: 0.3}\n", ""), ("switches:", "  dispatcher: {cpu: 0.3}\nswitches:"))
    its_network = Network.of(experiment)
    assert its_network.hosts == ("dispatcher", "node1", "node2")
    assert [its_network.address(host) for host in its_network.hosts] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert names(its_network.path("node1", "node2")) == ["node1-s1", "node2-s1"]
    assert its_network.link("s1", "node1") is its_network.links[1]
    assert names(its_network.links_of("s1")) == ["dispatcher-s1", "node1-s1", "node2-s1"]


def test_addresses_are_distinct_beyond_one_byte() -> None:
    hosts = tuple(f"n{n}" for n in range(1000))
    large = Network(hosts, (), ())
    assert len({large.address(host) for host in hosts}) == 1000
    assert large.address("n999") == "10.0.3.232"


def test_routes_say_the_next_hop() -> None:
    by_destination = {route.destination: route for route in CHAIN.routes("a")}
    assert by_destination["d"].next_hop_address is None
    assert by_destination["b"].link.name == "a-b"
    assert by_destination["c"].next_hop_address == CHAIN.address("b")
    assert by_destination["c"].destination_address == CHAIN.address("c")
    assert all(route.next_hop_address is None for route in TWO_SWITCHES.routes("b"))


def test_what_is_not_there_is_an_error() -> None:
    apart = Network(("d", "a"), (), ())
    assert not apart.is_reachable("d", "a")
    assert apart.is_reachable("d", "d")
    for source, destination in (("d", "a"), ("d", "x"), ("x", "d"), ("x", "x")):
        with pytest.raises(KeyError):
            apart.path(source, destination)


def holds_together(net: Network) -> None:
    """What must hold between all pairs of hosts, whatever the shape."""
    for a, b in itertools.permutations(net.hosts, 2):
        path = net.path(a, b)
        assert net.path(b, a) == path[::-1]
        assert net.path_rate_bps(a, b) == min(link.rate_bps or math.inf for link in path)
        assert net.path_delay_s(a, b) == pytest.approx(sum(link.delay_s for link in path))
        node = a
        for link in path:
            node = link.other_end(node)
        assert node == b
        route = next(route for route in net.routes(a) if route.destination == b)
        assert route.link == path[0]
        assert (route.next_hop_address is None) == (route.next_hop == b)
        travelled: tuple[LinkSpec, ...] = ()
        here = a
        while here != b:  # packets that follow each host's own route take the path
            step = next(route for route in net.routes(here) if route.destination == b).next_hop
            travelled += net.path(here, step)
            here = step
            assert len(travelled) <= len(path)
        assert travelled == path


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_hold_together(shape: str) -> None:
    holds_together(SHAPES[shape])


@given(st.permutations([f"h{n}" for n in range(8)]))
@settings(max_examples=20, deadline=None)
def test_rings_hold_together_in_whatever_order_they_are_declared(nodes: list[str]) -> None:
    holds_together(network(sorted(ring(nodes))))


@st.composite
def connected(draw: st.DrawFn) -> Network:
    """Hosts and switches in a random tree, with more links between hosts."""
    count = draw(st.integers(2, 8))
    nodes = [f"n{n}" for n in range(count)]
    switches = tuple(draw(st.lists(st.sampled_from(nodes[2:]), unique=True)) if count > 2 else ())
    links = [(nodes[draw(st.integers(0, n - 1))], nodes[n]) for n in range(1, count)]
    hosts = [node for node in nodes if node not in switches]
    pairs = [pair for pair in itertools.combinations(hosts, 2) if pair not in links]
    more = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    return network(draw(st.permutations(links + more)), switches)


@given(connected())
@settings(max_examples=100, deadline=None)
def test_any_network_holds_together(net: Network) -> None:
    holds_together(net)

from __future__ import annotations

import pytest

from testbed.emulation.fabric import Fabric
from testbed.spec.links import LinkSpec
from testbed.spec.network import Network


def fabric(hosts: str, switches: str, *links: str) -> Fabric:
    specs = tuple(LinkSpec(between=tuple(link.split("-"))) for link in links)  # type: ignore[arg-type]
    return Fabric(Network(tuple(hosts.split()), tuple(switches.split()), specs), segments=1)


def lines(made: Fabric, node: str) -> list[str]:
    return [" ".join(command) for command in made.commands(node)]


def test_host_of_a_star() -> None:
    made = fabric("a b", "s1", "a-s1", "b-s1")
    assert lines(made, "b") == [
        "ip link set dev lo up",
        "ip link set dev b-eth0 gso_max_segs 1",
        "ip link set dev b-eth0 up",
        "ip address replace 10.0.0.2/32 dev b-eth0",
        "ip neighbor replace 10.0.0.1 lladdr 02:00:00:00:00:02 dev b-eth0 nud permanent",
        "ip neighbor replace 198.18.0.1 lladdr 02:00:00:00:80:00 dev b-eth0 nud permanent",
        "ip route replace 10.0.0.1/32 dev b-eth0 src 10.0.0.2",
        "ip route replace 198.18.0.1/32 dev b-eth0 src 10.0.0.2",
    ]


def test_switch_of_a_star_knows_its_hosts() -> None:
    made = fabric("a b", "s1", "a-s1", "b-s1")
    assert "ip link set dev s1-eth2 master s1" in lines(made, "s1")
    assert "ip neighbor replace 10.0.0.2 lladdr 02:00:00:00:00:04 dev s1 nud permanent" in lines(made, "s1")
    assert made.probe_address("s1") == "198.18.0.1"
    assert made.probe_address("a") == "10.0.0.1"


def test_relaying_host_forwards_and_the_others_route_by_it() -> None:
    made = fabric("a b c", "", "a-b", "b-c")
    assert made.sysctls("b")["ipv4/ip_forward"] == "1"
    assert made.sysctls("a")["ipv4/ip_forward"] == "0"
    assert "ip route replace 10.0.0.3/32 via 10.0.0.2 dev a-eth0 onlink src 10.0.0.1" in lines(made, "a")
    neighbours = [line for line in lines(made, "a") if "neighbor" in line]
    assert neighbours == ["ip neighbor replace 10.0.0.2 lladdr 02:00:00:00:00:03 dev a-eth0 nud permanent"]


def test_neighbour_behind_two_switches_is_its_interface_on_that_path() -> None:
    made = fabric("a b c", "s1 s2", "b-c", "a-s1", "s1-s2", "s2-b")
    mac = made.endpoint("s2-b", "b").mac
    assert f"ip neighbor replace 10.0.0.2 lladdr {mac} dev a-eth0 nud permanent" in lines(made, "a")
    assert "ip neighbor replace 198.18.0.2 lladdr 02:00:00:00:80:01 dev s1 nud permanent" in lines(made, "s1")


def test_address_is_on_the_first_interface_alone() -> None:
    made = fabric("a b c", "", "a-b", "a-c", "b-c")
    assert [line for line in lines(made, "a") if "address" in line] == ["ip address replace 10.0.0.1/32 dev a-eth0"]


def test_interface_whose_name_would_be_too_long_has_a_short_one() -> None:
    others = [f"h{number}" for number in range(11)]
    made = fabric(" ".join(["dispatcher", *others]), "", *(f"dispatcher-{other}" for other in others))
    names = [end.interface for end in made.endpoints_of("dispatcher")]
    assert names[9:] == ["dispatcher-eth9", "eth10"]


def test_every_interface_has_its_own_address() -> None:
    made = fabric("a b c", "s1", "a-b", "a-c", "b-c", "a-s1", "b-s1", "c-s1")
    macs = [end.mac for node in made.nodes for end in made.endpoints_of(node)]
    macs.append(made.bridge_mac("s1"))
    assert len(set(macs)) == len(macs) == 13


def test_ipv6_is_off_everywhere() -> None:
    made = fabric("a b", "s1", "a-s1", "b-s1")
    for node in made.nodes:
        assert made.sysctls(node)["ipv6/conf/default/disable_ipv6"] == "1"


def test_unknown_end_of_a_link() -> None:
    with pytest.raises(KeyError):
        fabric("a b", "s1", "a-s1", "b-s1").endpoint("a-s1", "b")

"""From a network to what each namespace must hold: interfaces, addresses, routes, neighbours, kernel settings.

Pure. Every host and every switch has a network namespace of its own, so the machine's own sees nothing of a run.

- A host has one address, on its first interface, and a host route to every other host.
- Neighbours are fixed, so that no ARP request is lost in a full queue and retried a second later.
- A bridge has an address for the experimenter (198.18.0.0/15, set aside for benchmarks by RFC 2544), known only at the
  other ends of its links: a link to a switch is measured between these two.
- IPv6 is off before any interface is up, or each one sends multicasts that every other one hears.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from testbed.emulation.shaping import Argv
from testbed.spec.experiment import Switching
from testbed.spec.network import Network

_MAX_INTERFACE_NAME = 15
_FIRST_PROBE_ADDRESS = int(ipaddress.IPv4Address("198.18.0.0"))
# Hundredths of a second; longer than any run: a bridge that forgot a silent host would flood all links for it.
_AGEING = "100000000"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One end of a link.

    Attributes:
        node: The host or switch.
        peer: The node at the other end.
        link: Name of the link.
        interface: Name of the interface in the node's namespace.
        mac: Its hardware address.
        port: Mininet's number for it: from 0 at hosts, from 1 at switches.
    """

    node: str
    peer: str
    link: str
    interface: str
    mac: str
    port: int


def _short(name: str, fallback: str) -> str:
    return name if len(name) <= _MAX_INTERFACE_NAME else fallback


class Fabric:
    """What is to be set in the namespaces of a network.

    Args:
        network: The network.
        segments: How many frames a sender may hand down in one piece.
        switching: What the switches are; ports and address of an Open vSwitch are its own business.
    """

    def __init__(self, network: Network, *, segments: int, switching: Switching = "bridge") -> None:
        self.network = network
        self._segments = segments
        self._switching = switching

    @property
    def nodes(self) -> tuple[str, ...]:
        """Hosts, then switches."""
        return (*self.network.hosts, *self.network.switches)

    @cached_property
    def _endpoints(self) -> Mapping[tuple[str, str], Endpoint]:
        """By link name and node."""
        counts = {**dict.fromkeys(self.network.hosts, 0), **dict.fromkeys(self.network.switches, 1)}
        found: dict[tuple[str, str], Endpoint] = {}
        for link in self.network.links:
            for node in link.between:
                port = counts[node]
                counts[node] += 1
                name = _short(f"{node}-eth{port}", f"eth{port}")
                mac = _mac(2 + len(found))
                found[link.name, node] = Endpoint(node, link.other_end(node), link.name, name, mac, port)
        return found

    def endpoint(self, link: str, node: str) -> Endpoint:
        """One end of a link.

        Raises:
            KeyError: If the link doesn't end there.
        """
        return self._endpoints[link, node]

    def endpoints_of(self, node: str) -> tuple[Endpoint, ...]:
        """The ends of links at a node, in the order of the links."""
        return tuple(self._endpoints[link.name, node] for link in self.network.links_of(node))

    def is_switch(self, node: str) -> bool:
        """Whether a node is a switch."""
        return node in self.network.switches

    def bridge(self, switch: str) -> str:
        """Name of a switch's bridge."""
        return _short(switch, "bridge")

    def bridge_mac(self, switch: str) -> str:
        """Hardware address of a switch's bridge; different from those of its ports."""
        return _mac(0x8000 + self.network.switches.index(switch))

    def probe_address(self, node: str) -> str:
        """The address by which the experimenter reaches a node from the other end of one of its links."""
        if not self.is_switch(node):
            return self.network.address(node)
        return str(ipaddress.IPv4Address(_FIRST_PROBE_ADDRESS + 1 + self.network.switches.index(node)))

    def sysctls(self, node: str) -> dict[str, str]:
        """Kernel settings, relative to ``/proc/sys/net``: a new namespace inherits some of the machine's."""
        settings = {f"ipv6/conf/{which}/disable_ipv6": "1" for which in ("all", "default")}
        settings |= {f"ipv4/conf/{which}/rp_filter": "0" for which in ("all", "default")}
        settings |= {f"ipv4/conf/{which}/send_redirects": "0" for which in ("all", "default")}
        settings["ipv4/ip_forward"] = "1" if node in self.network.forwarders else "0"
        # Otherwise a connection starts with what the kernel remembers of an earlier one to the same host.
        settings["ipv4/tcp_no_metrics_save"] = "1"
        return settings

    def commands(self, node: str) -> list[Argv]:
        """``ip`` commands that finish a node whose interfaces exist; running them again restores what was lost."""
        return self._switch(node) if self.is_switch(node) else self._host(node)

    def _host(self, host: str) -> list[Argv]:
        address = self.network.address(host)
        endpoints = self.endpoints_of(host)
        lines: list[Argv] = [("ip", "link", "set", "dev", "lo", "up")]
        for endpoint in endpoints:
            lines.append(self._limit(endpoint))
            lines.append(("ip", "link", "set", "dev", endpoint.interface, "up"))
        if endpoints:
            lines.append(("ip", "address", "replace", f"{address}/32", "dev", endpoints[0].interface))
        neighbours: dict[tuple[str, str], str] = {}
        routes: list[Argv] = []
        for route in self.network.routes(host):
            out = self._endpoints[route.link.name, host].interface
            hop = route.next_hop_address or route.destination_address
            neighbours[out, hop] = self._mac_towards(host, route.next_hop)
            via = ("via", hop, "dev", out, "onlink") if route.next_hop_address else ("dev", out)
            routes.append(("ip", "route", "replace", f"{route.destination_address}/32", *via, "src", address))
        for endpoint in endpoints:
            if self.is_switch(endpoint.peer):
                bridge = self.probe_address(endpoint.peer)
                neighbours[endpoint.interface, bridge] = self.bridge_mac(endpoint.peer)
                routes.append(("ip", "route", "replace", f"{bridge}/32", "dev", endpoint.interface, "src", address))
        return [*lines, *_fixed(neighbours), *routes]

    def _switch(self, switch: str) -> list[Argv]:
        bridge, address = self.bridge(switch), self.probe_address(switch)
        lines: list[Argv] = [
            ("ip", "link", "set", "dev", "lo", "up"),
        ]
        if self._switching == "bridge":
            lines.append(("ip", "link", "set", "dev", bridge, "address", self.bridge_mac(switch)))
        neighbours: dict[tuple[str, str], str] = {}
        routes: list[Argv] = []
        for endpoint in self.endpoints_of(switch):
            lines.append(self._limit(endpoint))
            if self._switching == "bridge":
                lines.append(("ip", "link", "set", "dev", endpoint.interface, "master", bridge))
            lines.append(("ip", "link", "set", "dev", endpoint.interface, "up"))
            peer = self.probe_address(endpoint.peer)
            is_bridge = self.is_switch(endpoint.peer)
            far = self._endpoints[endpoint.link, endpoint.peer]
            neighbours[bridge, peer] = self.bridge_mac(endpoint.peer) if is_bridge else far.mac
            routes.append(("ip", "route", "replace", f"{peer}/32", "dev", bridge, "src", address))
        lines.append(("ip", "link", "set", "dev", bridge, "up"))
        lines.append(("ip", "address", "replace", f"{address}/32", "dev", bridge))
        return [*lines, *_fixed(neighbours), *routes]

    def bridge_command(self, switch: str) -> Argv:
        """Makes the bridge: no spanning tree, so that ports forward at once, and no multicast housekeeping."""
        options = ("stp_state", "0", "forward_delay", "0", "mcast_snooping", "0", "ageing_time", _AGEING)
        return ("ip", "link", "add", "name", self.bridge(switch), "type", "bridge", *options)

    def piece_commands(self, node: str) -> list[Argv]:
        """``ip`` commands that set how many frames may be handed down in one piece."""
        return [self._limit(endpoint) for endpoint in self.endpoints_of(node)]

    def _limit(self, endpoint: Endpoint) -> Argv:
        return ("ip", "link", "set", "dev", endpoint.interface, "gso_max_segs", str(self._segments))

    def _mac_towards(self, host: str, neighbour: str) -> str:
        """Hardware address of the interface at which a neighbour's packets from `host` arrive."""
        return self._endpoints[self.network.path(host, neighbour)[-1].name, neighbour].mac


def _fixed(neighbours: Mapping[tuple[str, str], str]) -> list[Argv]:
    return [
        ("ip", "neighbor", "replace", address, "lladdr", mac, "dev", interface, "nud", "permanent")
        for (interface, address), mac in neighbours.items()
    ]


def _mac(number: int) -> str:
    """A locally administered unicast address."""
    return ":".join(f"{byte:02x}" for byte in (0x02 << 40 | number).to_bytes(6, "big"))

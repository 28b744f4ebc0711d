"""The emulated network as a graph: addresses, routes, and what a path can carry.

Pure: nothing here touches the machine.
"""

from __future__ import annotations

import heapq
import ipaddress
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from testbed.spec.experiment import Experiment
from testbed.spec.links import LinkSettings, LinkSpec

PREFIX_LENGTH = 8
_FIRST_ADDRESS = int(ipaddress.IPv4Address("10.0.0.0"))


@dataclass(frozen=True, slots=True)
class Route:
    """Where a host sends packets for another.

    Attributes:
        destination: Name of the host that the packets are for.
        destination_address: Its address.
        link: The link that they leave by.
        next_hop: Name of the next host on the way; the destination itself when it is on-link.
        next_hop_address: Address of the host that forwards them; None when the destination is on-link.
    """

    destination: str
    destination_address: str
    link: LinkSpec
    next_hop: str
    next_hop_address: str | None


@dataclass(frozen=True)
class _Tree:
    """Best paths from one node to all others: the link and node before each node on its path from the root."""

    before: Mapping[str, tuple[str, LinkSpec]]


@dataclass(frozen=True)
class Network:
    """Hosts, switches, and links between them.

    A path passes as few forwarding hosts as it can, then as few links; among equal ones the path that does without the
    link declared last is best. So the best path is unique: the same there and back, and each hop agrees with the next.

    Attributes:
        hosts: The dispatcher first, the others in the order of the file.
        switches: In the order of the file.
        links: In the order of the file.
    """

    hosts: tuple[str, ...]
    switches: tuple[str, ...]
    links: tuple[LinkSpec, ...]
    _trees: dict[str, _Tree] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, experiment: Experiment) -> Network:
        """The network of an experiment."""
        return cls((experiment.dispatcher, *experiment.workers), experiment.switches, experiment.links)

    @cached_property
    def _addresses(self) -> Mapping[str, str]:
        return {host: str(ipaddress.IPv4Address(_FIRST_ADDRESS + n)) for n, host in enumerate(self.hosts, start=1)}

    @cached_property
    def _links_at(self) -> Mapping[str, tuple[tuple[int, LinkSpec], ...]]:
        at: dict[str, list[tuple[int, LinkSpec]]] = {node: [] for node in (*self.hosts, *self.switches)}
        for index, link in enumerate(self.links):
            for node in link.between:
                at[node].append((index, link))
        return {node: tuple(links) for node, links in at.items()}

    @cached_property
    def _index_of(self) -> Mapping[frozenset[str], int]:
        return {frozenset(link.between): index for index, link in enumerate(self.links)}

    def address(self, host: str) -> str:
        """IPv4 address; a host has one, whichever link it is reached by.

        Raises:
            KeyError: If there is no such host.
        """
        return self._addresses[host]

    def links_of(self, node: str) -> tuple[LinkSpec, ...]:
        """The links of a host or switch, in the order of the file: its interface ``eth0`` is on the first.

        Raises:
            KeyError: If there is no such node.
        """
        return tuple(link for _, link in self._links_at[node])

    def link(self, one: str, other: str) -> LinkSpec:
        """The link between two nodes, named in either order.

        Raises:
            KeyError: If none joins them.
        """
        return self.links[self._index_of[frozenset((one, other))]]

    def is_reachable(self, source: str, destination: str) -> bool:
        """Whether any path joins two nodes."""
        return source == destination or destination in self._tree(source).before

    def path(self, source: str, destination: str) -> tuple[LinkSpec, ...]:
        """The links between two hosts, in order from `source`; none when they are the same host.

        Raises:
            KeyError: If there is no such host, or no path.
        """
        return tuple(link for _, link, _ in self._steps(source, destination))

    def _ways(self, source: str, destination: str) -> Iterator[LinkSettings]:
        """The settings of each link on the path, in the direction of the path."""
        return (link.way(node) for node, link, _ in self._steps(source, destination))

    def path_rate_bps(self, source: str, destination: str) -> float:
        """Rate of the slowest link on the path; infinite when none is shaped."""
        rates = (way.rate_bps for way in self._ways(source, destination))
        return min((float(rate) for rate in rates if rate is not None), default=math.inf)

    def path_rates_bps(self, source: str, destination: str) -> tuple[float, ...]:
        """Rate of each link on the path, in order; infinite for one that isn't shaped."""
        return tuple(
            math.inf if way.rate_bps is None else float(way.rate_bps) for way in self._ways(source, destination)
        )

    def path_links(self, source: str, destination: str) -> tuple[tuple[str, float], ...]:
        """Name and rate of each direction of a link that the path crosses, in order; without those not shaped."""
        return tuple(
            (f"{node} → {after}", float(rate))
            for node, link, after in self._steps(source, destination)
            if (rate := link.way(node).rate_bps) is not None
        )

    def path_delay_s(self, source: str, destination: str) -> float:
        """One-way delay of the path."""
        return math.fsum(way.delay_s for way in self._ways(source, destination))

    def path_loss(self, source: str, destination: str) -> float:
        """Share of packets lost on the path, if the links lose them independently."""
        return 1 - math.prod(1 - way.mean_loss for way in self._ways(source, destination))

    def routes(self, host: str) -> tuple[Route, ...]:
        """How a host reaches each other host, in the order of `hosts`.

        Raises:
            KeyError: If there is no such host, or one can't be reached from it.
        """
        return tuple(self._route(host, other) for other in self.hosts if other != host)

    @cached_property
    def forwarders(self) -> tuple[str, ...]:
        """The hosts that must forward packets of others, in the order of `hosts`."""
        forwarding = {route.next_hop for host in self.hosts for route in self.routes(host) if route.next_hop_address}
        return tuple(host for host in self.hosts if host in forwarding)

    def _route(self, host: str, destination: str) -> Route:
        hosts = self._addresses
        steps = list(self._steps(host, destination))
        next_hop = next(end for _, _, end in steps if end in hosts)
        gateway = None if next_hop == destination else hosts[next_hop]
        return Route(destination, hosts[destination], steps[0][1], next_hop, gateway)

    def _steps(self, source: str, destination: str) -> Iterator[tuple[str, LinkSpec, str]]:
        """Each link of the path with the node before and after it."""
        before = self._tree(destination).before
        node = source
        if node not in self._links_at:
            raise KeyError(node)
        while node != destination:
            after, link = before[node]
            yield node, link, after
            node = after

    def _tree(self, root: str) -> _Tree:
        if root not in self._trees:
            self._trees[root] = self._grow(root)
        return self._trees[root]

    def _grow(self, root: str) -> _Tree:
        """Dijkstra's algorithm over (forwarding hosts, links); ties are decided by the links that the paths use."""
        before: dict[str, tuple[str, LinkSpec]] = {}
        cost: dict[str, tuple[int, int]] = {root: (0, 0)}
        queue = [(0, 0, root)]
        done: set[str] = set()
        while queue:
            *_, node = heapq.heappop(queue)
            if node in done:
                continue
            done.add(node)
            forwards = node != root and node in self._addresses
            candidate = (cost[node][0] + forwards, cost[node][1] + 1)
            for index, link in self._links_at[node]:
                other = link.other_end(node)
                if other in done:
                    continue
                if other not in cost or candidate < cost[other]:
                    heapq.heappush(queue, (*candidate, other))
                elif candidate > cost[other] or not self._is_preferred(before, (node, index), other):
                    continue
                cost[other] = candidate
                before[other] = (node, link)
        return _Tree(before)

    def _is_preferred(self, before: Mapping[str, tuple[str, LinkSpec]], rival: tuple[str, int], node: str) -> bool:
        """Whether the path over the rival does without the last-declared link that the two paths don't share."""
        present_node, present_link = before[node]
        present = self._indices(before, present_node) | {self._index_of[frozenset(present_link.between)]}
        challenging = self._indices(before, rival[0]) | {rival[1]}
        return max(present - challenging, default=-1) > max(challenging - present, default=-1)

    def _indices(self, before: Mapping[str, tuple[str, LinkSpec]], node: str) -> set[int]:
        used: set[int] = set()
        while node in before:
            node, link = before[node]
            used.add(self._index_of[frozenset(link.between)])
        return used

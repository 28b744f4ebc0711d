"""The links of a living cluster: shape them, delay them, change them in place, read everything back, count.

Each link is two directions; each direction is shaped at its sending interface (:mod:`testbed.emulation.shaping`) and,
without netem, delayed at its receiving one (:mod:`testbed.emulation.delayline`).
"""

from __future__ import annotations

import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping

from testbed.emulation import namespace, queues, shaping
from testbed.emulation.delay_service import DelayService, QueueSettings
from testbed.emulation.directions import Direction, LinkCounters
from testbed.emulation.fabric import Fabric
from testbed.emulation.interception import BRIDGE_INTERCEPTION, Interception, Interceptor
from testbed.emulation.netlink import RouteSocket
from testbed.emulation.overlay import Modification, overlaid
from testbed.emulation.queues import QueueCounters
from testbed.emulation.shaping import Argv, Egress, Shape
from testbed.errors import MachineError
from testbed.spec.links import LinkSpec

NEEDS_NETEM = "netem can: load it with modprobe sch_netem, and don't force --delay-backend delayline"


def _both_delays_s(link: LinkSpec) -> float:
    return sum(link.way(source).delay_s for source in link.between)


class LinkControl:
    """All links of a cluster whose interfaces exist.

    Args:
        fabric: Names of everything.
        pids: A process in each node's namespace.
        segments: How many frames a sender may hand down in one piece.
        delay_service: Gives the delay line, ready to serve; None where netem does its work.
        seed: Of the random losses.
    """

    def __init__(
        self,
        fabric: Fabric,
        pids: Mapping[str, int],
        *,
        segments: int,
        delay_service: Callable[[], DelayService] | None,
        seed: int,
    ) -> None:
        self.fabric = self._fabric = fabric
        self._pids = pids
        self._segments = segments
        self._delay_service = delay_service
        self._seed = seed
        self._lock = threading.RLock()
        self._interceptor = Interceptor()
        self._pieces_are_cut = segments == 1
        self._bound: set[str] = set()
        self._sockets: dict[str, RouteSocket] = {}
        self._indexes: dict[tuple[str, str], int] = {}
        self._directions = [
            direction
            for number, link in enumerate(fabric.network.links)
            for direction in self._both_ways(2 * number, link, fabric.network.links)
        ]

    def _both_ways(self, number: int, link: LinkSpec, links: tuple[LinkSpec, ...]) -> Iterable[Direction]:
        # A path has other links too: the longest of them stands for all, exactly so in a star.
        others_s = max((_both_delays_s(other) for other in links if other is not link), default=0.0)
        first, second = (self._fabric.endpoint(link.name, node) for node in link.between)
        for offset, (source, target) in enumerate(((first, second), (second, first))):
            interception = Interception(target.interface, self._fabric.is_switch(target.node), number + offset)
            declared = Shape.of(link.way(source.node))
            round_trip_s = _both_delays_s(link) + others_s
            yield Direction(source, target, declared, declared, Shape(), round_trip_s, number + offset, interception)

    def start(self) -> None:
        """Shape all links as declared.

        Raises:
            MachineError: If something can't be set or is read back otherwise; names the link.
        """
        for node in self._fabric.nodes:
            with namespace.entered(self._pids[node]):
                self._sockets[node] = RouteSocket()
            for interface in self._sockets[node].interfaces():
                self._indexes[node, interface.name] = interface.index
        self._apply({id(direction): direction.base for direction in self._directions}, self._directions)

    def close(self) -> None:
        """Let go of the namespaces; twice is fine."""
        for sock in self._sockets.values():
            sock.close()
        self._sockets = {}

    def set(self, link: str, changes: Callable[[Shape], Shape], source: str | None = None) -> None:
        """Change a link in place; faults in force on it stay.

        Args:
            link: Its name.
            changes: From the shape that is set on a direction, faults aside, to the new one.
            source: The end that sends in the direction to change; None for both directions.

        Raises:
            KeyError: If there is no such link, or it doesn't end at `source`.
            MachineError: If something can't be set or is read back otherwise.
        """
        with self._lock:
            directions = [one for one in self._of(link) if source is None or one.source.node == source]
            if not directions:
                raise KeyError(source)
            self._set({id(direction): changes(direction.base) for direction in directions}, directions)

    def restore(self, link: str) -> None:
        """Bring both directions of a link back to what was declared; as :meth:`set`."""
        with self._lock:
            directions = self._of(link)
            self._set({id(direction): direction.declared for direction in directions}, directions)

    def _set(self, bases: Mapping[int, Shape], directions: list[Direction]) -> None:
        wanted = {id(one): overlaid(bases[id(one)], one.faults.values()) for one in directions}
        self._apply(wanted, directions)
        for direction in directions:
            direction.base = bases[id(direction)]

    def modify(
        self, ways: Iterable[tuple[str, str]], fault: Hashable, modification: Modification | None
    ) -> tuple[Shape, ...]:
        """Lay a fault over directions of links, change it, or take it away again.

        Args:
            ways: Name of a link and the end that sends, for each direction.
            fault: What tells this fault from others.
            modification: What it does; None takes it away.

        Returns:
            What is in force then on each direction, as read back.

        Raises:
            KeyError: If there is no such link, or it doesn't end there.
            MachineError: If something can't be set or is read back otherwise.
        """
        with self._lock:
            directions = [self._way(link, source) for link, source in ways]
            mine = {} if modification is None else {fault: modification}
            faults = {
                id(one): {key: there for key, there in one.faults.items() if key != fault} | mine for one in directions
            }
            wanted = {id(one): overlaid(one.base, faults[id(one)].values()) for one in directions}
            self._apply(wanted, directions)
            for direction in directions:
                direction.faults = faults[id(direction)]
            return tuple(direction.current for direction in directions)

    def _cut_up_pieces(self) -> None:
        """Have senders hand down single frames: netem draws once for all the frames of a piece.

        Without netem the delay line's queues cut them up.
        """
        self.fabric = self._fabric = Fabric(self._fabric.network, segments=1)
        self._pieces_are_cut = True
        for node in self._fabric.nodes:
            namespace.run_batch(self._pids[node], "ip", self._fabric.piece_commands(node))

    def current(self, link: str, source: str) -> Shape:
        """What the kernel does now on the direction that leaves `source`."""
        return self._way(link, source).current

    def declared(self, link: str, source: str) -> Shape:
        """The shape that the direction that leaves `source` had at the start."""
        return self._way(link, source).declared

    def counters(self) -> list[LinkCounters]:
        """Counters of every direction; two messages to the kernel for each namespace.

        Raises:
            MachineError: If the cluster isn't running.
        """
        if not self._sockets:
            raise MachineError("the emulated links aren't up")
        found: list[LinkCounters] = []
        for node, directions in self._by_node(self._directions, lambda direction: direction.source.node).items():
            with self._lock:  # not while a queue is replaced; and a fault waits for one node at most
                found += self._totals(node, directions)
        return found

    def _totals(self, node: str, directions: list[Direction]) -> list[LinkCounters]:
        return [
            LinkCounters(
                direction.source.link,
                node,
                direction.target.node,
                t_s,
                counted.sent_bytes + direction.carried.sent_bytes,
                counted.sent_packets + direction.carried.sent_packets,
                counted.drops + direction.carried.drops,
                counted.backlog_bytes,
            )
            for t_s, direction, counted in self._counted(node, directions)
        ]

    def _counted(self, node: str, directions: list[Direction]) -> Iterator[tuple[float, Direction, QueueCounters]]:
        """What the kernel has counted for directions that leave a node, and when it was asked."""
        roots = queues.root_counters(self._sockets[node])
        t_s = time.monotonic()
        indexes = [self._indexes[node, direction.source.interface] for direction in directions]
        # An interface without a queue counts by itself; frames handed down as one then have one header.
        bare = {} if roots.keys() >= set(indexes) else {i.index: i for i in self._sockets[node].interfaces()}
        for direction, index in zip(directions, indexes, strict=True):
            if index in roots:
                yield t_s, direction, roots[index]
            else:
                state = bare[index]
                yield t_s, direction, QueueCounters(state.sent_bytes, state.sent_packets, state.send_drops, 0)

    def set_host_up(self, host: str, up: bool) -> None:
        """Cut a host off, or bring its interfaces, addresses and routes back.

        Raises:
            MachineError: If the kernel refuses.
        """
        with self._lock:
            try:
                for endpoint in self._fabric.endpoints_of(host):
                    self._sockets[host].set_up(self._indexes[host, endpoint.interface], up)
            except OSError as error:
                verb = "up" if up else "down"
                raise MachineError(f"can't bring the links of {host} {verb}: {error.strerror}") from error
            if up:
                # The kernel forgot routes and neighbours when the interfaces went down.
                namespace.run_batch(self._pids[host], "ip", self._fabric.commands(host))

    def _of(self, link: str) -> list[Direction]:
        found = [direction for direction in self._directions if direction.source.link == link]
        if not found:
            raise KeyError(link)
        return found

    def _way(self, link: str, source: str) -> Direction:
        for direction in self._of(link):
            if direction.source.node == source:
                return direction
        raise KeyError(source)

    def _egress(self, direction: Direction, shape: Shape) -> Egress:
        return Egress(shape, direction.round_trip_s, self._segments, with_netem=self._delay_service is None)

    @staticmethod
    def _by_node(directions: Iterable[Direction], node: Callable[[Direction], str]) -> dict[str, list[Direction]]:
        grouped: dict[str, list[Direction]] = defaultdict(list)
        for direction in directions:
            grouped[node(direction)].append(direction)
        return grouped

    def _apply(self, wanted: Mapping[int, Shape], directions: list[Direction]) -> None:
        by_netem = self._delay_service is None
        for direction in directions:
            if wanted[id(direction)].duplicate and not by_netem:
                raise MachineError(f"{direction.label}: the delay line can't double packets", remedy=NEEDS_NETEM)
        if by_netem and not self._pieces_are_cut and any(wanted[id(direction)].is_drawn for direction in directions):
            self._cut_up_pieces()
        for node, arriving in self._by_node(directions, lambda direction: direction.target.node).items():
            self._delay(node, [(direction, wanted[id(direction)]) for direction in arriving])
        for node, leaving in self._by_node(directions, lambda direction: direction.source.node).items():
            self._shape(node, [(direction, wanted[id(direction)]) for direction in leaving])
            self._read_back(node, [(direction, wanted[id(direction)]) for direction in leaving])
        for direction in directions:
            direction.current = wanted[id(direction)]

    def _shape(self, node: str, wanted: list[tuple[Direction, Shape]]) -> None:
        commands: list[Argv] = []
        replaced: list[Direction] = []
        for direction, shape in wanted:
            before, after = self._egress(direction, direction.current), self._egress(direction, shape)
            quick = shaping.change_of_rate(before, after)
            if quick is not None:
                self._change_rate(direction, *quick)
                continue
            commands += shaping.change(direction.source.interface, before, after)
            if shaping.has_queue(before) != shaping.has_queue(after):
                replaced.append(direction)
        if not commands:
            return
        old = [counted for _, _, counted in self._counted(node, replaced)]
        try:
            namespace.run_batch(self._pids[node], "tc", commands)
        except MachineError as error:
            raise MachineError(f"can't shape the links of {node}: {error.message}", remedy=error.remedy) from error
        for (_, direction, new), counted in zip(self._counted(node, replaced), old, strict=True):
            direction.carried = QueueCounters(
                direction.carried.sent_bytes + counted.sent_bytes - new.sent_bytes,
                direction.carried.sent_packets + counted.sent_packets - new.sent_packets,
                direction.carried.drops + counted.drops - new.drops,
                0,
            )

    def _change_rate(self, direction: Direction, setting: queues.RateSetting, limit: queues.LeafLimit) -> None:
        node = direction.source.node
        index = self._indexes[node, direction.source.interface]
        try:
            for kind, body in queues.rate_messages(index, setting, limit):
                self._sockets[node].request(kind, body)
        except OSError as error:
            raise MachineError(f"{direction.label}: can't change its rate: {error.strerror or error}") from error

    def _read_back(self, node: str, wanted: list[tuple[Direction, Shape]]) -> None:
        sock = self._sockets[node]
        indexes = {self._indexes[node, direction.source.interface] for direction, _ in wanted}
        states = queues.egress_states(sock, indexes)
        for direction, shape in wanted:
            state = states[self._indexes[node, direction.source.interface]]
            wrong = shaping.differences(self._egress(direction, shape), state)
            if wrong:
                raise MachineError(
                    f"{direction.label}: {'; '.join(wrong)}", remedy="the kernel's packet scheduler doesn't do it"
                )

    def _delay(self, node: str, wanted: list[tuple[Direction, Shape]]) -> None:
        """Set delay and loss of what arrives at a node; rules come after the reader, and go before it lets go."""
        if self._delay_service is None:
            return
        held = [
            (direction, shape)
            for direction, shape in wanted
            if shape.impairment != direction.current.impairment or shape.is_impaired != direction.intercepted
        ]
        if not held:
            return
        service = self._delay_service()
        settings = [
            QueueSettings(direction.queue, shape.impairment, self._seed_of(direction)) for direction, shape in held
        ]
        try:
            if node in self._bound:
                service.change(node, settings)
            else:
                if self._fabric.is_switch(node):
                    namespace.set_sysctls(self._pids[node], BRIDGE_INTERCEPTION)
                service.bind(node, self._pids[node], settings)
                self._bound.add(node)
            add = [direction for direction, shape in held if shape.is_impaired and not direction.intercepted]
            remove = [direction for direction, shape in held if not shape.is_impaired and direction.intercepted]
            self._interceptor.apply(
                self._pids[node],
                [direction.interception for direction in add],
                [direction.interception for direction in remove],
            )
        except MachineError as error:
            names = ", ".join(sorted({direction.source.link for direction, _ in held}))
            raise MachineError(f"can't delay {names} at {node}: {error.message}", remedy=error.remedy) from error
        for direction in add:
            direction.intercepted = True
        for direction in remove:
            direction.intercepted = False

    def _seed_of(self, direction: Direction) -> int:
        """Different for each direction, the same in each run of the same spec and seed."""
        return zlib.crc32(f"{self._seed}/{direction.source.link}/{direction.source.node}".encode())

"""Pairs of hosts that can't reach each other, whatever links they share.

Where hosts share a switch no link can be cut without cutting others off too, so each host of a pair drops what comes
from the other when it arrives: a rule for its address in iptables' mangle table, chain INPUT, of the host's own network
namespace. Nobody is told: a packet is on its way as always, and lost at the end of it. What a host only relays to
others, in a network without switches, passes.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from testbed.emulation.packet_rules import PacketRules

Pair = frozenset[str]

_AT_ONCE = 8


def drop_rule(address: str) -> str:
    """Drops what arrives from an address, as iptables-save prints it."""
    return f"-A INPUT -s {address}/32 -j DROP"


class Cuts:
    """Which pairs are cut, by which faults.

    Args:
        hosts: For each host a process in its network namespace, and its address.
    """

    def __init__(self, hosts: Mapping[str, tuple[int, str]]) -> None:
        self._hosts = hosts
        self._rules = PacketRules()
        self._faults: dict[Hashable, frozenset[Pair]] = {}
        self._lock = threading.Lock()

    def set(self, fault: Hashable, pairs: Iterable[tuple[str, str]]) -> None:
        """Cut the pairs of a fault, and no others for it; without pairs it is healed.

        Raises:
            KeyError: If there is no such host.
            MachineError: If a rule can't be set or taken away, as read back.
        """
        with self._lock:
            mine = frozenset(frozenset(pair) for pair in pairs)
            others = {key: cut for key, cut in self._faults.items() if key != fault}
            before = frozenset().union(*self._faults.values())
            after = mine.union(*others.values())
            add, remove = self._arrivals(after - before), self._arrivals(before - after)
            changed = sorted(add.keys() | remove.keys())
            # Each host takes two short processes, mostly waiting; side by side the cut is as sudden as it can be.
            with ThreadPoolExecutor(_AT_ONCE, "cuts") as pool:
                done = [
                    pool.submit(self._rules.apply, self._hosts[host][0], add.get(host, ()), remove.get(host, ()))
                    for host in changed
                ]
            for one in done:
                one.result()
            self._faults = {**others, fault: mine} if mine else others

    def _arrivals(self, pairs: Iterable[Pair]) -> dict[str, list[str]]:
        """The rules of each host for the others of its pairs."""
        found: dict[str, list[str]] = {}
        for one, other in sorted(tuple(sorted(pair)) for pair in pairs):
            for host, source in ((one, other), (other, one)):
                found.setdefault(host, []).append(drop_rule(self._hosts[source][1]))
        return found

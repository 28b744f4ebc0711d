"""The iptables rules that hand arriving packets to the delay line.

A packet is queued where it *arrives*: at the sender it would still belong to its socket, and TCP Small Queues would
throttle it (4.5 instead of 95 Mbit/s). At a host's end that is its interface; at a switch's, the port of the bridge,
for which bridged packets must pass iptables (``bridge-nf-call-iptables``, a setting of each namespace).

There is no ``--queue-bypass``: if nobody reads the queue, packets must stop, not run undelayed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from testbed.emulation.packet_rules import PacketRules

BRIDGE_INTERCEPTION = {"bridge/bridge-nf-call-iptables": "1"}
"""Setting of a switch's namespace under which its packets pass iptables."""


@dataclass(frozen=True, slots=True)
class Interception:
    """Packets that arrive on an interface go to a queue.

    Attributes:
        interface: A host's interface, or a port of a bridge.
        is_port: Whether it is a port of a bridge.
        queue: Number of the NFQUEUE.
    """

    interface: str
    is_port: bool
    queue: int

    def rule(self) -> str:
        """The rule, as iptables-save prints it."""
        arriving = f"-m physdev --physdev-in {self.interface}" if self.is_port else f"-i {self.interface}"
        return f"-A PREROUTING {arriving} -j NFQUEUE --queue-num {self.queue}"


class Interceptor:
    """Sets the rules."""

    def __init__(self) -> None:
        self._rules = PacketRules()

    def apply(self, pid: int, add: Iterable[Interception], remove: Iterable[Interception] = ()) -> None:
        """Add and remove rules in the namespace of a process, and read them back.

        Raises:
            MachineError: If no variant of iptables can, or a rule isn't there afterwards.
        """
        self._rules.apply(pid, [one.rule() for one in add], [one.rule() for one in remove])

"""One direction of an emulated link: what is declared, set, laid over it by faults, in force and counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from dataclasses import dataclass

from testbed.emulation.fabric import Endpoint
from testbed.emulation.interception import Interception
from testbed.emulation.overlay import Modification
from testbed.emulation.queues import QueueCounters
from testbed.emulation.shaping import Shape

_NOTHING = QueueCounters(0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class LinkCounters:
    """Totals of one direction since the start, and what waits now.

    Attributes:
        link: Name of the link.
        source, target: Its sending and receiving node.
        t_s: When they were read (CLOCK_MONOTONIC).
        sent_bytes, sent_packets: What has left the queue; Ethernet headers count.
        drops: Packets that found the queue full; with netem also those it lost on purpose.
        backlog_bytes: What waits in the queue.
    """

    link: str
    source: str
    target: str
    t_s: float
    sent_bytes: int
    sent_packets: int
    drops: int
    backlog_bytes: int


@dataclass
class Direction:
    """One direction: from the endpoint `source` to the endpoint `target`.

    Attributes:
        source, target: Where packets are sent, and where they arrive.
        declared: What the specification says.
        base: What is set, faults aside.
        current: What the kernel does.
        round_trip_s: Of the paths through the link, for the length of the queue.
        queue: Number of its NFQUEUE.
        interception: The rule that hands arriving packets to the delay line.
        intercepted: Whether that rule is set.
        carried: To be added to the kernel's counts, which begin afresh when a queue is made, and end with it.
        faults: What lies over the base.
    """

    source: Endpoint
    target: Endpoint
    declared: Shape
    base: Shape
    current: Shape
    round_trip_s: float
    queue: int
    interception: Interception
    intercepted: bool = False
    carried: QueueCounters = _NOTHING
    faults: dict[Hashable, Modification] = dataclasses.field(default_factory=dict)

    @property
    def label(self) -> str:
        """For messages."""
        return f"link {self.source.link}, {self.source.node} → {self.target.node}"

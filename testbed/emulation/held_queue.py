"""One direction of one link in the delay line: which packets it holds, and until when.

Packets leave in order of arrival unless the settings ask for overtaking, also across a change of the delay: a shorter
one never lets a packet overtake those before it. That is what allows one verdict for all packets that are due. A packet
that overtakes has a verdict of its own.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import Any, Protocol

from testbed.emulation import nfqueue
from testbed.emulation.impairment import Dice, Impairment
from testbed.emulation.lateness import LatenessHistogram


class Outlet(Protocol):
    """Where verdicts go."""

    def send(self, datagram: bytes, /) -> int:
        """Send a message to the kernel."""


class HeldQueue:
    """One direction of one link.

    Args:
        channel: The socket of its namespace.
        number: Number of the queue there.
        impairment: What to do to its packets.
        seed: Start of the random numbers that decide.
    """

    __slots__ = (
        "_dice",
        "_in_order",
        "_last_due_s",
        "_shuffled",
        "_singly",
        "channel",
        "impairment",
        "lost",
        "number",
        "overtaking",
        "released",
    )

    def __init__(self, channel: Outlet, number: int, impairment: Impairment, seed: int) -> None:
        self.channel = channel
        self.number = number
        self.impairment = impairment
        self._dice = Dice(impairment, seed)
        self._in_order: deque[tuple[float, int]] = deque()
        # Once packets may have been shuffled, a verdict for all up to a packet could let go of one that isn't due.
        self._shuffled: list[tuple[float, int]] = []
        self._singly = impairment.jitter_reorders
        self._last_due_s = 0.0
        self.released = 0
        self.lost = 0
        self.overtaking = 0

    def set(self, impairment: Impairment) -> None:
        """Other settings for the packets that come from now on."""
        self.impairment = impairment
        self._dice.set(impairment)
        if impairment.jitter_reorders and not self._singly:
            self._singly = True
            self._shuffled = list(self._in_order)  # sorted, hence a heap
            self._in_order.clear()

    def __len__(self) -> int:
        """How many packets are held."""
        return len(self._shuffled) if self._singly else len(self._in_order)

    @property
    def next_due_s(self) -> float:
        """When the next packet is due.

        Raises:
            IndexError: If none is held.
        """
        return (self._shuffled if self._singly else self._in_order)[0][0]

    def take(self, now_s: float, packet: int) -> None:
        """Hold a packet that has just come, or drop it, or let it overtake those that are held."""
        dice = self._dice
        if dice.loses is not None and dice.loses():
            self.lost += 1
            self.channel.send(nfqueue.verdict(self.number, packet, nfqueue.DROP))
            return
        if dice.overtakes is not None and dice.overtakes():
            self.overtaking += 1
            self.released += 1
            self.channel.send(nfqueue.verdict(self.number, packet, nfqueue.ACCEPT))
            return
        due_s = now_s + dice.delays()
        if not self._singly:
            held = self._in_order
            if held and held[-1][0] > due_s:
                due_s = held[-1][0]
            held.append((due_s, packet))
            return
        if not self.impairment.jitter_reorders:
            due_s = max(due_s, self._last_due_s)
        self._last_due_s = max(due_s, self._last_due_s)
        heapq.heappush(self._shuffled, (due_s, packet))

    def release(self, now_s: float, lead_s: float, lateness: LatenessHistogram) -> None:
        """Let go of all packets that are due within `lead_s`."""
        if self._singly:
            while self._shuffled and self._shuffled[0][0] - lead_s <= now_s:
                due_s, packet = heapq.heappop(self._shuffled)
                lateness.add(now_s - due_s)
                self.released += 1
                self.channel.send(nfqueue.verdict(self.number, packet, nfqueue.ACCEPT))
            return
        held = self._in_order
        last = -1
        while held and held[0][0] - lead_s <= now_s:
            due_s, last = held.popleft()
            lateness.add(now_s - due_s)
            self.released += 1
        if last >= 0:
            self.channel.send(nfqueue.verdict_up_to(self.number, last, nfqueue.ACCEPT))

    def state(self) -> dict[str, Any]:
        """Its settings and counts."""
        return {
            "number": self.number,
            "impairment": self.impairment.to_json(),
            "held": len(self),
            "released": self.released,
            "lost": self.lost,
            "overtaking": self.overtaking,
        }

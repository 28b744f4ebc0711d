"""The measuring process: reads a request as JSON from its standard input, writes the answer to its standard output.

One thread, one socket at each end of each link. A round trip is a datagram sent from the first end, sent back from the
second as soon as this process sees it there, and received at the first: two crossings as programs see them. The rate
is what arrives while the sender offers more than the link takes: loss doesn't matter, and neither does the full bucket
that the link begins with, which is emptied at once, and the first part isn't counted. Arrivals have the kernel's time
stamps, so the rate isn't wrong when this process gets the CPU late. At high rates several frames are handed over as
one.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from testbed.emulation.namespace import entered
from testbed.emulation.syscalls import signal_on_parent_death
from testbed.emulation.timer import allow_no_timer_slack

_HEADERS_BYTES = 14 + 20 + 8  # Ethernet, IPv4, UDP
_PAYLOAD_BYTES = 1472
_FRAME_BITS = 8 * (_PAYLOAD_BYTES + _HEADERS_BYTES)
_PIECE_S = 0.0005
_MAX_FRAMES = 32
_SEQUENCE = struct.Struct("=I")
_SPACING_S = 0.012
_ROUND_TRIP_DEADLINE_S = 2.0
_OVERLOAD = 1.15
_TICK_S = 0.002
_WARM_UP = 0.2  # share of the time after which arrivals count
_MAX_BURST = 128  # frames
# More than the bucket of a slow link holds; the overload alone would take a second to empty that of 100 kbit/s.
_HEAD_START = 4  # frames
_LEAST_FRAMES = 16
"""So many must fit into the time for which a link is measured."""
_DRAIN_FRAMES = 12  # what waits in the shortest queue, and more
_SO_RCVBUFFORCE = 33
_SO_SNDBUFFORCE = 32
_BUFFER_BYTES = 8 << 20
_PRIORITY = 5  # below the delay line's
_UDP_SEGMENT = 103
_UDP_GRO = 104
_SIOCGSTAMPNS = 0x8907
_STAMP = struct.Struct("=qq")


@dataclass
class Link:
    """One link under measurement; index 0 is its first end."""

    sockets: list[socket.socket]
    addresses: list[tuple[str, int]]
    rates_bps: list[int | None]
    rtts_s: list[float] = field(default_factory=list)
    went_s: list[float] = field(default_factory=list)  # when each of them began
    measured_bps: list[float | None] = field(default_factory=lambda: [None, None])

    @classmethod
    def open(cls, job: dict[str, Any]) -> Link:
        """Open a socket at each end."""
        sockets: list[socket.socket] = []
        for pid, address in zip(job["pids"], job["addresses"], strict=True):
            with entered(pid):
                end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            end.setblocking(False)
            end.bind((address, 0))
            end.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
            end.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BUFFER_BYTES)
            sockets.append(end)
        return cls(sockets, [end.getsockname() for end in sockets], job["rates_bps"])


@dataclass
class _Flow:
    """One direction under overload: how much was sent, and how much arrived when."""

    source: socket.socket
    target: socket.socket
    address: tuple[str, int]
    rate_bps: int
    began_s: float
    sent: int = 0
    first_s: float = 0.0
    last_s: float = 0.0
    arrived_bytes: int = 0

    def __post_init__(self) -> None:
        self._frames = max(1, min(_MAX_FRAMES, int(self.rate_bps * _PIECE_S / _FRAME_BITS)))
        self._piece = memoryview(_PAYLOAD)[: self._frames * _PAYLOAD_BYTES]
        if self._frames > 1:
            self.source.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, _PAYLOAD_BYTES)
            self.target.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)
        self._arrival_s()  # the first question makes the kernel stamp what comes from now on

    def send(self, now_s: float) -> None:
        """Send what is due by now, so that the link has more to do than it can."""
        offered = (now_s - self.began_s) * self.rate_bps * _OVERLOAD / _FRAME_BITS
        due = int(offered) + _HEAD_START + self._frames
        # After a stall of this process the link's queue has run empty, but a flood would only be dropped.
        self.sent = max(self.sent, due - _MAX_BURST)
        while self.sent + self._frames <= due:
            try:
                self.source.sendto(self._piece, self.address)
            except BlockingIOError:
                return
            self.sent += self._frames

    def receive(self, is_counted: bool) -> None:
        """Take what has arrived; the warm-up isn't counted."""
        with contextlib.suppress(BlockingIOError):
            while True:
                size = self.target.recv_into(_SINK)
                if not is_counted:
                    continue
                if not self.first_s:
                    self.first_s = self._arrival_s()
                else:
                    self.arrived_bytes += size + _HEADERS_BYTES * -(-size // _PAYLOAD_BYTES)
        if self.arrived_bytes:
            self.last_s = self._arrival_s()

    def _arrival_s(self) -> float:
        """When the datagram that was read last came (CLOCK_REALTIME); 0 when none has been stamped."""
        try:
            seconds, nanoseconds = _STAMP.unpack(fcntl.ioctl(self.target, _SIOCGSTAMPNS, bytes(_STAMP.size)))
        except FileNotFoundError:
            return 0.0
        return float(seconds) + float(nanoseconds) * 1e-9

    @property
    def measured_bps(self) -> float | None:
        """Bits a second on the wire between the first and the last arrival that count."""
        if self.last_s <= self.first_s:
            return None
        return self.arrived_bytes * 8 / (self.last_s - self.first_s)


_PAYLOAD = bytes(_MAX_FRAMES * _PAYLOAD_BYTES)
_SINK = bytearray(1 << 16)


def measure_round_trips(links: list[Link], count: int) -> None:
    """Send `count` datagrams to and fro on each link, spread over time, and note each round trip."""
    poll = select.epoll()
    ends = {link.sockets[way].fileno(): (link, way) for link in links for way in (0, 1)}
    for descriptor in ends:
        poll.register(descriptor, select.EPOLLIN)
    begin_s = time.monotonic()
    # (when, link): the links take turns, so that a datagram meets no other of ours.
    plan = sorted(
        (begin_s + _SPACING_S * (number + position / len(links)), position)
        for position in range(len(links))
        for number in range(count)
    )
    sent_s: dict[tuple[int, int], float] = {}
    numbers = [0] * len(links)
    position_of = {id(link): position for position, link in enumerate(links)}
    open_trips = len(plan)
    deadline_s = plan[-1][0] + _ROUND_TRIP_DEADLINE_S
    with contextlib.closing(poll):
        while open_trips:
            now_s = time.monotonic()
            if now_s > deadline_s:
                return
            while plan and plan[0][0] <= now_s:
                position = plan.pop(0)[1]
                number, numbers[position] = numbers[position], numbers[position] + 1
                link = links[position]
                sent_s[position, number] = time.monotonic()
                link.sockets[0].sendto(_SEQUENCE.pack(number), link.addresses[1])
            until_s = plan[0][0] if plan else deadline_s
            for descriptor, _ in poll.poll(max(0.0, until_s - time.monotonic())):
                link, way = ends[descriptor]
                with contextlib.suppress(BlockingIOError):
                    while True:
                        datagram = link.sockets[way].recv(64)
                        came_s = time.monotonic()
                        if way == 1:
                            link.sockets[1].sendto(datagram, link.addresses[0])
                            continue
                        key = (position_of[id(link)], _SEQUENCE.unpack(datagram)[0])
                        went_s = sent_s.pop(key, None)
                        if went_s is not None:  # otherwise it has come twice
                            link.rtts_s.append(came_s - went_s)
                            link.went_s.append(went_s)
                            open_trips -= 1


def measure_rates(links: list[Link], ways: list[tuple[int, int]], duration_s: float) -> None:
    """Overload some directions, each a (link, end that sends), and note how much arrives.

    Args:
        links: Those under measurement.
        ways: The directions.
        duration_s: For how long at least; slow links need longer.
    """
    duration_s = max(duration_s, _LEAST_FRAMES * frame_s(links, ways))
    began_s = time.monotonic()
    flows: dict[tuple[int, int], _Flow] = {}
    for position, way in ways:
        link, rate_bps = links[position], links[position].rates_bps[way]
        if rate_bps is not None:
            ends = link.sockets[way], link.sockets[1 - way]
            flows[position, way] = _Flow(*ends, link.addresses[1 - way], rate_bps, began_s)
    by_descriptor = {flow.target.fileno(): flow for flow in flows.values()}
    until_s = began_s + duration_s
    counts_from_s = began_s + _WARM_UP * duration_s
    with contextlib.closing(select.epoll()) as poll:
        for descriptor in by_descriptor:
            poll.register(descriptor, select.EPOLLIN)
        next_s = began_s
        while (now_s := time.monotonic()) < until_s:
            if now_s >= next_s:
                for flow in flows.values():
                    flow.send(now_s)
                next_s = max(next_s + _TICK_S, now_s)
            for descriptor, _ in poll.poll(max(0.0, next_s - time.monotonic())):
                by_descriptor[descriptor].receive(now_s >= counts_from_s)
    for (position, way), flow in flows.items():
        links[position].measured_bps[way] = flow.measured_bps


def frame_s(links: list[Link], ways: list[tuple[int, int]]) -> float:
    """How long a full frame takes on the slowest of some directions; 0 if none has a rate."""
    rates = (links[position].rates_bps[way] for position, way in ways)
    return max((_FRAME_BITS / rate_bps for rate_bps in rates if rate_bps is not None), default=0.0)


def drain(links: list[Link], quiet_s: float, longest_s: float) -> None:
    """Throw away what is still under way, until nothing has come for a while, or for so long at most."""
    with contextlib.closing(select.epoll()) as poll:
        by_descriptor = {end.fileno(): end for link in links for end in link.sockets}
        for descriptor in by_descriptor:
            poll.register(descriptor, select.EPOLLIN)
        deadline_s = time.monotonic() + longest_s
        while time.monotonic() < deadline_s:
            ready = poll.poll(quiet_s)
            if not ready:
                return
            for descriptor, _ in ready:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        by_descriptor[descriptor].recv_into(_SINK)


@contextlib.contextmanager
def real_time_priority() -> Iterator[None]:
    """Run before all other processes but the delay line, where the machine allows it."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    except OSError:
        # Not everywhere is real-time scheduling allowed (some containers); the nice value is what is left.
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def main() -> None:
    """Answer one request."""
    signal_on_parent_death(signal.SIGKILL)
    allow_no_timer_slack()
    os.setpriority(os.PRIO_PROCESS, 0, -20)
    gc.disable()
    request = json.load(sys.stdin)
    links = [Link.open(job) for job in request["links"]]
    # The round trip is the link's, not that of a process which waits for a CPU. The rates need no such care, and a
    # sender that can't be interrupted would itself be in the way.
    with real_time_priority():
        measure_round_trips(links, request["round_trips"])
    longest_s = max(job["rtt_s"] for job in request["links"])
    for batch in request["batches"]:
        ways = [(int(position), int(way)) for position, way in batch]
        measure_rates(links, ways, request["duration_s"])
        # A full queue takes up to 0.1 s or a few frames to empty, and what left it last has its delay before it.
        slowest_s = frame_s(links, ways)
        quiet_s = longest_s + 0.15 + slowest_s
        still_s = quiet_s + max(_ROUND_TRIP_DEADLINE_S, _DRAIN_FRAMES * slowest_s)
        drain([links[position] for position, _ in ways], quiet_s, still_s)
    answers = [{"rtts_s": link.rtts_s, "rates_bps": link.measured_bps} for link in links]
    json.dump({"links": answers}, sys.stdout)


if __name__ == "__main__":
    main()

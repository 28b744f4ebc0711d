"""Queues as the kernel reports them: what is set on each interface's egress, and what it has counted.

Formats: ``linux/pkt_sched.h``, ``linux/gen_stats.h``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from testbed.emulation.netlink import RouteSocket, attribute, attributes

_GET_CLASSES = 42
_GET_QDISCS = 38
_TCMSG = struct.Struct("=BxxxiIII")
_KIND, _OPTIONS, _STATS2 = 1, 2, 7
_BASIC, _QUEUE, _PACKETS64 = 1, 3, 8
_ROOT = 0xFFFFFFFF
_HTB_PARAMETERS, _HTB_RATE64, _HTB_CEIL64 = 1, 6, 7
# Two tc_ratespec (cell_log, linklayer, overhead, cell_align, mpu, rate in B/s), then buffer and cbuffer in ticks.
_HTB_CLASS = struct.Struct("=BBHhHIBBHhHIII")
_HTB_OPTIONS = struct.Struct("=BBHhHIBBHhHIIIIII")  # … then quantum, level and priority
_NETEM = struct.Struct("=6I")  # latency (ticks), limit, loss, gap, duplicate, jitter
_NETEM_REORDER, _NETEM_LOSS, _NETEM_RATE, _NETEM_RATE64, _NETEM_LATENCY64, _NETEM_JITTER64 = 3, 5, 6, 8, 10, 11
_NETEM_GILBERT_ELLIOTT = 2
_NEW_QDISC, _NEW_CLASS = 36, 40
_LINKLAYER_ETHERNET = 1  # with it the kernel derives what older ones read from a table of rates
_HTB_MINOR, _HTB_HANDLE, _LEAF_HANDLE = 0x10_0001, 0x10_0000, 0x20_0000
_ANY_32_BITS = 0xFFFFFFFF
_TICK_S = 64e-9  # PSCHED_SHIFT 6: one tick of the packet scheduler is 64 ns


@dataclass(frozen=True, slots=True)
class QueueCounters:
    """Totals of a root queue since it was made, and what waits in it now."""

    sent_bytes: int
    sent_packets: int
    drops: int
    backlog_bytes: int


@dataclass(frozen=True, slots=True)
class RateClass:
    """An HTB class: its rates in bit/s and how long a full bucket lasts at them."""

    rate_bps: int
    ceil_bps: int
    burst_s: float
    cburst_s: float

    @property
    def burst_bytes(self) -> float:
        """Size of the bucket."""
        return self.burst_s * self.rate_bps / 8


@dataclass(frozen=True, slots=True)
class RateSetting:
    """What is to be set on an HTB class, whose ``ceil`` is its rate."""

    rate_bps: int
    burst_bytes: int
    quantum_bytes: int


@dataclass(frozen=True, slots=True)
class LeafLimit:
    """The queue at the end: ``bfifo`` with a limit in bytes, or ``pfifo`` with one in packets."""

    kind: str
    amount: int


@dataclass(frozen=True, slots=True)
class NetemState:
    """Settings of a netem.

    Attributes:
        delay_s, jitter_s: Of each packet.
        loss: Share of packets; or p, r, loss in the bad and loss in the good state of a Gilbert-Elliott chain.
        duplicate, reorder: Shares of packets.
        orderly_bps: Its own rate limit, by which it keeps the order; 0 for none.
        limit_packets: How many it holds.
    """

    delay_s: float
    jitter_s: float
    loss: float | tuple[float, float, float, float]
    duplicate: float
    reorder: float
    orderly_bps: int
    limit_packets: int


@dataclass(frozen=True, slots=True)
class EgressState:
    """What is set on an interface.

    Attributes:
        root: Kind of the root queue: ``htb``, ``netem``, ``noqueue``.
        rate: The HTB class, if there is one.
        limit: The ``bfifo`` or ``pfifo`` at the end, if there is one.
        netem: Settings of a ``netem``, wherever it stands.
    """

    root: str = "noqueue"
    rate: RateClass | None = None
    limit: LeafLimit | None = None
    netem: NetemState | None = None


def parse_counters(stats2: bytes) -> QueueCounters:
    """The nested attribute ``TCA_STATS2``."""
    found = attributes(stats2)
    sent_bytes, sent_packets = struct.unpack_from("=QI", found[_BASIC])
    if _PACKETS64 in found:
        (sent_packets,) = struct.unpack_from("=Q", found[_PACKETS64])
    _length, backlog, drops, _requeues, _overlimits = struct.unpack_from("=5I", found[_QUEUE])
    return QueueCounters(sent_bytes, sent_packets, drops, backlog)


def parse_rate_class(options: bytes) -> RateClass:
    """``TCA_OPTIONS`` of an HTB class."""
    found = attributes(options)
    fields = _HTB_CLASS.unpack_from(found[_HTB_PARAMETERS])
    rate, ceil, buffer, cbuffer = fields[5], fields[11], fields[12], fields[13]
    # Above 2^32 bytes/s the 32-bit fields saturate and the true values follow.
    if _HTB_RATE64 in found:
        (rate,) = struct.unpack_from("=Q", found[_HTB_RATE64])
    if _HTB_CEIL64 in found:
        (ceil,) = struct.unpack_from("=Q", found[_HTB_CEIL64])
    return RateClass(rate * 8, ceil * 8, buffer * _TICK_S, cbuffer * _TICK_S)


def parse_netem(options: bytes) -> NetemState:
    """``TCA_OPTIONS`` of a netem."""
    latency, limit, random_loss, _gap, duplicate, jitter = _NETEM.unpack_from(options)
    found = attributes(options[_NETEM.size :])
    delay_s, jitter_s = latency * _TICK_S, jitter * _TICK_S
    if _NETEM_LATENCY64 in found:
        delay_s = struct.unpack_from("=q", found[_NETEM_LATENCY64])[0] * 1e-9
    if _NETEM_JITTER64 in found:
        jitter_s = struct.unpack_from("=q", found[_NETEM_JITTER64])[0] * 1e-9
    loss: float | tuple[float, float, float, float] = random_loss / _ANY_32_BITS
    models = attributes(found.get(_NETEM_LOSS, b""))
    if _NETEM_GILBERT_ELLIOTT in models:
        # The kernel keeps p, r, the share that *survives* in the bad state, and the share lost in the good one.
        p, r, kept, lost = (part / _ANY_32_BITS for part in struct.unpack_from("=4I", models[_NETEM_GILBERT_ELLIOTT]))
        loss = (p, r, 1 - kept, lost)
    reorder = struct.unpack_from("=I", found[_NETEM_REORDER])[0] if _NETEM_REORDER in found else 0
    rate = struct.unpack_from("=I", found[_NETEM_RATE])[0] if _NETEM_RATE in found else 0
    if _NETEM_RATE64 in found:
        rate = struct.unpack_from("=Q", found[_NETEM_RATE64])[0]
    return NetemState(delay_s, jitter_s, loss, duplicate / _ANY_32_BITS, reorder / _ANY_32_BITS, rate * 8, limit)


def rate_messages(index: int, setting: RateSetting, limit: LeafLimit) -> list[tuple[int, bytes]]:
    """Requests (kind, body) that change the HTB class and the leaf that stand on an interface; both in place.

    The same as ``tc class change`` and ``tc qdisc change``, without the 5 ms that a process takes to start.
    """
    rate = setting.rate_bps // 8
    # As tc does it: the bucket as a time of whole microseconds, in ticks of 64 ns.
    ticks = int(setting.burst_bytes * 1_000_000 / rate) * 1000 >> 6
    spec = (0, _LINKLAYER_ETHERNET, 0, 0, 0, min(rate, _ANY_32_BITS))
    options = attribute(_HTB_PARAMETERS, _HTB_OPTIONS.pack(*spec, *spec, ticks, ticks, setting.quantum_bytes, 0, 0))
    if rate > _ANY_32_BITS:
        options += attribute(_HTB_RATE64, struct.pack("=Q", rate)) + attribute(_HTB_CEIL64, struct.pack("=Q", rate))
    return [
        (_NEW_CLASS, _request(index, _HTB_MINOR, _HTB_HANDLE, "htb", options)),
        (_NEW_QDISC, _request(index, _LEAF_HANDLE, _HTB_MINOR, limit.kind, struct.pack("=I", limit.amount))),
    ]


def _request(index: int, handle: int, parent: int, kind: str, options: bytes) -> bytes:
    head = _TCMSG.pack(0, index, handle, parent, 0)
    return head + attribute(_KIND, kind.encode() + b"\0") + attribute(_OPTIONS, options)


def root_counters(sock: RouteSocket) -> dict[int, QueueCounters]:
    """Counters of the root queue of each interface (by index) that has one; one dump for the whole namespace."""
    counters: dict[int, QueueCounters] = {}
    for body in sock.dump(_GET_QDISCS, _TCMSG.pack(0, 0, 0, 0, 0)):
        _family, index, handle, parent, _info = _TCMSG.unpack_from(body)
        # A veth without a queue of its own reports «noqueue», handle 0, which counts nothing.
        if parent == _ROOT and handle:
            counters[index] = parse_counters(attributes(body[_TCMSG.size :])[_STATS2])
    return counters


def egress_states(sock: RouteSocket, indexes: set[int]) -> dict[int, EgressState]:
    """What is set on each of these interfaces."""
    found: dict[int, dict[str, object]] = {index: {} for index in indexes}
    for body in sock.dump(_GET_QDISCS, _TCMSG.pack(0, 0, 0, 0, 0)):
        _family, index, _handle, parent, _info = _TCMSG.unpack_from(body)
        if index not in found:
            continue
        tail = attributes(body[_TCMSG.size :])
        kind = tail[_KIND].rstrip(b"\0").decode()
        if parent == _ROOT:
            found[index]["root"] = kind
        if kind in ("bfifo", "pfifo"):
            found[index]["limit"] = LeafLimit(kind, struct.unpack_from("=I", tail[_OPTIONS])[0])
        elif kind == "netem":
            found[index]["netem"] = parse_netem(tail[_OPTIONS])
    for index, state in found.items():
        for body in sock.dump(_GET_CLASSES, _TCMSG.pack(0, index, 0, 0, 0)):
            tail = attributes(body[_TCMSG.size :])
            if tail[_KIND].rstrip(b"\0") == b"htb":
                state["rate"] = parse_rate_class(tail[_OPTIONS])
    return {index: EgressState(**state) for index, state in found.items()}  # type: ignore[arg-type]

"""From the settings of one direction of a link to ``tc`` commands, and from what the kernel reports to a verdict.

Pure functions. The egress of an interface is one of::

    noqueue                                                  unshaped
    htb 10: ── class 10:1 ── bfifo 20:                       a rate
    netem 1: ── htb 10: ── class 10:1 ── bfifo 20:           a rate, delay and loss by netem
    netem 1:                                                 unshaped, delay and loss by netem
    bfifo 20:                                                unshaped, and down

A direction that is down has a queue with room for nothing: what is sent is lost without anybody being told, and what is
on its way arrives, as when a cable is cut.

The rate comes last, so that only what waits for it is in the queue with the limit. (Mininet has netem last, whose limit
counts packets, and those in flight with those that wait: 1000 packets are 0.6 s of a 20 Mbit/s link.)

netem keeps the order by a rate of its own, which is so high that it does nothing else; without one, a packet with a
short delay overtakes those before it. What it is told to *reorder* it hands on at once, past the queue and its rate: a
link that reorders 1 % carries 1 % more. The delay line does that at the far end, behind the rate.

Bucket and queue are derived, because fixed ones are wrong at most rates (Mininet's ``burst 15k`` is 120 ms of a
1 Mbit/s link and 0.2 ms of a 500 Mbit/s one; its 1000 packets are 12 s of the first):

- The bucket must outlast the timer that refills it, or the rate falls short; a longer one lets a burst through.
- The queue holds a bandwidth-delay product, so that one TCP flow fills the link, and 10 full frames at least; beyond
  these it may not take more than 100 ms to drain, so that latency under load stays bounded.

Rates change in place (``tc class change``): there is no instant at which the link is unshaped, and no packet is lost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from testbed.emulation.impairment import Bursts, Impairment
from testbed.emulation.queues import EgressState, LeafLimit, NetemState, RateSetting
from testbed.spec.links import GilbertElliott, LinkSettings
from testbed.spec.quantities import QueueLimit
from testbed.units import format_duration, format_rate

FRAME_BYTES = 1514
"""A full Ethernet frame without its checksum, as the kernel counts it: 1500 bytes of IP and 14 of header."""

_BUCKET_S = 0.002
_LUMP_S = 0.001
_MAX_SEGMENTS = 43
_QUEUE_FRAMES = 10
_QUEUE_DRAIN_S = 0.1
# Senders and receivers on a busy machine hand over in bursts of milliseconds, however short the emulated path is.
_MIN_ROUND_TRIP_S = 0.005
# What netem holds is in flight, not queued: more than any link's senders have on their way.
_NETEM_PACKETS = 100_000
_RATE_TOLERANCE_BPS = 8  # tc rounds to whole bytes a second
_TC_TIME_S = 1e-6
_TICK_S = 64e-9
# Rate of a class that is on its way to being removed: its queue empties at once.
_OPEN_BPS = 100_000_000_000
# With a rate netem starts a packet's delay no earlier than the one before it leaves: its way to keep the order. At
# this one a full frame takes 0.12 us.
_ORDERLY_BPS = 100_000_000_000
_PROBABILITY_TOLERANCE = 1e-6

Argv = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """One direction of a link.

    Attributes:
        rate_bps: Bits a second on the wire, Ethernet headers included; None for unshaped.
        delay_s: One-way delay.
        loss: Share of packets lost at random, 0..1, or a model of bursts.
        jitter_s: Standard deviation (normal) or largest deviation (uniform) of the delay.
        jitter_distribution: ``normal`` or ``uniform``.
        jitter_reorders: Whether a packet with a short delay overtakes others; otherwise it waits for them.
        reorder: Share of packets that aren't delayed, and so overtake others.
        duplicate: Share of packets that arrive twice.
        queue: What may wait; None for what is derived from the rate.
        up: Whether anything is let through.
    """

    rate_bps: int | None = None
    delay_s: float = 0.0
    loss: float | Bursts = 0.0
    jitter_s: float = 0.0
    jitter_distribution: str = "normal"
    jitter_reorders: bool = False
    reorder: float = 0.0
    duplicate: float = 0.0
    queue: QueueLimit | None = None
    up: bool = True

    @classmethod
    def of(cls, settings: LinkSettings) -> Shape:
        """What a direction's settings declare."""
        wanted = settings.loss
        loss: float | Bursts = (
            Bursts(wanted.p, wanted.r, wanted.bad_loss, wanted.good_loss)
            if isinstance(wanted, GilbertElliott)
            else wanted
        )
        return cls(
            settings.rate_bps,
            settings.delay_s,
            loss,
            settings.jitter_s,
            settings.jitter_distribution,
            settings.jitter_reorders,
            settings.reorder,
            settings.duplicate,
            settings.queue,
        )

    @property
    def impairment(self) -> Impairment:
        """What happens to packets on their way, but for doubling."""
        return Impairment(
            self.delay_s, self.jitter_s, self.jitter_distribution, self.jitter_reorders, self.loss, self.reorder
        )

    @property
    def is_impaired(self) -> bool:
        """Whether packets are delayed, lost, overtaken or doubled on purpose."""
        return self.delay_s > 0 or self.is_drawn

    @property
    def is_drawn(self) -> bool:
        """Whether something is drawn for each packet, so that none may be hidden in a larger piece."""
        return self.impairment.is_drawn or self.duplicate > 0


@dataclass(frozen=True, slots=True)
class Egress:
    """How a direction is to be shaped at its sending interface.

    Attributes:
        shape: What is wanted.
        round_trip_s: Round trip of the paths through the link, for the length of the queue.
        segments: Largest number of frames that the senders hand down as one (see :func:`offload_segments`).
        with_netem: Whether delay and loss are netem's; otherwise they are made elsewhere.
    """

    shape: Shape
    round_trip_s: float = 0.0
    segments: int = 1
    with_netem: bool = False


def offload_segments(shapes: Iterable[Shape], *, with_netem: bool) -> int:
    """How many frames a sender may hand down in one piece (``gso_max_segs``): what the slowest link sends in 1 ms.

    Offloading makes senders cheap but lets 64 kB pass at a time, half a second of a 1 Mbit/s link. 43 frames are all
    that fit; with nothing shaped, that many are allowed. Two pieces have room in the shortest queue. Pieces are single
    frames where netem draws something, because it draws once for a whole piece (the delay line has them cut up first),
    and where a queue counts packets, because a piece is one.

    Args:
        shapes: Of all directions of all links.
        with_netem: Whether delay and loss are netem's.
    """
    allowed = _MAX_SEGMENTS
    for shape in shapes:
        if with_netem and shape.is_drawn:
            return 1
        if shape.rate_bps:
            allowed = min(allowed, math.floor(shape.rate_bps * _LUMP_S / 8 / FRAME_BYTES))
        if shape.queue is not None:
            allowed = min(allowed, 1 if shape.queue.bytes is None else shape.queue.bytes // (2 * FRAME_BYTES))
    return max(1, allowed)


def burst_bytes(rate_bps: int, segments: int = 1) -> int:
    """Size of the token bucket: 2 ms of the rate, and one piece of the sender's at least."""
    return max(segments * FRAME_BYTES, FRAME_BYTES, math.ceil(rate_bps * _BUCKET_S / 8))


def queue_bytes(rate_bps: int, round_trip_s: float, segments: int = 1) -> int:
    """Bytes that may wait: a bandwidth-delay product (of 5 ms at least) and 10 frames.

    At most 100 ms of the rate, but at least 10 frames, and 2 pieces of the senders.
    """
    floor = max(_QUEUE_FRAMES * FRAME_BYTES, 2 * segments * FRAME_BYTES)
    wanted = math.ceil(rate_bps * max(round_trip_s, _MIN_ROUND_TRIP_S) / 8) + _QUEUE_FRAMES * FRAME_BYTES
    return max(floor, min(wanted, math.floor(rate_bps * _QUEUE_DRAIN_S / 8)))


def _setting(egress: Egress, rate_bps: int) -> RateSetting:
    return RateSetting(rate_bps, burst_bytes(rate_bps, egress.segments), egress.segments * FRAME_BYTES)


def _limit(egress: Egress, rate_bps: int) -> LeafLimit:
    shape = egress.shape
    if not shape.up:
        return LeafLimit("bfifo", 0)
    if shape.queue is None:
        return LeafLimit("bfifo", queue_bytes(rate_bps, egress.round_trip_s, egress.segments))
    if shape.queue.bytes is not None:
        return LeafLimit("bfifo", shape.queue.bytes)
    return LeafLimit("pfifo", shape.queue.packets or 0)


def _class(verb: str, device: str, setting: RateSetting) -> Argv:
    rate, burst = f"{setting.rate_bps}bit", f"{setting.burst_bytes}b"
    # Without a quantum the kernel derives one from the rate, and complains that it is too big or too small.
    limits = ("rate", rate, "ceil", rate, "burst", burst, "cburst", burst, "quantum", str(setting.quantum_bytes))
    return ("tc", "class", verb, "dev", device, "parent", "10:", "classid", "10:1", "htb", *limits)


def _leaf(verb: str, device: str, place: Argv, limit: LeafLimit) -> Argv:
    return ("tc", "qdisc", verb, "dev", device, *place, "handle", "20:", limit.kind, "limit", str(limit.amount))


def _netem(verb: str, device: str, egress: Egress) -> Argv:
    shape = egress.shape
    settings = ["limit", str(_NETEM_PACKETS), "delay", f"{shape.delay_s * 1e6:.3f}us"]
    if shape.jitter_s:
        settings += [f"{shape.jitter_s * 1e6:.3f}us"]
        settings += ["distribution", "normal"] if shape.jitter_distribution == "normal" else []
    if not shape.up and shape.rate_bps is None:
        settings += ["loss", "100%"]
    elif isinstance(shape.loss, Bursts):
        chain = (shape.loss.p, shape.loss.r, shape.loss.bad_loss, shape.loss.good_loss)
        settings += ["loss", "gemodel", *(f"{probability:.8%}" for probability in chain)]
    else:
        settings += ["loss", f"{shape.loss:.8%}"]
    if shape.duplicate:
        settings += ["duplicate", f"{shape.duplicate:.8%}"]
    if shape.reorder:
        settings += ["reorder", f"{shape.reorder:.8%}"]
    if not shape.jitter_reorders:
        settings += ["rate", f"{_ORDERLY_BPS}bit"]
    return ("tc", "qdisc", verb, "dev", device, "root", "handle", "1:", "netem", *settings)


def _rate_place(egress: Egress) -> Argv:
    return ("parent", "1:1") if egress.with_netem else ("root",)


def _has_netem(egress: Egress) -> bool:
    shape = egress.shape
    if not egress.with_netem:
        return False
    return shape.rate_bps is not None or shape.is_impaired or not shape.up


def _is_plugged(egress: Egress) -> bool:
    """Whether nothing but a queue without room is there."""
    return not egress.with_netem and egress.shape.rate_bps is None and not egress.shape.up


def has_queue(egress: Egress) -> bool:
    """Whether a queue of ours stands at the interface."""
    return egress.shape.rate_bps is not None or _has_netem(egress) or _is_plugged(egress)


def build(device: str, egress: Egress) -> list[Argv]:
    """Commands that shape an interface on which nothing is set."""
    return change(device, Egress(Shape(), with_netem=egress.with_netem), egress)


def change(device: str, before: Egress, after: Egress) -> list[Argv]:
    """Commands that turn one state into another, in place wherever both are shaped.

    Towards *unshaped* the class is opened first, so that what waits in the queue is sent and not lost.
    """
    old_bps, new_bps = before.shape.rate_bps, after.shape.rate_bps
    had, has = _has_netem(before), _has_netem(after)
    commands: list[Argv] = []
    if _is_plugged(before) and not _is_plugged(after):
        commands.append(("tc", "qdisc", "del", "dev", device, "root"))
    if has:
        commands.append(_netem("change" if had else "add", device, after))
    if new_bps is not None:
        limit = _limit(after, new_bps)
        if old_bps is None:
            place = _rate_place(after)
            commands.append(("tc", "qdisc", "add", "dev", device, *place, "handle", "10:", "htb", "default", "1"))
            commands.append(_class("add", device, _setting(after, new_bps)))
            commands.append(_leaf("add", device, ("parent", "10:1"), limit))
        else:
            same = limit.kind == _limit(before, old_bps).kind
            commands.append(_class("change", device, _setting(after, new_bps)))
            commands.append(_leaf("change" if same else "replace", device, ("parent", "10:1"), limit))
    elif old_bps is not None:
        commands.append(_class("change", device, RateSetting(_OPEN_BPS, burst_bytes(_OPEN_BPS), FRAME_BYTES)))
        if has or not had:
            commands.append(("tc", "qdisc", "del", "dev", device, *_rate_place(before)))
    if had and not has:
        commands.append(("tc", "qdisc", "del", "dev", device, "root"))
    if _is_plugged(after) and not _is_plugged(before):
        commands.append(_leaf("add", device, ("root",), LeafLimit("bfifo", 0)))
    return commands


def change_of_rate(before: Egress, after: Egress) -> tuple[RateSetting, LeafLimit] | None:
    """What :func:`change` comes to where only a rate or a queue's limit changes, in place; None where more does.

    Such a change needs two messages to the kernel and no process, so that it is made at its time.
    """
    old_bps, new_bps = before.shape.rate_bps, after.shape.rate_bps
    if old_bps is None or new_bps is None or before.with_netem != after.with_netem:
        return None
    if after.with_netem and _netem("change", "", before) != _netem("change", "", after):
        return None
    limit = _limit(after, new_bps)
    return (_setting(after, new_bps), limit) if limit.kind == _limit(before, old_bps).kind else None


def differences(egress: Egress, found: EgressState) -> list[str]:
    """What the kernel has set otherwise than wanted, each as a clause for people; empty when all is right."""
    shape = egress.shape
    wrong: list[str] = []
    if shape.rate_bps is None:
        if found.rate is not None:
            wrong.append("a rate is set on an unshaped link")
    elif found.rate is None:
        wrong.append(f"no rate is set instead of {format_rate(shape.rate_bps)}")
    else:
        for what, rate_bps in (("rate", found.rate.rate_bps), ("ceil", found.rate.ceil_bps)):
            if abs(rate_bps - shape.rate_bps) > _RATE_TOLERANCE_BPS:
                wrong.append(f"{what} is {rate_bps} bit/s instead of {shape.rate_bps}")
        wanted_burst = burst_bytes(shape.rate_bps, egress.segments)
        # tc turns the bucket into a time of whole microseconds, the kernel that into ticks; it keeps the rate in whole
        # bytes a second.
        of_time_s = _TC_TIME_S + 2 * _TICK_S
        rounding = 1 + of_time_s * shape.rate_bps / 8 + wanted_burst * _RATE_TOLERANCE_BPS / shape.rate_bps
        if abs(found.rate.burst_bytes - wanted_burst) > rounding:
            wrong.append(f"burst is {found.rate.burst_bytes:.0f} bytes instead of {wanted_burst}")
        limit = _limit(egress, shape.rate_bps)
        if found.limit != limit:
            wrong.append(f"queue limit is {_limit_text(found.limit)} instead of {_limit_text(limit)}")
    if _is_plugged(egress) and found.limit != LeafLimit("bfifo", 0):
        wrong.append("it lets packets through instead of none")
    if _has_netem(egress):
        wrong += _netem_differences(_wanted_netem(shape), found.netem)
    return wrong


def _limit_text(limit: LeafLimit | None) -> str:
    return "none" if limit is None else f"{limit.amount} {'bytes' if limit.kind == 'bfifo' else 'packets'}"


def _wanted_netem(shape: Shape) -> NetemState:
    loss: float | tuple[float, float, float, float]
    if not shape.up and shape.rate_bps is None:
        loss = 1.0
    elif isinstance(shape.loss, Bursts):
        loss = (shape.loss.p, shape.loss.r, shape.loss.bad_loss, shape.loss.good_loss)
    else:
        loss = shape.loss
    orderly_bps = 0 if shape.jitter_reorders else _ORDERLY_BPS
    return NetemState(shape.delay_s, shape.jitter_s, loss, shape.duplicate, shape.reorder, orderly_bps, _NETEM_PACKETS)


def _netem_differences(wanted: NetemState, found: NetemState | None) -> list[str]:
    if found is None:
        return ["there is no netem"]
    wrong: list[str] = []
    for what in ("delay", "jitter"):
        had_s, wanted_s = getattr(found, f"{what}_s"), getattr(wanted, f"{what}_s")
        if abs(had_s - wanted_s) > _TC_TIME_S:
            wrong.append(f"{what} is {format_duration(had_s)} instead of {format_duration(wanted_s)}")
    for what in ("loss", "duplicate", "reorder"):
        had, want = getattr(found, what), getattr(wanted, what)
        had_parts, want_parts = (value if isinstance(value, tuple) else (value,) for value in (had, want))
        if len(had_parts) != len(want_parts) or any(
            abs(one - other) > _PROBABILITY_TOLERANCE for one, other in zip(had_parts, want_parts, strict=False)
        ):
            wrong.append(f"{what} is {had} instead of {want}")
    if found.orderly_bps != wanted.orderly_bps:
        wrong.append(f"netem's own rate is {found.orderly_bps} instead of {wanted.orderly_bps} bit/s")
    if found.limit_packets != wanted.limit_packets:
        wrong.append(f"netem limit is {found.limit_packets} packets instead of {wanted.limit_packets}")
    return wrong

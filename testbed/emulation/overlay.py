"""How faults of a link's direction compose with its settings, and with each other. Pure.

Each fault in force is a `Modification`; what the kernel is to do is `overlaid(settings, modifications)`. It doesn't
depend on the order in which faults came, and without any it is the settings themselves, so healing in any order leads
back exactly.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from dataclasses import dataclass

from testbed.emulation.impairment import Bursts
from testbed.emulation.shaping import Shape
from testbed.units import format_duration, format_rate


@dataclass(frozen=True, slots=True)
class Modification:
    """What a fault does to one direction of a link.

    Attributes:
        most_bps: The rate is no higher than this; None leaves it alone.
        add_delay_s: By how much the delay grows, one way.
        add_jitter_s: Scatter of the delay besides what there is.
        loss: Share of packets lost besides those that are lost anyhow, 0..1.
        down: Whether nothing is let through.
    """

    most_bps: int | None = None
    add_delay_s: float = 0.0
    add_jitter_s: float = 0.0
    loss: float = 0.0
    down: bool = False


def overlaid(shape: Shape, modifications: Collection[Modification]) -> Shape:
    """A direction's shape under faults.

    The slowest rate holds, delays add up, and a packet survives if it survives each loss. Scatter that is independent
    adds up in squares where it is normal; uniform deviations add up to the largest possible. There is never more of it
    than the delay, since no packet arrives before it was sent.
    """
    if not modifications:
        return shape
    rates = [one.most_bps for one in modifications if one.most_bps is not None]
    delay_s = math.fsum([shape.delay_s, *(one.add_delay_s for one in modifications)])
    scatters_s = sorted([shape.jitter_s, *(one.add_jitter_s for one in modifications)])
    jitter_s = math.hypot(*scatters_s) if shape.jitter_distribution == "normal" else math.fsum(scatters_s)
    return dataclasses.replace(
        shape,
        rate_bps=min([*rates, *([] if shape.rate_bps is None else [shape.rate_bps])], default=None),
        delay_s=delay_s,
        jitter_s=min(jitter_s, delay_s),
        loss=_lossier(shape.loss, math.prod(sorted(1 - one.loss for one in modifications))),
        up=shape.up and not any(one.down for one in modifications),
    )


def _lossier(loss: float | Bursts, surviving: float) -> float | Bursts:
    """A loss after which only a share of what has come through it survives an independent one."""
    if surviving == 1:
        return loss
    if isinstance(loss, Bursts):
        bad, good = (1 - (1 - each) * surviving for each in (loss.bad_loss, loss.good_loss))
        return dataclasses.replace(loss, bad_loss=bad, good_loss=good)
    return 1 - (1 - loss) * surviving


def _mean(chain: Bursts) -> float:
    """Share of packets lost in the long run."""
    return (chain.p * chain.bad_loss + chain.r * chain.good_loss) / (chain.p + chain.r)


def described(shape: Shape) -> str:
    """A shape for people, such as ``2Mbit/s, delay 5ms, loss 1%``."""
    if not shape.up:
        return "down"
    words = ["unshaped" if shape.rate_bps is None else format_rate(shape.rate_bps)]
    if shape.delay_s:
        words.append(f"delay {format_duration(shape.delay_s)}")
    if shape.jitter_s:
        words.append(f"jitter {format_duration(shape.jitter_s)}")
    if shape.loss:
        mean = _mean(shape.loss) if isinstance(shape.loss, Bursts) else shape.loss
        words.append(f"loss {100 * mean:.3g}%")
    return ", ".join(words)

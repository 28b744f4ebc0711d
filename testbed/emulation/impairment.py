"""What the delay line does to the packets of one direction, and the random numbers that decide.

Seeded: for the same settings and seed, the same packets are lost, and delayed by as much. Loss, jitter and reordering
draw from streams of their own, so that one doesn't shift the others.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_STREAMS = ("jitter", "reorder")


@dataclass(frozen=True, slots=True)
class Bursts:
    """Gilbert and Elliott's chain, as :class:`testbed.spec.links.GilbertElliott` (whose import would cost 0.2 s).

    Attributes:
        p, r: Probability to go from the good to the bad state, and back, with each packet.
        bad_loss, good_loss: Share of packets lost in each state.
    """

    p: float
    r: float
    bad_loss: float
    good_loss: float


@dataclass(frozen=True, slots=True)
class Impairment:
    """What is done to packets.

    Attributes:
        delay_s: How long each is held.
        jitter_s: Standard deviation (normal) or largest deviation (uniform) of the delay.
        jitter_distribution: ``normal`` or ``uniform``.
        jitter_reorders: Whether a packet with a short delay overtakes others.
        loss: Share of packets lost at random, or a model of bursts.
        reorder: Share of packets that aren't held, and so overtake others.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    jitter_distribution: str = "normal"
    jitter_reorders: bool = False
    loss: float | Bursts = 0.0
    reorder: float = 0.0

    @property
    def is_drawn(self) -> bool:
        """Whether something is drawn for each packet, so that none may be hidden in a larger piece."""
        return bool(self.jitter_s or self.reorder or self.loss)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        loss = self.loss
        return {
            "delay_s": self.delay_s,
            "jitter_s": self.jitter_s,
            "jitter_distribution": self.jitter_distribution,
            "jitter_reorders": self.jitter_reorders,
            "loss": [loss.p, loss.r, loss.bad_loss, loss.good_loss] if isinstance(loss, Bursts) else loss,
            "reorder": self.reorder,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Impairment:
        """Back from :meth:`to_json`."""
        loss = data["loss"]
        if isinstance(loss, list):
            loss = Bursts(*loss)
        return cls(
            delay_s=float(data["delay_s"]),
            jitter_s=float(data["jitter_s"]),
            jitter_distribution=str(data["jitter_distribution"]),
            jitter_reorders=bool(data["jitter_reorders"]),
            loss=loss,
            reorder=float(data["reorder"]),
        )


class Dice:
    """The random decisions for the packets of one direction.

    Args:
        impairment: What is wanted.
        seed: Start of the random numbers.
    """

    def __init__(self, impairment: Impairment, seed: int) -> None:
        self._loss = random.Random(seed)  # noqa: S311 - repeatable, not secret
        # Strings are hashed by the generator itself, the same way in each process.
        self._jitter, self._reorder = (random.Random(f"{seed}/{stream}") for stream in _STREAMS)  # noqa: S311
        self._is_bad = False
        self.set(impairment)

    def set(self, impairment: Impairment) -> None:
        """Go on with other settings; the random numbers go on too."""
        self._settings = impairment
        self._burst = impairment.loss if isinstance(impairment.loss, Bursts) else None
        if self._burst is None:
            self._is_bad = False
        self._share = 0.0 if isinstance(impairment.loss, Bursts) else impairment.loss
        self.delays = self._scattered if impairment.jitter_s else self._constant
        self.loses: Callable[[], bool] | None = None
        if self._burst is not None:
            self.loses = self._loses_in_bursts
        elif self._share:
            self.loses = self._loses_at_random
        self.overtakes: Callable[[], bool] | None = self._overtakes if impairment.reorder else None

    def _constant(self) -> float:
        return self._settings.delay_s

    def _scattered(self) -> float:
        settings = self._settings
        if settings.jitter_distribution == "uniform":
            return settings.delay_s + settings.jitter_s * self._jitter.uniform(-1.0, 1.0)
        return max(0.0, self._jitter.gauss(settings.delay_s, settings.jitter_s))

    def _loses_at_random(self) -> bool:
        return self._loss.random() < self._share

    def _loses_in_bursts(self) -> bool:
        """Netem's order (``loss_gilb_ell`` in ``sch_netem.c``): the state changes, but the one before it decides."""
        chain = self._burst
        if chain is None:
            return False
        was_bad, draw = self._is_bad, self._loss.random
        if was_bad:
            self._is_bad = draw() >= chain.r
        else:
            self._is_bad = draw() < chain.p
        return draw() < (chain.bad_loss if was_bad else chain.good_loss)

    def _overtakes(self) -> bool:
        return self._reorder.random() < self._settings.reorder

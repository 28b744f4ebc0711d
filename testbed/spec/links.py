"""Links of the emulated network.

A link has settings for both directions; ``forward`` (from the first named end to the second) and ``backward`` say what
is different in one of them::

    - between: [node1, s1]
      rate: 20Mbit/s
      delay: 10ms
      jitter: 2ms
      backward: {rate: 2Mbit/s, loss: 1%}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, PlainSerializer, Tag, model_validator

from testbed.spec.quantities import LinkDelay, Loss, NodeName, Probability, QueueLimit, QueueLimitField, Rate
from testbed.spec.section import Section
from testbed.spec.traces import TraceSpec
from testbed.units import format_duration

JitterDistribution = Literal["normal", "uniform"]


class GilbertElliott(Section):
    """Loss in bursts: a two-state Markov chain that takes a step with each packet (Gilbert 1960, Elliott 1963).

    A packet is lost with the probability of the state that it finds; then the state may change. So it is in netem.
    """

    noun: ClassVar[str] = "the loss model gilbert-elliott"

    model: Annotated[
        Literal["gilbert-elliott"], Field(description="Loss in bursts, by a chain with a good and a bad state.")
    ] = "gilbert-elliott"
    p: Annotated[Probability, Field(description="Probability, with each packet, to go from the good to the bad state.")]
    r: Annotated[Probability, Field(description="Probability, with each packet, to go from the bad to the good state.")]
    bad_loss: Annotated[Probability, Field(description="Share of packets lost in the bad state.")] = 1.0
    good_loss: Annotated[Probability, Field(description="Share of packets lost in the good state.")] = 0.0

    @model_validator(mode="after")
    def _moves_and_delivers(self) -> Self:
        if self.p + self.r == 0:
            raise ValueError("p and r are both 0: the state would never change; use loss: 1% for plain random loss")
        if self.mean >= 1:
            raise ValueError("loses every packet in the long run; to cut a link off, use a fault")
        return self

    @property
    def mean(self) -> float:
        """Share of packets lost in the long run."""
        return (self.p * self.bad_loss + self.r * self.good_loss) / (self.p + self.r)


def _loss_tag(value: object) -> str:
    return "<bursts>" if isinstance(value, (Mapping, GilbertElliott)) else "<random>"


LossModel = Annotated[
    Annotated[Loss, Tag("<random>")] | Annotated[GilbertElliott, Tag("<bursts>")], Discriminator(_loss_tag)
]
"""A share of packets lost at random, or a model of bursts."""


class LinkSettings(Section):
    """What may be set for a link, or for one of its directions."""

    noun: ClassVar[str] = "a direction of a link"

    rate_bps: Annotated[
        Rate | None, Field(alias="rate", description="Rate in each direction; unlimited when absent.")
    ] = None
    delay_s: Annotated[LinkDelay, Field(alias="delay", description="Delay one way; a round trip takes twice.")] = 0.0
    jitter_s: Annotated[
        LinkDelay,
        Field(
            alias="jitter",
            description="How far delays scatter, one way: standard deviation (normal) or largest deviation (uniform).",
        ),
    ] = 0.0
    jitter_distribution: Annotated[
        JitterDistribution, Field(description="Whether delays scatter normally or uniformly around the delay.")
    ] = "normal"
    jitter_reorders: Annotated[
        bool,
        Field(
            description="Whether a packet with a short delay overtakes those before it; otherwise it waits for them, "
            "as on a wire, and packets that follow each other closely are delayed longer than declared on average."
        ),
    ] = False
    loss: Annotated[
        LossModel,
        Field(
            description="Share of packets lost, such as 1%; or {model: gilbert-elliott, p: 1%, r: 25%, bad_loss: 100%, "
            "good_loss: 0%} for bursts."
        ),
    ] = 0.0
    reorder: Annotated[
        Probability, Field(description="Share of packets that aren't delayed, and so overtake those before them.")
    ] = 0.0
    duplicate: Annotated[Probability, Field(description="Share of packets that arrive twice; needs netem.")] = 0.0
    queue: Annotated[
        QueueLimitField | None,
        Field(
            description="What may wait for the rate, such as 100kB or 50 packets; derived from the rate when absent."
        ),
    ] = None
    trace: Annotated[
        TraceSpec | None, Field(description="A recording that changes the rate as the workload goes on.")
    ] = None

    @property
    def mean_loss(self) -> float:
        """Share of packets lost in the long run."""
        return self.loss.mean if isinstance(self.loss, GilbertElliott) else self.loss

    @property
    def impairs(self) -> bool:
        """Whether packets are delayed, lost, overtaken or doubled on purpose in a direction with these settings."""
        return self.delay_s > 0 or self.mean_loss > 0 or self.reorder > 0 or self.duplicate > 0

    def complaints(self) -> Iterator[str]:
        """Why the settings can't hold together in one direction."""
        if self.jitter_s > self.delay_s:
            yield (
                f"a jitter of {format_duration(self.jitter_s)} is more than the delay of "
                f"{format_duration(self.delay_s)}; packets can't arrive before they were sent"
            )
        if self.jitter_reorders and not self.jitter_s:
            yield "has jitter_reorders without a jitter"
        if self.reorder and not self.delay_s:
            yield "reorder needs a delay: a packet overtakes others by not being delayed"
        if self.queue is not None and self.rate_bps is None:
            yield "has a queue without a rate; nothing ever waits for a link without one"
        if self.trace is not None and self.rate_bps is None:
            yield "a trace needs a rate beside it: the one that holds until the workload begins, and that plans assume"

    def slowed(self, k: float) -> Self:
        """The same settings where a second takes k seconds."""
        return self.model_copy(
            update={
                "rate_bps": None if self.rate_bps is None else max(1, round(self.rate_bps / k)),
                "delay_s": self.delay_s * k,
                "jitter_s": self.jitter_s * k,
                "trace": None if self.trace is None else self.trace.slowed(k),
            }
        )


def _as_written(value: LinkSettings | None) -> Any:
    """Only what is different in this direction."""
    return None if value is None else value.model_dump(mode="json", exclude_unset=True)


_Direction = Annotated[LinkSettings | None, PlainSerializer(_as_written)]


class LinkSpec(LinkSettings):
    """A full-duplex link; its settings hold in each direction, unless ``forward`` or ``backward`` say otherwise."""

    noun: ClassVar[str] = "a link"

    between: Annotated[tuple[NodeName, NodeName], Field(description="The two hosts or switches that it joins.")]
    price_per_gb: Annotated[
        float, Field(ge=0, le=1e6, description="Money for 10^9 bytes over it, in the currency of the hosts' prices.")
    ] = 0.0
    forward: Annotated[
        _Direction, Field(description="What is different from the first end of `between` to the second.")
    ] = None
    backward: Annotated[
        _Direction, Field(description="What is different from the second end of `between` to the first.")
    ] = None

    @model_validator(mode="after")
    def _settings_hold_together(self) -> Self:
        asymmetric = self.forward is not None or self.backward is not None
        for source, word in zip(self.between, ("forward", "backward"), strict=True):
            for complaint in self.way(source).complaints() if self.between[0] != self.between[1] else ():
                raise ValueError(f"{word}: {complaint}" if asymmetric else complaint)
        return self

    @property
    def name(self) -> str:
        """Such as ``node1-s1``, in the order of the file."""
        return "-".join(self.between)

    @property
    def is_impaired(self) -> bool:
        """Whether packets are delayed, lost, overtaken or doubled on purpose in either direction."""
        return any(self.way(source).impairs for source in self.between)

    def way(self, source: str) -> LinkSettings:
        """The settings of the direction that leaves an end.

        Raises:
            ValueError: If `source` is at neither end.
        """
        self.other_end(source)
        different = self.forward if source == self.between[0] else self.backward
        settings = {name: getattr(self, name) for name in LinkSettings.model_fields}
        if different is not None:
            settings |= {name: getattr(different, name) for name in different.model_fields_set}
        return LinkSettings.model_construct(**settings)

    def slowed(self, k: float) -> Self:
        """The same link where a second takes k seconds."""
        slow = super().slowed(k)
        directions = {
            word: None if different is None else _slowed_direction(different, k)
            for word, different in (("forward", self.forward), ("backward", self.backward))
        }
        return slow.model_copy(update=directions)

    def other_end(self, node: str) -> str:
        """The node at the other end of the link.

        Raises:
            ValueError: If `node` is at neither end.
        """
        first, second = self.between
        if node == first:
            return second
        if node == second:
            return first
        raise ValueError(f"{node} is no end of {self.name}")


def _slowed_direction(different: LinkSettings, k: float) -> LinkSettings:
    """Only what was set stays set."""
    slow = different.slowed(k)
    return LinkSettings.model_construct(
        _fields_set=set(different.model_fields_set), **{name: getattr(slow, name) for name in LinkSettings.model_fields}
    )


__all__ = ["GilbertElliott", "JitterDistribution", "LinkSettings", "LinkSpec", "LossModel", "QueueLimit"]

"""From the costs that the model package measures to the chain that planning works on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from testbed.planning.problem import Chain


class ChainCosts(Protocol):
    """Anything with a chain's figures; ``testbed.model.costs`` returns one. Fields as in ``Chain``."""

    @property
    def boundary_ops(self) -> Sequence[int]:
        """As in ``Chain``."""

    @property
    def boundary_bits(self) -> Sequence[float]:
        """As in ``Chain``."""

    @property
    def weight_bytes(self) -> Sequence[int]:
        """As in ``Chain``."""

    @property
    def activation_bytes(self) -> Sequence[int]:
        """As in ``Chain``."""

    @property
    def compute_s(self) -> Sequence[float]:
        """As in ``Chain``."""

    @property
    def streams(self) -> Sequence[int | None]:
        """As in ``Chain``."""


def chain_from(costs: ChainCosts) -> Chain:
    """Copy the figures of ``costs`` into a chain.

    Raises:
        ValueError: If their lengths don't fit each other or the boundaries don't increase.
    """
    return Chain(
        boundary_ops=tuple(costs.boundary_ops),
        boundary_bits=tuple(costs.boundary_bits),
        weight_bytes=tuple(costs.weight_bytes),
        activation_bytes=tuple(costs.activation_bytes),
        compute_s=tuple(costs.compute_s),
        streams=tuple(costs.streams),
    )

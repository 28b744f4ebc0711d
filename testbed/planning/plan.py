"""A plan: stages on hosts, with what the planner predicts of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from testbed.planning.problem import Problem


@dataclass(frozen=True, slots=True)
class Assignment:
    """The decision alone: segments ``first..last-1`` of the chain on a host."""

    host: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Stage:
    """A run of segments on a host, with its predicted costs.

    Attributes:
        index: Its place in the pipeline, from 0.
        host: The host's name.
        first, last: Boundaries it lies between (segments ``first..last-1``).
        first_op, last_op: Operations of the model it runs, ``first_op..last_op-1``.
        weights_bytes: Its weights.
        memory_bytes: Weights, peak live activations and the server's overhead, as if it were the host's only stage.
        compute_s: Its computation on this host.
        transfer_bits: What it receives for a request.
        link_s: How long that occupies the path into the stage (bits over rate; no delay).
    """

    index: int
    host: str
    first: int
    last: int
    first_op: int
    last_op: int
    weights_bytes: int
    memory_bytes: int
    compute_s: float
    transfer_bits: float
    link_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """Stages in order, and what they should give.

    Attributes:
        strategy: The strategy's name.
        stages: In the pipeline's order.
        return_bits, return_s: The answer's way back to the dispatcher.
        bottleneck_s: What the busiest host or link has to do for a request; throughput is its inverse. A host's stages
            add up, as do transfers over one path or one physical link.
        bottleneck: What it is, for people: ``compute on node1`` or ``link dispatcher → node1``.
        bottleneck_stage: The stage that computes or receives most of it; None for the answer's way back.
        latency_s: One request alone: all computations, transfers and delays summed.
        lower_bound_s: No plan's bottleneck can be below it; None where the strategy proves nothing.
        planning_s: How long planning took.
        energy_j: What one request takes by the model of ``testbed.planning.energy``.
        cost: What one request costs at the hosts' and links' prices.
        latency_bound_s: No plan's latency can be below it; None where the strategy proves nothing of it.
        notes: What a reader must know of the plan, such as a precondition of its strategy that doesn't hold.
        skipped: Runs of operations ``first_op..last_op-1`` of the model that no stage has: its answers are degraded.
    """

    strategy: str
    stages: tuple[Stage, ...]
    return_bits: float
    return_s: float
    bottleneck_s: float
    bottleneck: str
    bottleneck_stage: int | None
    latency_s: float
    lower_bound_s: float | None
    planning_s: float
    energy_j: float = math.nan
    cost: float = math.nan
    latency_bound_s: float | None = None
    notes: tuple[str, ...] = ()
    skipped: tuple[tuple[int, int], ...] = ()

    @property
    def throughput_rps(self) -> float:
        """Requests a second in steady state; infinite where nothing takes any time."""
        return 1 / self.bottleneck_s if self.bottleneck_s else math.inf

    @property
    def gap(self) -> float | None:
        """How far the bottleneck may be above the optimum, relative to it; 0 means proven optimal."""
        if self.lower_bound_s is None:
            return None
        if self.bottleneck_s <= self.lower_bound_s:
            return 0.0
        return self.bottleneck_s / self.lower_bound_s - 1 if self.lower_bound_s else math.inf

    @property
    def latency_gap(self) -> float | None:
        """How far the latency may be above the least possible, relative to it; 0 means proven least."""
        if self.latency_bound_s is None:
            return None
        if self.latency_s <= self.latency_bound_s:
            return 0.0
        return self.latency_s / self.latency_bound_s - 1 if self.latency_bound_s else math.inf


Strategy = Callable[[Problem], Plan]
"""A planning strategy. Raises InfeasibleError when no plan satisfies the constraints."""

"""The planning problem: a chain of segments, unequal hosts, a rate for every ordered pair of them.

A model is a chain of ``L`` segments between ``L + 1`` boundaries; boundary 0 is the model's input, boundary ``L`` its
output. A plan chooses boundaries to cut at and a host for each run of segments. All times are predictions in seconds,
all sizes bytes, all transfers encoded bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Chain:
    """What the planner knows of a model.

    Attributes:
        boundary_ops: For each of the ``L + 1`` boundaries the number of operations before it; increasing, from 0 to
            the number of all operations.
        boundary_bits: Encoded bits that cross each boundary, ``L + 1`` of them.
        weight_bytes: Bytes of weights of each of the ``L`` segments.
        activation_bytes: Peak bytes of live activations while a segment runs.
        compute_s: Seconds that a segment takes on one whole core of this machine.
        streams: For each boundary the residual stream that crosses it, as a number; None where none does, and empty
            where nothing is known of them. What lies between two boundaries of one stream may be left out.
    """

    boundary_ops: tuple[int, ...]
    boundary_bits: tuple[float, ...]
    weight_bytes: tuple[int, ...]
    activation_bytes: tuple[int, ...]
    compute_s: tuple[float, ...]
    streams: tuple[int | None, ...] = ()

    def __post_init__(self) -> None:
        segments = len(self.weight_bytes)
        if not segments:
            raise ValueError("a chain needs at least one segment")
        if not (len(self.activation_bytes) == len(self.compute_s) == segments):
            raise ValueError("weight_bytes, activation_bytes and compute_s differ in length")
        if not (len(self.boundary_ops) == len(self.boundary_bits) == segments + 1):
            raise ValueError(f"{segments} segments need {segments + 1} boundaries")
        if len(self.streams) not in (0, segments + 1):
            raise ValueError(f"{len(self.streams)} streams for {segments + 1} boundaries")
        if list(self.boundary_ops) != sorted(set(self.boundary_ops)):
            raise ValueError("boundary_ops must increase")

    @property
    def segments(self) -> int:
        """Number of segments, ``L``."""
        return len(self.weight_bytes)

    def may_skip(self, first: int, last: int) -> bool:
        """Whether segments ``first..last-1`` may be left out, and are more than an activation: they have weights."""
        if not self.streams or first >= last or self.streams[first] is None:
            return False
        return self.streams[first] == self.streams[last] and any(self.weight_bytes[first:last])


@dataclass(frozen=True, slots=True)
class Worker:
    """A host that may hold one stage.

    Attributes:
        name: The host's name.
        speed: Its share of one core of this machine (> 0); may exceed 1.
        memory_bytes: What weights, live activations and ``overhead_bytes`` must fit into; None means unlimited.
        storage_bytes: What the stage's weights must fit into on disk; None means unlimited.
        overhead_bytes: Memory that a server takes besides its stage.
        power_w: What it draws while it computes; None means ``testbed.planning.energy``'s default board.
        price_per_s: Money for a second of its computing, in any currency.
        tier: How far it is from where inputs arise, for strategies with tiers; None lets its speed tell.
    """

    name: str
    speed: float
    memory_bytes: int | None = None
    storage_bytes: int | None = None
    overhead_bytes: int = 0
    power_w: float | None = None
    price_per_s: float = 0.0
    tier: int | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """One direction of a physical link.

    Attributes:
        name: The same wherever a path crosses it, such as ``s1 → node1``.
        rate_bps: What all transfers over it share.
    """

    name: str
    rate_bps: float


@dataclass(frozen=True, slots=True)
class Path:
    """What lies between two hosts in one direction: the least rate and the summed delay.

    Attributes:
        rate_bps: The least rate on the way.
        delay_s: The summed delay.
        energy_j_per_bit: What a bit costs on all its links together; None means one link of Ethernet of that rate.
        price_per_bit: Money for a bit, in the currency of the hosts' prices.
        links: The physical links that it crosses, as far as they are known. Where a plan's paths have one in common,
            their transfers share its rate; paths without them share nothing.
    """

    rate_bps: float
    delay_s: float = 0.0
    energy_j_per_bit: float | None = None
    price_per_bit: float = 0.0
    links: tuple[Link, ...] = ()


@dataclass(frozen=True, slots=True)
class Problem:
    """Choose cuts and hosts so that the busiest host or link has as little to do for a request as possible.

    Attributes:
        chain: The model.
        workers: Hosts that may hold a stage, in the order of the spec.
        dispatcher: Name of the host that sends inputs and takes outputs; it holds no stage.
        paths: What lies between ``(source, target)``, for every ordered pair of workers and for the pairs with the
            dispatcher; a missing pair can't talk.
        max_stages: Most stages allowed; None means as many as the workers may hold.
        seed: For strategies that draw at random.
        time_limit_s: When an anytime strategy stops improving.
        weights: How much each aim of ``testbed.planning.tradeoff.AIMS`` counts where a strategy chooses among
            non-dominated plans; empty means that strategy's default.
        demand_rps: Requests a second that are asked for, for strategies that mind the load; 0 means one at a time.
        objective: For strategies with several: ``latency`` or ``cost``; any other value means their default.
        balance: What the stages of the strategy ``even`` are even in: ``compute``, or ``layers`` (operations).
        accuracy_loss: For each segment, by host, what the model's accuracy loses when the segment runs there (fewer
            bits, say), in points; losses of segments add up (a model). A missing host loses nothing.
        stages_per_host: Most stages of a host, for the strategy ``exact``; all others give a host one. Stages of a host
            that follow each other are one stage.
    """

    chain: Chain
    workers: tuple[Worker, ...]
    dispatcher: str
    paths: Mapping[tuple[str, str], Path] = field(repr=False)
    max_stages: int | None = None
    seed: int = 0
    time_limit_s: float = 10.0
    weights: Mapping[str, float] = field(default_factory=dict)
    demand_rps: float = 0.0
    objective: str = "throughput"
    balance: str = "compute"
    accuracy_loss: Mapping[str, tuple[float, ...]] = field(default_factory=dict, repr=False)
    stages_per_host: int = 1

    @property
    def most_stages(self) -> int:
        """No plan has more stages."""
        room = len(self.workers) * self.stages_per_host
        return room if self.max_stages is None else min(room, self.max_stages)

    @property
    def loads_may_add_up(self) -> bool:
        """Whether a plan can use a host or a link more than once: with one stage a host only on the way between others.

        A host of such a plan sends once and receives once, so what paths from one host, or to one, have in common
        carries one transfer.
        """
        if self.stages_per_host > 1:
            return True
        ends: dict[str, tuple[set[str], set[str]]] = {}
        for (source, target), path in self.paths.items():
            for link in path.links:
                sources, targets = ends.setdefault(link.name, (set(), set()))
                sources.add(source)
                targets.add(target)
        return any(len(sources) > 1 and len(targets) > 1 for sources, targets in ends.values())

    def unshared(self) -> Problem:
        """The problem with one stage a host and paths that have no link in common, where no loads add up."""
        paths = {pair: replace(path, links=()) if path.links else path for pair, path in self.paths.items()}
        return replace(self, paths=paths, stages_per_host=1)

"""Cuts between two tiers of hosts that are best over the whole graph of a model, across its branches.

DNN Surgery (Hu et al., INFOCOM 2019, "DADS" under light load) cuts a DAG between a device and a server by a minimum
cut. A cut is a set S of operations that holds whatever its own read; S runs on the device, the rest on the server. With
the core-seconds T(S) of S, the bits X(S) that cross (a tensor counts once, however many read it), the two speeds and
the rate between them, the latency of a request is

    T(S) / v_device + (T - T(S)) / v_server + X(S) / rate  =  constant + (x T(S) + X(S)) / rate,
    x = rate (1 / v_device - 1 / v_server), below 0 where the "device" is the faster one.

So one number x tells all tiers and rates apart. Its optima are the corners of a lower envelope, found one minimum cut
each (Eisner and Severance, J. ACM 23:619, 1976); and since T is additive and X submodular, a larger x never puts more
on the device: the optima lie within one another (Gallo, Grigoriadis and Tarjan, SIAM J. Comput. 18:30, 1989). Hence
one order of the operations has them all as prefixes: in that order they are ordinary cuts of a chain, for whatever
hosts and rates, and every stage between two of them is an ordinary stage.

They suffice for any number of tiers. Over hosts 1 … k with nested sets S_1 ⊆ … ⊆ S_(k-1) the latency is a constant plus
the sum of f_i(S_i) = (x_i T(S_i) + X(S_i)) / rate_i, each of which one of the cuts minimises. If x_i ≥ x_(i+1) the two
best sets are nested as they should be. If not, let x be their mean, weighted by 1 / rate. The sum of both terms is what
x makes of them, plus c (T(S_(i+1)) - T(S_i)) with a c ≥ 0, and so least where both are the cut that is best for x: the
host between gets nothing (pooling adjacent violators, as in isotonic regression). It is then better left out, unless
going by way of it is faster than going directly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import networkx as nx

from testbed.model.costs import raw_bits
from testbed.model.graph import ModelGraph
from testbed.model.program import TensorSpec

TICKS_PER_S = 10**12
"""Times are whole picoseconds here, and sizes whole bits: minimum cuts of integers are exact."""

_SOURCE, _SINK = "device", "server"


@dataclass(frozen=True, slots=True)
class Arranged:
    """A model in an order in which its best cuts between two tiers are positions.

    Attributes:
        graph: The model; it computes the same, operation by operation.
        op_seconds: Of its operations.
        positions: The cuts, ascending; empty where some other cut, or none, is best for all tiers.
    """

    graph: ModelGraph
    op_seconds: tuple[float, ...]
    positions: tuple[int, ...]


def arranged(
    graph: ModelGraph, op_seconds: Sequence[float], encoded_bits: Callable[[TensorSpec], float] = raw_bits
) -> Arranged:
    """Reorder a model's operations so that its best cuts between two tiers are positions to cut at.

    Args:
        graph: The model.
        op_seconds: Seconds of each operation on one whole core.
        encoded_bits: Bits of a tensor as the codec in use sends it.

    Raises:
        ValueError: If there isn't a time for each operation.
    """
    cuts = tier_cuts(graph, op_seconds, encoded_bits)
    rank = [sum(index not in cut for cut in cuts) for index in range(len(graph.ops))]
    order = sorted(range(len(graph.ops)), key=lambda index: (rank[index], index))
    return Arranged(
        graph if order == list(range(len(order))) else graph.reordered(order),
        tuple(op_seconds[index] for index in order),
        tuple(len(cut) for cut in cuts),
    )


def tier_cuts(
    graph: ModelGraph, op_seconds: Sequence[float], encoded_bits: Callable[[TensorSpec], float] = raw_bits
) -> tuple[frozenset[int], ...]:
    """The operations on the device, by index, of every cut that is best for some tiers; ascending, each in the next.

    All on one tier is left out. Arguments and errors as for :func:`arranged`.
    """
    if len(op_seconds) != len(graph.ops):
        raise ValueError(f"{len(op_seconds)} times for {len(graph.ops)} operations")
    problem = _Network(graph, op_seconds, encoded_bits)
    everything = frozenset(range(len(graph.ops)))
    nothing: frozenset[int] = frozenset()
    found: set[frozenset[int]] = set()
    pairs = [(nothing, everything)]
    while pairs:
        inner, outer = pairs.pop()
        # The weight of time at which both cost the same.
        bits, ticks = problem.bits(inner) - problem.bits(outer), problem.ticks(outer) - problem.ticks(inner)
        if ticks <= 0:
            continue
        between = problem.least(bits, ticks, inner, outer)
        if problem.cost(between, bits, ticks) < problem.cost(outer, bits, ticks):
            found.add(between)
            pairs += [(inner, between), (between, outer)]
    return tuple(sorted(found, key=len))


class _Network:
    """Minimum cuts of one model: its operations, and a node for each tensor, which crosses once or not at all."""

    def __init__(
        self, graph: ModelGraph, op_seconds: Sequence[float], encoded_bits: Callable[[TensorSpec], float]
    ) -> None:
        self._op_ticks = [round(seconds * TICKS_PER_S) for seconds in op_seconds]
        self._maker: dict[int, int | str] = {value: index for index, op in enumerate(graph.ops) for value in op.makes}
        entering = graph.crossing(0)
        self._maker |= dict.fromkeys(entering, _SOURCE)
        self._readers: dict[int, set[int | str]] = {value: set() for value in self._maker}
        for index, op in enumerate(graph.ops):
            for value in op.reads:
                if value in self._readers:  # no weight or constant, which never cross
                    self._readers[value].add(index)
        for value in graph.crossing(len(graph.ops)):
            if value in self._readers:
                self._readers[value].add(_SINK)
        self._bits = {
            value: round(encoded_bits(graph.sent_spec(value))) for value, readers in self._readers.items() if readers
        }

    def ticks(self, held: frozenset[int]) -> int:
        """Time of the operations in a cut."""
        return sum(self._op_ticks[index] for index in held)

    def bits(self, held: frozenset[int]) -> int:
        """What crosses behind a cut."""
        inside = held | {_SOURCE}
        return sum(
            bits for value, bits in self._bits.items() if self._maker[value] in inside and self._readers[value] - held
        )

    def cost(self, held: frozenset[int], ticks_weigh: int, bits_weigh: int) -> int:
        """What a minimum cut minimises."""
        return ticks_weigh * self.ticks(held) + bits_weigh * self.bits(held)

    def least(self, ticks_weigh: int, bits_weigh: int, inner: frozenset[int], outer: frozenset[int]) -> frozenset[int]:
        """The cut of least cost; one between two that are least for a larger and a smaller weight of time."""
        network: nx.DiGraph[int | str | tuple[str, int]] = nx.DiGraph()
        network.add_nodes_from((_SOURCE, _SINK))
        for index, ticks in enumerate(self._op_ticks):
            # A weight below 0 rewards time on the device: what isn't there costs as much.
            ends = (index, _SINK) if ticks_weigh >= 0 else (_SOURCE, index)
            network.add_edge(*ends, capacity=abs(ticks_weigh) * ticks)
        for value, bits in self._bits.items():
            maker, sent = self._maker[value], ("sent", value)
            network.add_edge(maker, sent, capacity=bits_weigh * bits)
            for reader in self._readers[value]:
                network.add_edge(sent, reader)  # no capacity: never cut
                if reader != _SINK and maker != _SOURCE:
                    network.add_edge(reader, maker)  # whatever is on the device has its inputs there
        _, (device, _) = nx.minimum_cut(network, _SOURCE, _SINK, flow_func=nx.algorithms.flow.boykov_kolmogorov)
        return frozenset(node for node in device if isinstance(node, int)) & outer | inner

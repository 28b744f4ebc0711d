"""What lies between the cuts of a model: a row for each segment."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from testbed.model.costs import analyse, chain, raw_bits
from testbed.model.graph import ModelGraph
from testbed.model.program import TensorSpec
from testbed.model.streams import streams


@dataclass(frozen=True, slots=True)
class Segment:
    """Operations between two neighbouring cuts, and the cut behind them.

    Attributes:
        first_op, last_op: The operations ``first_op..last_op-1``; the cut is behind ``last_op`` operations.
        behind: The last operation's name, and its module where that is known.
        tensors, cut_bytes: What crosses the cut behind it; at the model's end, its outputs.
        encoded_bytes: What that takes as the codec in use sends it.
        weight_bytes: Of the weights that it reads.
        flops: Floating-point operations of its convolutions and matrix products, two for a multiply-add.
        moved_bytes: Bytes that its operations read and write.
        activation_bytes: Most bytes of inputs and results that are alive at once.
        compute_s: Seconds on one core.
        stream: The residual stream that crosses the cut behind it: what lies between two cuts of one stream may be left
            out. None where there is none, or no weights lie on it.
    """

    first_op: int
    last_op: int
    behind: str
    tensors: int
    cut_bytes: int
    encoded_bytes: int
    weight_bytes: int
    flops: int
    moved_bytes: int
    activation_bytes: int
    compute_s: float
    stream: int | None


@dataclass(frozen=True, slots=True)
class Inventory:
    """A model in segments.

    Attributes:
        segments: In order.
        operations: Of the whole model.
        cuts, single_tensor_cuts: All places to cut between operations, and those that one tensor crosses.
        weight_bytes: Of the whole model; weights that several segments read count once.
        analytic: Whether the seconds are counted, not measured.
    """

    segments: tuple[Segment, ...]
    operations: int
    cuts: int
    single_tensor_cuts: int
    weight_bytes: int
    analytic: bool

    @property
    def streams(self) -> tuple[tuple[int, ...], ...]:
        """The cuts of each residual stream, in order."""
        found: dict[int, list[int]] = {}
        for segment in self.segments:
            if segment.stream is not None:
                found.setdefault(segment.stream, []).append(segment.last_op)
        return tuple(map(tuple, found.values()))


def take_inventory(
    graph: ModelGraph,
    op_seconds: Sequence[float],
    *,
    every: bool = False,
    analytic: bool = False,
    encoded_bits: Callable[[TensorSpec], float] = raw_bits,
) -> Inventory:
    """The segments between cuts.

    Args:
        graph: The model.
        op_seconds: Seconds of each operation.
        every: Cut behind every operation; otherwise at the cuts that planners choose among, which one tensor crosses.
        analytic: Whether the seconds are counted.
        encoded_bits: Bits of a tensor as the codec in use sends it.
    """
    end = len(graph.ops)
    costs = analyse(graph)
    cuts = graph.cuts()
    boundaries = tuple(range(end + 1)) if every else chain(graph, op_seconds, encoded_bits=encoded_bits).boundary_ops
    crossing = streams(graph, boundaries)
    weighty = _with_weights(graph, boundaries, crossing)
    segments = []
    for (first, last), stream in zip(itertools.pairwise(boundaries), crossing[1:], strict=True):
        op = graph.ops[last - 1]
        segments.append(
            Segment(
                first_op=first,
                last_op=last,
                behind=f"{op.name} ({op.module})" if op.module else op.name,
                tensors=len(cuts[last].tensors),
                cut_bytes=cuts[last].bytes,
                encoded_bytes=round(math.fsum(map(encoded_bits, cuts[last].tensors)) / 8),
                weight_bytes=sum(graph.values[value].bytes for value in graph.stage_values(first, last)),
                flops=sum(cost.flops for cost in costs[first:last]),
                moved_bytes=sum(cost.bytes for cost in costs[first:last]),
                activation_bytes=graph.peak_activation_bytes(first, last),
                compute_s=math.fsum(op_seconds[first:last]),
                stream=stream if stream in weighty else None,
            )
        )
    inner = cuts[1:-1]
    return Inventory(
        tuple(segments),
        end,
        len(inner),
        sum(len(cut.tensors) == 1 for cut in inner),
        sum(tensor.nbytes for tensor in graph.weights.values()),
        analytic,
    )


def _with_weights(
    graph: ModelGraph, boundaries: Sequence[int], crossing: Sequence[int | None]
) -> frozenset[int | None]:
    """Streams with weights between their cuts; an activation alone is nothing that could be lost."""
    found: dict[int | None, list[int]] = {}
    for position, stream in zip(boundaries, crossing, strict=True):
        found.setdefault(stream, []).append(position)
    return frozenset(
        stream
        for stream, cuts in found.items()
        if stream is not None and len(cuts) > 1 and graph.stage_values(cuts[0], cuts[-1])
    )

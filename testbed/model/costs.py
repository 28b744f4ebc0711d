"""What stages cost: measured seconds, counted operations and bytes, and the chain of segments that the planner sees."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from testbed.model.executor import StageExecutor
from testbed.model.graph import ModelGraph
from testbed.model.operators import OPERATORS, Ref
from testbed.model.program import TensorSpec
from testbed.model.streams import streams


@dataclass(frozen=True, slots=True)
class ChainCosts:
    """The model as the planner sees it: ``L`` segments between ``L + 1`` boundaries.

    A stage of several segments needs the sum of their weights and the largest of their activations.

    Attributes:
        boundary_ops: Operations before each boundary; increasing, from 0 to the number of all.
        boundary_bits: Encoded bits that cross each boundary; the first is the model's input, the last its output.
        weight_bytes: Bytes of weights that each segment reads. Weights that several segments read count in each.
        activation_bytes: Peak bytes of live inputs, results and outputs while a segment runs.
        compute_s: Seconds that a segment takes on one whole core.
        streams: For each boundary the residual stream that crosses it (:mod:`testbed.model.streams`).
    """

    boundary_ops: tuple[int, ...]
    boundary_bits: tuple[float, ...]
    weight_bytes: tuple[int, ...]
    activation_bytes: tuple[int, ...]
    compute_s: tuple[float, ...]
    streams: tuple[int | None, ...] = ()


@dataclass(frozen=True, slots=True)
class NominalCore:
    """A core that nothing is run on: a roofline (Williams, Waterman and Patterson 2009) and a cost of each call.

    Attributes:
        flops_per_s: Most floating-point operations in a second.
        bytes_per_s: Most bytes read and written in a second.
        call_s: What an operation takes besides.
    """

    flops_per_s: float
    bytes_per_s: float
    call_s: float


NOMINAL_CORE = NominalCore(flops_per_s=100e9, bytes_per_s=25e9, call_s=20e-6)
"""Fitted to one thread of a 2.5 GHz server core with AVX-512 and seven models at batch 1: the whole model's time is
within 10 % for ResNet50, MobileNetV2, EfficientNet-B0, InceptionV3 and DenseNet121, 0.74 times the measured one for
ViT-B/16 and 1.46 times for VGG16. What it gives for a single operation is rougher."""


@dataclass(frozen=True, slots=True)
class OpCost:
    """Counted, not measured.

    Attributes:
        flops: Floating-point operations (two for a multiply-add) of convolutions and matrix products; others count 0.
        bytes: Bytes of all tensors that it reads and makes; 0 for one that only re-arranges a view.
    """

    flops: int
    bytes: int


def raw_bits(spec: TensorSpec) -> float:
    """Bits of a tensor that is sent as it is."""
    return 8.0 * spec.bytes


def profile(
    graph: ModelGraph,
    example: torch.Tensor | Sequence[torch.Tensor],
    repeats: int = 7,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, ...]:
    """Seconds that each operation takes on one whole core, with one thread.

    Runs with a clock read behind each operation alternate with plain runs. An operation's time is its median over the
    former, scaled so that the sum is the median of the latter. The first run of each kind is warm-up.

    Args:
        graph: The model.
        example: Its input or inputs.
        repeats: Measured runs of each kind.
        clock: For the plain runs, in seconds.

    Raises:
        ValueError: If ``repeats`` is less than 1.
    """
    if repeats < 1:
        raise ValueError("a profile needs at least one measured run")
    inputs = [example] if isinstance(example, torch.Tensor) else list(example)
    executor = StageExecutor(graph.stage(0, len(graph.ops)), graph.weights)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        timed: list[list[float]] = []
        whole: list[float] = []
        for repeat in range(repeats + 1):
            _, seconds = executor.run_timed(inputs)
            started_s = clock()
            executor.run(inputs)
            elapsed_s = clock() - started_s
            if repeat:
                timed.append(seconds)
                whole.append(elapsed_s)
    finally:
        torch.set_num_threads(threads)
    medians = [statistics.median(column) for column in zip(*timed, strict=True)]
    # Changes of layout at the model's own borders belong to its first and last operation.
    held = (*range(len(graph.inputs)), *graph.stage_values(0, len(graph.ops)))
    before = sum(graph.turned(value) for value in held)
    per_op = medians[before : before + len(graph.ops)]
    per_op[0] += sum(medians[:before])
    per_op[-1] += sum(medians[before + len(graph.ops) :])
    scale = statistics.median(whole) / sum(per_op)
    return tuple(seconds * scale for seconds in per_op)


def analyse(graph: ModelGraph) -> tuple[OpCost, ...]:
    """Counts of each operation from shapes alone; nothing is computed."""
    found = []
    with FakeTensorMode():
        for op in graph.ops:
            if not OPERATORS[op.op].computes:
                found.append(OpCost(0, 0))
                continue
            with FlopCounterMode(display=False) as counter:
                OPERATORS[op.op].overload(*_stand_ins(graph, op.args), **op.kwargs)
            moved = sum(graph.values[value].bytes for value in (*op.reads, *op.makes))
            found.append(OpCost(int(counter.get_total_flops()), moved))
    return tuple(found)


def analytic_seconds(
    graph: ModelGraph, core: NominalCore = NOMINAL_CORE, counts: Sequence[OpCost] | None = None
) -> tuple[float, ...]:
    """Seconds of each operation on a nominal core, from counts alone; nothing is computed.

    Args:
        graph: The model.
        core: Its speed.
        counts: Of `analyse`, where they are known already.
    """
    return tuple(
        max(cost.flops / core.flops_per_s, cost.bytes / core.bytes_per_s) + (core.call_s if cost.bytes else 0.0)
        for cost in (analyse(graph) if counts is None else counts)
    )


def _stand_ins(graph: ModelGraph, args: Sequence[object]) -> list[object]:
    made: list[object] = []
    for item in args:
        if isinstance(item, Ref):
            value = graph.values[item.value]
            made.append(torch.empty_strided(value.shape, value.strides, dtype=value.dtype))
        else:
            made.append(_stand_ins(graph, item) if isinstance(item, tuple) else item)
    return made


def chain(
    graph: ModelGraph,
    op_seconds: Sequence[float],
    max_cut_tensors: int | None = 1,
    encoded_bits: Callable[[TensorSpec], float] = raw_bits,
    also: Collection[int] = (),
) -> ChainCosts:
    """The chain of segments between candidate cuts.

    Candidates are the model's two ends, every position that at most ``max_cut_tensors`` tensors cross, and ``also``. Of
    neighbouring candidates with nothing but views between them (no arithmetic, no weights) only the one with the fewest
    bits stays, the earlier one when equal: moving views to the other stage changes neither its compute nor its memory,
    so the optimum stays but for the few microseconds of the views, and but for plans with a host as a mere relay.

    Args:
        graph: The model.
        op_seconds: Seconds of each operation, as from `profile`.
        max_cut_tensors: Most tensors that may cross a cut; None for any number.
        encoded_bits: Bits of a tensor as the codec in use sends it.
        also: Positions that are candidates however many tensors cross them.

    Raises:
        ValueError: If ``op_seconds`` hasn't a number for each operation, or ``max_cut_tensors`` is less than 1.
    """
    end = len(graph.ops)
    if len(op_seconds) != end:
        raise ValueError(f"{len(op_seconds)} times for {end} operations")
    if max_cut_tensors is not None and max_cut_tensors < 1:
        raise ValueError("at least one tensor must be allowed to cross a cut")
    cuts = graph.cuts()
    bits = [math.fsum(encoded_bits(spec) for spec in cut.tensors) for cut in cuts]
    boundaries = [0]
    for position in range(1, end):
        wide = max_cut_tensors is not None and len(cuts[position].tensors) > max_cut_tensors
        if wide and position not in also:
            continue
        last = boundaries[-1]
        if last and not any(OPERATORS[op.op].computes for op in graph.ops[last:position]):
            if bits[position] < bits[last]:
                boundaries[-1] = position
        else:
            boundaries.append(position)
    boundaries.append(end)
    live = graph.live_activation_bytes()
    pairs = list(itertools.pairwise(boundaries))
    return ChainCosts(
        boundary_ops=tuple(boundaries),
        boundary_bits=tuple(bits[position] for position in boundaries),
        weight_bytes=tuple(sum(graph.values[v].bytes for v in graph.stage_values(a, b)) for a, b in pairs),
        # A stage of its own may not overwrite its inputs, and the whole model may keep what a view shares: the larger
        # of both bounds any stage that contains the segment.
        activation_bytes=tuple(max(graph.peak_activation_bytes(a, b), *live[a:b]) for a, b in pairs),
        compute_s=tuple(math.fsum(op_seconds[a:b]) for a, b in pairs),
        streams=streams(graph, boundaries),
    )

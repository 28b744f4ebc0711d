"""What a model's tensors take on the wire in the codec in use: by their shape, or measured on sample activations."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import torch

from testbed.model.costs import raw_bits
from testbed.model.executor import StageExecutor
from testbed.model.graph import ModelGraph
from testbed.model.program import TensorSpec
from testbed.serving.codecs import CODECS, NONE, encoded_bytes, require_codec

EncodedBits = Callable[[TensorSpec], float]
"""Encoded bits of a tensor that may cross a cut, or enter or leave the model."""


def encoded_sizes(
    graph: ModelGraph,
    requests: Sequence[Sequence[torch.Tensor]],
    codec: str,
    progress: Callable[[str], None] = lambda _: None,
) -> EncodedBits:
    """Sizes in a codec.

    Args:
        graph: The model.
        requests: Inputs whose activations are encoded, where a size depends on what is in a tensor. Without any, such
            a codec is taken to save nothing, which it never falls short of.
        codec: Its name, or ``none``.
        progress: Told what is done.

    Raises:
        MachineError: If the codec's package isn't installed.
    """
    if codec == NONE:
        return raw_bits
    require_codec(codec)
    if CODECS[codec].by_shape:
        return lambda spec: 8.0 * encoded_bytes(codec, torch.zeros(spec.shape, dtype=spec.torch_dtype))
    if not requests:
        return raw_bits
    progress(f"measuring what {codec} makes of its activations")
    found: dict[str, list[int]] = {}
    for request in requests:
        measured = _measured(graph, request, codec)
        for name, size in measured.items():
            found.setdefault(name, []).append(size)
    bits = {name: 8.0 * statistics.fmean(sizes) for name, sizes in found.items()}
    return lambda spec: bits.get(spec.name, raw_bits(spec))


def _measured(graph: ModelGraph, request: Sequence[torch.Tensor], codec: str) -> dict[str, int]:
    """Encoded bytes of every tensor of a request that can cross a cut, by name; each is encoded once."""
    sizes: dict[str, int] = {}
    tensors = list(request)

    def measure(position: int) -> None:
        for spec, tensor in zip(graph.cut(position).tensors, tensors, strict=True):
            if spec.name not in sizes:
                sizes[spec.name] = encoded_bytes(codec, tensor)

    measure(0)
    for position in range(1, len(graph.ops) + 1):
        executor = StageExecutor(graph.stage(position - 1, position), graph.weights)
        # A stage owns its inputs and may overwrite them.
        tensors = executor.run([tensor.clone() for tensor in tensors])
        measure(position)
    return sizes

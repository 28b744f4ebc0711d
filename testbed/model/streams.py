"""Residual streams: the operations of a model that may be left out, because a shortcut carries what they would change.

In a residual network a block computes ``x + f(x)``. Without the block its input goes on in the place of its output: the
identity shortcut does all of it (Veit, Wilber and Belongie 2016; CONTINUER, arXiv 2206.05267, skips failed nodes so).
A value and what additions and element-wise activations make of it, in the same shape, are one *stream*. What lies
between two cuts that one tensor of the same stream crosses may be left out; everything between them only adds to it.

Streams are found in the data flow, so no model has to say where its blocks are. A layer whose input merely has the
shape of its output (a plain convolution of VGG) is no shortcut. Neither is a normalisation on the stream itself, so
transformers that normalise behind each addition (BERT) have nothing to leave out; those that normalise before (ViT) do.
"""

from __future__ import annotations

from collections.abc import Sequence

from testbed.model.graph import ModelGraph

_ADDITION = "aten.add.Tensor"
_ACTIVATIONS = frozenset(
    f"aten.{name}.default"
    for name in ("relu", "relu6", "hardtanh", "leaky_relu", "elu", "gelu", "silu", "hardswish", "mish", "clone")
)
"""Element-wise operations of one tensor that stand on a stream, behind an addition."""


def streams(graph: ModelGraph, positions: Sequence[int]) -> tuple[int | None, ...]:
    """The stream that crosses each of some cuts, as a number; None where several tensors cross, or none that may be.

    Equal numbers are the same stream, and :meth:`~testbed.model.graph.ModelGraph.without` takes what lies between.
    """
    of_value = _streams_of_values(graph)
    end = len(graph.ops)
    found: list[int | None] = []
    for position in positions:
        crossing = graph.crossing(position)
        alone = len(crossing) == 1 and graph.values[crossing[0]].order is not None
        # The model's own ends have the order of dimensions that its user sees; between stages it is that of memory.
        turned = position in (0, end) and any(map(graph.turned, crossing))
        found.append(of_value[crossing[0]] if alone and not turned else None)
    return tuple(found)


def _streams_of_values(graph: ModelGraph) -> tuple[int, ...]:
    """For each value the number of the first value of its stream."""
    found = list(range(len(graph.values)))
    made = {value for op in graph.ops for value in op.makes} | set(graph.crossing(0))
    for op in graph.ops:
        # A weight that is added, such as a table of positions, is no shortcut around anything.
        reads = [value for value in op.reads if value in made]
        if op.op in _ACTIVATIONS or (op.op == _ADDITION and len(reads) == len(op.reads) == 2):
            (result,) = op.makes
            found[result] = min([result, *(found[value] for value in reads if graph.same_form(value, result))])
    return tuple(found)

"""What a model is made of, without an experiment: its cuts and segments, timed here or counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from runner.csvfile import Row, to_csv
from runner.encoded_sizes import encoded_sizes
from runner.op_times import op_times
from runner.preparation import model_inputs
from testbed.model.costs import analytic_seconds
from testbed.model.graph import ModelGraph
from testbed.model.inputs import load_inputs
from testbed.model.inventory import Inventory, Segment, take_inventory
from testbed.model.zoo import load_model
from testbed.serving.codecs import NONE
from testbed.spec.inference import ModelSpec

COLUMNS = (
    "first_op",
    "last_op",
    "behind",
    "tensors",
    "cut_bytes",
    "encoded_bytes",
    "weight_bytes",
    "flops",
    "moved_bytes",
    "activation_bytes",
    "compute_ms",
    "stream",
)


def survey_model(
    spec: ModelSpec,
    seed: int,
    search_path: Path,
    progress: Callable[[str], None] = lambda _: None,
    *,
    every: bool = False,
    analytic: bool = False,
    afresh: bool = False,
    codec: str = NONE,
) -> Inventory:
    """Load, export, and time or count.

    Args:
        spec: The model.
        seed: Of its weights.
        search_path: Folder of a user's own module.
        progress: Told of each step.
        every: Every cut, not only those that one tensor crosses.
        analytic: Run nothing.
        afresh: Measure even if times are kept.
        codec: How what crosses would be encoded.

    Raises:
        ModelError: If the model or its inputs can't be used.
    """
    inputs = model_inputs(spec)
    progress(f"loading {spec.name or spec.module}")
    module = load_model(
        name=spec.name,
        module=spec.module,
        weights=spec.weights,
        input_shape=inputs,
        seed=seed,
        search_path=search_path,
        run=not analytic,
    )
    progress("exporting the model")
    graph = ModelGraph.trace(module, inputs)
    if analytic:
        bits = encoded_sizes(graph, (), codec)
        return take_inventory(graph, analytic_seconds(graph), every=every, analytic=True, encoded_bits=bits)
    (request,) = load_inputs(inputs, seed, distinct=1)
    seconds = op_times(graph, request, progress, afresh=afresh)
    bits = encoded_sizes(graph, (request,), codec, progress)
    return take_inventory(graph, seconds, every=every, encoded_bits=bits)


def inventory_csv(found: Inventory) -> bytes:
    """The segments as a CSV file; the columns are the attributes of `Segment`, its time in milliseconds."""
    return to_csv(COLUMNS, map(_row, found.segments))


def _row(segment: Segment) -> Row:
    return {
        column: segment.compute_s * 1e3 if column == "compute_ms" else getattr(segment, column) for column in COLUMNS
    }

"""What a model is made of, without an experiment: its cuts and segments, timed here or counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from runner.csvfile import Row, to_csv
from runner.op_times import op_times
from runner.preparation import model_inputs
from testbed.model.costs import analytic_seconds
from testbed.model.graph import ModelGraph
from testbed.model.inputs import load_inputs
from testbed.model.inventory import Inventory, Segment, take_inventory
from testbed.model.zoo import load_model
from testbed.spec.inference import ModelSpec

COLUMNS = (
    "first_op",
    "last_op",
    "behind",
    "tensors",
    "cut_bytes",
    "weight_bytes",
    "flops",
    "moved_bytes",
    "activation_bytes",
    "compute_ms",
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
        return take_inventory(graph, analytic_seconds(graph), every=every, analytic=True)
    (request,) = load_inputs(inputs, seed, distinct=1)
    return take_inventory(graph, op_times(graph, request, progress, afresh=afresh), every=every)


def inventory_csv(found: Inventory) -> bytes:
    """The segments as a CSV file; the columns are the attributes of `Segment`, its time in milliseconds."""
    return to_csv(COLUMNS, map(_row, found.segments))


def _row(segment: Segment) -> Row:
    return {
        column: segment.compute_s * 1e3 if column == "compute_ms" else getattr(segment, column) for column in COLUMNS
    }

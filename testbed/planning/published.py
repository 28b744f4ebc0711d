"""SEIFER's own problems: a Keras layer graph, its candidate points and costs, and hosts scattered over a square.

Layer graphs are JSON: for each model a list of layers ``{"name", "kind", "inputs", "shape", "params"}`` in topological
order, ``shape`` without the batch (as dumped from keras.applications). Sections are those of notes/papers.md.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as FilePath

import numpy as np

from testbed.errors import InfeasibleError, UsageError
from testbed.planning import exact
from testbed.planning.instance import Floats, Instance
from testbed.planning.plan import Plan
from testbed.planning.problem import Chain, Path, Problem, Worker
from testbed.planning.seifer import SeiferRules, farthest_ends

MIB = 2**20
SIDE_M = 149.0
"""Hosts are uniform in a square from 1 m to 150 m (§1.6)."""

SIGNAL = 283_230
"""``B(d) = log2(1 + SIGNAL / d²)`` Mbit/s over ``d`` metres (§1.6)."""

FLOAT32_BYTES = 4
ASSUMED_BYTES = 8 / 1.44
DISPATCHER = "dispatcher"


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of a Keras model.

    Attributes:
        name: Its name.
        kind: Its class.
        inputs: Indices of the layers it reads, all before it.
        elements: Values of its output for a batch of one.
        channels: The last dimension of its output.
        params: Its number of parameters.
    """

    name: str
    kind: str
    inputs: tuple[int, ...]
    elements: int
    channels: int
    params: int


@dataclass(frozen=True, slots=True)
class LayerGraph:
    """A model's layers in topological order, from the one input to the one output."""

    layers: tuple[Layer, ...]

    @property
    def readers(self) -> tuple[int, ...]:
        """How many layers read each layer's output."""
        counts = [0] * len(self.layers)
        for layer in self.layers:
            for source in layer.inputs:
                counts[source] += 1
        return tuple(counts)

    def last_use(self) -> tuple[int, ...]:
        """Index of the last layer that reads each layer's output; its own where none does."""
        last = list(range(len(self.layers)))
        for index, layer in enumerate(self.layers):
            for source in layer.inputs:
                last[source] = index
        return tuple(last)

    def candidate_points(self) -> tuple[int, ...]:
        """Layers that every path from input to output crosses: after them one tensor alone is live (§1.2).

        The same set as SEIFER's search over levels and all paths, in one pass.
        """
        points, live_until = [], 0
        for index, last in enumerate(self.last_use()):
            if live_until <= index:
                points.append(index)
            live_until = max(live_until, last)
        return tuple(points)


def load_layer_graphs(file: FilePath) -> Mapping[str, LayerGraph]:
    """Read layer graphs by model name.

    Raises:
        UsageError: If the file can't be read or isn't made of layer graphs.
    """
    try:
        models = json.loads(file.read_text())
        return {name: _graph(layers) for name, layers in models.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UsageError(
            f"{file} holds no layer graphs: {type(error).__name__}: {error}",
            remedy='it should be JSON: {"model": [{"name", "kind", "inputs", "shape", "params"}, ...]}',
        ) from error


def _graph(layers: Sequence[Mapping[str, object]]) -> LayerGraph:
    index: dict[str, int] = {}
    found = []
    for layer in layers:
        inputs, shape, params = layer["inputs"], layer["shape"], layer["params"]
        if not isinstance(inputs, list) or not isinstance(shape, list) or not isinstance(params, int):
            raise TypeError(f"layer {layer['name']} has an impossible field")
        found.append(
            Layer(
                str(layer["name"]),
                str(layer["kind"]),
                tuple(index[source] for source in inputs),
                math.prod(shape),
                shape[-1],
                params,
            )
        )
        index[str(layer["name"])] = len(found) - 1
    return LayerGraph(tuple(found))


def chain(graph: LayerGraph, rules: SeiferRules) -> Chain:
    """The candidate points as boundaries; no compute, which SEIFER drops (§1.1).

    By SEIFER's memory the input layer is a stage of its own that can carry the first cut, so with
    ``rules.first_segment_free`` it is the chain's first segment; else the chain starts behind it.
    """
    points, readers = graph.candidate_points(), graph.readers
    value_bytes = ASSUMED_BYTES if rules.assumed_codec else FLOAT32_BYTES
    megabit = 2**20 / 1e6 if rules.binary_megabits else 1.0
    bits = [
        graph.layers[point].elements * (readers[point] if rules.copy_per_consumer else 1) * value_bytes * 8 / megabit
        for point in points
    ]
    weights, activations = [], []
    for before, point in itertools.pairwise(points):
        parameters = sum(layer.params for layer in graph.layers[before + 1 : point + 1])
        weights.append(parameters * (1 if rules.parameters_as_bytes else FLOAT32_BYTES))
        outputs = sum(layer.elements for layer in graph.layers[before + 1 : point + 1]) * FLOAT32_BYTES
        if rules.activations_summed:
            weights[-1] += outputs
            activations.append(0)
        else:
            activations.append(_peak_live_bytes(graph, before, point))
    if rules.first_segment_free:
        bits, weights, activations = [bits[0], *bits], [0, *weights], [0, *activations]
    return Chain(
        boundary_ops=tuple(range(len(bits))),
        boundary_bits=tuple(bits),
        weight_bytes=tuple(weights),
        activation_bytes=tuple(activations),
        compute_s=(0.0,) * len(weights),
    )


def _peak_live_bytes(graph: LayerGraph, before: int, point: int) -> int:
    """The most bytes of tensors that are live at once while the layers from ``before + 1`` to ``point`` run."""
    last = graph.last_use()
    peak, live = 0, {before}
    for index in range(before + 1, point + 1):
        live.add(index)
        peak = max(peak, sum(graph.layers[tensor].elements for tensor in live))
        live = {tensor for tensor in live if last[tensor] > index}
    return peak * FLOAT32_BYTES


def scattered_rates_bps(hosts: int, rng: np.random.Generator) -> Floats:
    """``(hosts, hosts)`` rates between hosts that are uniform in the square; symmetric, the diagonal means nothing."""
    places = 1 + SIDE_M * rng.random((hosts, 2))
    squared = ((places[:, None] - places[None]) ** 2).sum(axis=2)
    np.fill_diagonal(squared, 1.0)
    rates: Floats = 1e6 * np.log2(1 + SIGNAL / squared)
    return rates


def problem(
    model: Chain,
    capacity_mib: float,
    rates: Floats,
    rules: SeiferRules,
    seed: int = 0,
    time_limit_s: float = 10.0,
) -> Problem:
    """A cell of SEIFER's grid on one drawn graph.

    Args:
        model: From ``chain`` with the same rules.
        capacity_mib: Every host's memory; SEIFER's stages must be smaller, not equal.
        rates: ``(n+1, n+1)``, the last host being the dispatcher; with ``rules.dispatcher_ignored`` its row and column
            count for nothing, so that both rules can have the same graph.
        rules: Whether the dispatcher's links count.
        seed: For strategies that draw.
        time_limit_s: As in ``Problem``.
    """
    count = len(rates) - 1
    memory = int(capacity_mib * MIB) - 1
    workers = tuple(Worker(f"node{index}", 1.0, memory) for index in range(count))
    names = [*(worker.name for worker in workers), DISPATCHER]
    paths = {}
    for row, source in enumerate(names):
        for column, target in enumerate(names):
            if row != column:
                free = rules.dispatcher_ignored and DISPATCHER in (source, target)
                paths[source, target] = Path(math.inf if free else float(rates[row, column]))
    return Problem(model, workers, DISPATCHER, paths, seed=seed, time_limit_s=time_limit_s)


def exact_under(problem: Problem, rules: SeiferRules) -> Plan:
    """The exact plan where a stage's memory counts as the rules say, so that it may be compared with theirs.

    Raises:
        InfeasibleError: If there is none.
    """
    instance = Instance.of(problem)
    rows = np.broadcast_to(farthest_ends(problem, rules), instance.fits_until.shape)
    return exact.solve(problem, instance=replace(instance, fits_until=rows.copy()))


def mean_bottleneck_s(bottlenecks: Sequence[float | InfeasibleError], rules: SeiferRules) -> tuple[float, float, int]:
    """Mean, its standard error, and how many count; failures count as 0 or not at all, as the rules say.

    NaN where nothing counts (or, for the error, fewer than two).
    """
    values = [
        0.0 if isinstance(value, InfeasibleError) else value
        for value in bottlenecks
        if rules.failure_is_zero or not isinstance(value, InfeasibleError)
    ]
    mean = float(np.mean(values)) if values else math.nan
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return mean, error, len(values)

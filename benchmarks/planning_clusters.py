"""Drawn problems for the exact planner: models as chains, and families of clusters."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as FilePath

import numpy as np

from testbed.errors import InfeasibleError, ModelError
from testbed.planning import exact
from testbed.planning.adapter import chain_from
from testbed.planning.plan import Plan
from testbed.planning.problem import Chain, Link, Path, Problem, Worker
from testbed.planning.published import LayerGraph, chain, load_layer_graphs
from testbed.planning.seifer import CORRECTED
from testbed.planning.strategies import solve

MIB = 2**20
DISPATCHER = "dispatcher"
Rates = Callable[[int, int], float]

RESNET50_S = 0.13
"""What ResNet50 takes on one whole core; other models take as much more as they have operations more."""

FAMILIES = ("wifi", "hwifi", "hstar", "types", "tight")
HARD = "htight"


@dataclass(frozen=True, slots=True)
class Model:
    """A model as a chain, and where it comes from."""

    name: str
    origin: str
    chain: Chain


@dataclass(frozen=True, slots=True)
class Shape:
    """A CNN's names in Keras and in our zoo, the side of its image, and what one of its size would be drawn from.

    That is: segments, float32 weights, compute on a whole core, bits after the first segment.
    """

    name: str
    keras: str
    zoo: str
    side: int
    segments: int
    weights_mib: float
    compute_s: float
    first_mbit: float


SHAPES = (
    Shape("resnet50", "ResNet50", "resnet50", 224, 40, 98, 0.13, 25),
    Shape("mobilenet_v2", "MobileNetV2", "mobilenet_v2", 224, 75, 14, 0.02, 15),
    Shape("efficientnet_b0", "EfficientNetB0", "efficientnet_b0", 224, 86, 20, 0.03, 19),
    Shape("inception_resnet_v2", "InceptionResNetV2", "timm:inception_resnet_v2", 299, 104, 213, 0.35, 25),
    Shape("densenet121", "DenseNet121", "densenet121", 224, 80, 31, 0.10, 25),
)


def models(paper: FilePath | None, seed: int) -> tuple[Model, ...]:
    """The five models: of the published layer graphs, else our own export, else drawn in their size."""
    graphs: Mapping[str, LayerGraph] = load_layer_graphs(paper / "layer_graphs.json") if paper is not None else {}
    found = []
    for index, shape in enumerate(SHAPES):
        if shape.keras in graphs:
            layers = graphs[shape.keras]
            found.append(Model(shape.name, "Keras layer graph", _with_compute(layers, graphs["ResNet50"])))
            continue
        exported = _exported(shape)
        if exported is not None:
            found.append(Model(shape.name, f"exported {shape.zoo}", exported))
        else:
            drawn = _drawn(shape, np.random.default_rng((seed, index)))
            found.append(Model(shape.name, "drawn in its size", drawn))
    return tuple(found)


def _with_compute(graph: LayerGraph, resnet50: LayerGraph) -> Chain:
    """Corrected bytes, and compute in proportion to operations."""
    points, operations = graph.candidate_points(), _operations(graph)
    per_operation = RESNET50_S / sum(_operations(resnet50))
    compute = [sum(operations[before + 1 : point + 1]) * per_operation for before, point in itertools.pairwise(points)]
    # A camera's image has 8 bits a value.
    model = chain(graph, CORRECTED)
    bits = (model.boundary_bits[0] / 4, *model.boundary_bits[1:])
    return replace(model, compute_s=tuple(compute), boundary_bits=bits)


def _operations(graph: LayerGraph) -> list[float]:
    """Multiply-adds of each layer: a convolution uses each weight once a position, other layers touch each value."""
    found = []
    for layer in graph.layers:
        positions = layer.elements // layer.channels if "Conv" in layer.kind else 1
        found.append(float(max(layer.params * positions, layer.elements)) if layer.kind != "InputLayer" else 0.0)
    return found


def _exported(shape: Shape) -> Chain | None:
    """The model through our own export, its operations counted; None where its package isn't installed."""
    # Only needed for what the published data lack, and slow to import.
    from testbed.model.costs import analyse
    from testbed.model.costs import chain as chain_costs
    from testbed.model.graph import ModelGraph
    from testbed.model.zoo import load_model

    size = (1, 3, shape.side, shape.side)
    try:
        graph = ModelGraph.trace(load_model(name=shape.zoo, input_shape=size, seed=0, run=False), size)
    except ModelError:
        return None
    counted = [cost.flops / 2 + cost.bytes / 8 for cost in analyse(graph)]
    model = chain_from(chain_costs(graph, [count * shape.compute_s / sum(counted) for count in counted]))
    return replace(model, boundary_bits=(model.boundary_bits[0] / 4, *model.boundary_bits[1:]))


def _drawn(shape: Shape, rng: np.random.Generator) -> Chain:
    """A chain that halves its feature maps four times while its weights grow."""
    depth = np.floor(np.linspace(0, 4.999, shape.segments))
    bits = shape.first_mbit * 1e6 * 2.0**-depth * rng.lognormal(0, 0.4, shape.segments)
    weights = 3.0**depth * rng.lognormal(0, 0.5, shape.segments)
    compute = rng.lognormal(0, 0.4, shape.segments)
    return Chain(
        boundary_ops=tuple(range(shape.segments + 1)),
        boundary_bits=(8 * 3 * 224 * 224, *bits[:-1], 32_000),
        weight_bytes=tuple(int(w) for w in weights / weights.sum() * shape.weights_mib * MIB),
        activation_bytes=tuple(int(b) for b in 2 * bits / 8),
        compute_s=tuple(compute / compute.sum() * shape.compute_s),
    )


def _problem(
    model: Chain, workers: Sequence[Worker], rate_bps: Rates, time_limit_s: float, own: Sequence[float] = ()
) -> Problem:
    """``rate_bps`` of indices; the dispatcher's is the number of workers. On a star each has a link of its ``own``."""
    names = [*(worker.name for worker in workers), DISPATCHER]

    def links(row: int, column: int) -> tuple[Link, ...]:
        return (Link(f"{names[row]} → switch", own[row]), Link(f"switch → {names[column]}", own[column])) if own else ()

    paths = {
        (source, target): Path(rate_bps(row, column), links=links(row, column))
        for row, source in enumerate(names)
        for column, target in enumerate(names)
        if row != column
    }
    return Problem(model, tuple(workers), DISPATCHER, paths, time_limit_s=time_limit_s)


def _wifi(hosts: int, rng: np.random.Generator) -> Rates:
    """Shannon rates of hosts scattered over a square of 150 m."""
    places = rng.uniform(0, 150, (hosts + 1, 2))

    def rate_bps(source: int, target: int) -> float:
        # Summed squares are the same both ways, so the two directions agree to the last bit.
        return float(1e6 * np.log2(1 + 283_230 / max(1.0, float(((places[source] - places[target]) ** 2).sum()))))

    return rate_bps


def _star(own: Sequence[float]) -> Rates:
    return lambda source, target: min(own[source], own[target])


def _workers(memory_mib: Sequence[float], speed: Sequence[float]) -> list[Worker]:
    return [
        Worker(f"node{index}", float(share), int(memory * MIB))
        for index, (memory, share) in enumerate(zip(memory_mib, speed, strict=True))
    ]


def _spread(hosts: int, rng: np.random.Generator) -> list[Worker]:
    memory = np.exp(rng.uniform(np.log(32), np.log(512), hosts))
    return _workers(memory.tolist(), np.exp(rng.uniform(np.log(0.03), np.log(0.3), hosts)).tolist())


def _boards(hosts: int, rng: np.random.Generator) -> tuple[list[Worker], list[float]]:
    classes = ((64.0, 0.05, 10e6), (128.0, 0.1, 50e6), (512.0, 0.3, 100e6))
    kinds = [classes[index] for index in rng.integers(0, 3, hosts)]
    own = [*(kind[2] for kind in kinds), 100e6]
    return _workers([kind[0] for kind in kinds], [kind[1] for kind in kinds]), own


def problem(family: str, hosts: int, model: Chain, rng: np.random.Generator, time_limit_s: float) -> Problem:
    """One drawn problem of a family; it may be infeasible."""
    if family == "types":
        workers, own = _boards(hosts, rng)
        return _problem(model, workers, _star(own), time_limit_s, own)
    if family == "hwifi":
        rates = _wifi(hosts, rng)
        return _problem(model, _spread(hosts, rng), rates, time_limit_s)
    if family == "hstar":
        own = [*(1e6 * np.exp(rng.uniform(np.log(2), np.log(100), hosts))).tolist(), 100e6]
        return _problem(model, _spread(hosts, rng), _star(own), time_limit_s, own)
    speed = [0.1] * hosts
    if family == "wifi":
        memory = [float(rng.uniform(64, 128))] * hosts
        return _problem(model, _workers(memory, speed), _wifi(hosts, rng), time_limit_s)
    rates = _wifi(hosts, rng)
    weights_mib, activations_mib = sum(model.weight_bytes) / MIB, max(model.activation_bytes) / MIB
    if family == "tight":
        # Activations leave less than a host's memory for weights: the largest counts for all.
        room = weights_mib / (0.8 * min(hosts, 12)) + activations_mib
        return _problem(model, _workers([room] * hosts, speed), rates, time_limit_s)
    # htight: unequal memory; all of it scaled to within 2 % of the least factor that is found feasible in a second.
    shares = np.exp(rng.uniform(np.log(1), np.log(8), hosts))
    shares /= shares.sum()
    low, high = 1.0, float(hosts * 8)

    def scaled(factor: float) -> Problem:
        memory = (shares * weights_mib + activations_mib / hosts) * factor
        return _problem(model, _workers(memory.tolist(), speed), rates, time_limit_s)

    while high > low * 1.02:
        middle = (low * high) ** 0.5
        if isinstance(attempt(replace(scaled(middle), time_limit_s=1.0), "exact"), Plan):
            high = middle
        else:
            low = middle
    return scaled(high)


def attempt(posed: Problem, strategy: str) -> Plan | InfeasibleError:
    """The strategy's plan, or why there is none; ``exact`` has its time limit in seconds of this process's own CPU."""
    try:
        return exact.solve(posed, clock=time.process_time) if strategy == "exact" else solve(posed, strategy)
    except InfeasibleError as error:
        return error

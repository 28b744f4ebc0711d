"""What is known before anything is emulated: the model, its costs, the problem, the first plan.

No step needs root. ``python -m testbed plan`` ends here; ``run`` goes on with what it finds.

The plan is made of the declared experiment. What is emulated is its slowed twin (:mod:`testbed.spec.scaling`), whose
problem the dispatcher is given: all costs are larger by the same factor, so the same plan is best in both.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from runner.accuracy_table import accuracy_losses
from runner.calibration import machine_calibration
from runner.encoded_sizes import EncodedBits, encoded_sizes
from runner.op_times import op_times
from testbed.errors import ModelError
from testbed.model.costs import analytic_seconds, raw_bits
from testbed.model.costs import chain as chain_costs
from testbed.model.graph import ModelGraph
from testbed.model.inputs import load_inputs
from testbed.model.signature import Input, call, inputs_of
from testbed.model.tier_cuts import arranged
from testbed.model.zoo import load_model
from testbed.planning.adapter import chain_from
from testbed.planning.dnnsplit import TIERS
from testbed.planning.energy import DEFAULT_POWER_W, ethernet_j_per_bit
from testbed.planning.plan import Plan
from testbed.planning.problem import Chain, Link, Problem, Worker
from testbed.planning.problem import Path as LinkPath
from testbed.planning.strategies import ACROSS_BRANCHES, solve
from testbed.spec.devices import as_shares
from testbed.spec.experiment import Experiment
from testbed.spec.faults.timeline import joining
from testbed.spec.inference import ModelSpec
from testbed.spec.network import Network
from testbed.spec.scaling import slowed
from testbed.spec.workload import OpenWorkload

SERVER_OVERHEAD_BYTES = 32 << 20
"""Memory that a partition server takes besides weights and live activations: its private pages after the fork (9 MiB
measured), Python's and torch's buffers, and two tensors in each of its two mailboxes."""

GOODPUT = 1448 / 1514
"""Payload bytes of a full TCP segment over its bytes on the wire (Ethernet, IPv4, TCP with time stamps)."""

CODEC_SAMPLES = 2
"""Requests whose activations are encoded to learn how large cuts are, where that depends on what is in them."""

LEAST_SPREAD = 1e-6
"""Outputs that differ by less than this, relative to their size, would make the comparison of answers empty."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Samples:
    """Requests of the workload, each a tensor for each input, and the whole model's answers to them."""

    inputs: tuple[tuple[torch.Tensor, ...], ...]
    outputs: tuple[tuple[torch.Tensor, ...], ...]

    def save(self, path: Path) -> None:
        """Write them for the client."""
        tensors = {
            f"{kind}.{index}.{place}": tensor
            for kind, rows in (("input", self.inputs), ("output", self.outputs))
            for index, row in enumerate(rows)
            for place, tensor in enumerate(row)
        }
        save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path)


@dataclass(frozen=True, slots=True)
class Emulated:
    """What is built and what the system under test is told: the declared experiment, slowed by its time scale."""

    experiment: Experiment
    network: Network
    problem: Problem


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that a run starts from.

    Attributes:
        declared: As the file has it.
        experiment: The same with the shares of devices filled in.
        network: Its network.
        graph: The model.
        problem, plan: Of the declared experiment.
        samples: Requests and right answers; empty if there is only to be a plan.
        op_seconds: What each operation of the model takes, alone, on one whole core.
        emulated: The experiment that is really run; the declared one unless time is scaled.
    """

    declared: Experiment
    experiment: Experiment
    network: Network
    graph: ModelGraph
    problem: Problem
    plan: Plan
    samples: Samples
    op_seconds: tuple[float, ...]
    emulated: Emulated

    @property
    def whole_model_s(self) -> float:
        """Seconds of the whole model on one core."""
        return math.fsum(self.op_seconds)


@dataclass(frozen=True, slots=True)
class Modelled:
    """A model whose times are known, before anything is planned.

    The attributes are those of :class:`Prepared`, and ``encoded_bits``: of a tensor as the codec in use sends it.
    """

    declared: Experiment
    experiment: Experiment
    graph: ModelGraph
    samples: Samples
    op_seconds: tuple[float, ...]
    encoded_bits: EncodedBits = raw_bits

    def problem(self, strategy: str | None = None) -> Problem:
        """What there is to plan for a strategy; None is any that cuts where one tensor crosses."""
        _, _, chain = segmented(self.graph, self.op_seconds, strategy, self.encoded_bits)
        return at_start(survey(self.experiment, Network.of(self.experiment), chain), self.experiment)


def segmented(
    graph: ModelGraph, op_seconds: Sequence[float], strategy: str | None, encoded_bits: EncodedBits = raw_bits
) -> tuple[ModelGraph, tuple[float, ...], Chain]:
    """The model in the order in which a strategy cuts it, its operations' times, and the chain of its segments.

    Segments end where one tensor crosses. For strategies of least latency the best cuts across branches are added
    (:mod:`testbed.model.tier_cuts`), which may need the operations in another order.
    """
    also: tuple[int, ...] = ()
    if strategy in ACROSS_BRANCHES:
        found = arranged(graph, op_seconds, encoded_bits)
        graph, op_seconds, also = found.graph, found.op_seconds, found.positions
    chain = chain_from(chain_costs(graph, op_seconds, encoded_bits=encoded_bits, also=also))
    if encoded_bits is not raw_bits:
        chain = with_room_to_encode(chain, [graph.cut(op).bytes for op in chain.boundary_ops])
    return graph, tuple(op_seconds), chain


def with_room_to_encode(chain: Chain, raw_bytes: Sequence[int]) -> Chain:
    """The chain with the memory that a codec takes of its stages.

    While a stage computes, its encoded input stays beside the decoded one. While its output is encoded, that, a copy of
    its size and what is sent are there. Any boundary may be a stage's first, so the largest encoded one counts.

    Args:
        chain: With activations as they are without a codec.
        raw_bytes: Of what crosses each boundary, before it is encoded.
    """
    encoded_bytes = math.ceil(max(chain.boundary_bits) / 8)
    activations = zip(chain.activation_bytes, raw_bytes[1:], strict=True)
    return dataclasses.replace(
        chain, activation_bytes=tuple(max(live, 2 * behind) + encoded_bytes for live, behind in activations)
    )


def survey(experiment: Experiment, network: Network, chain: Chain, time_scale: float = 1.0) -> Problem:
    """The planning problem as the specification states it; paths carry the payload that TCP gets through them.

    An experiment that is slowed by ``time_scale`` has the energies and prices of the declared one.
    """
    placement, workload = experiment.placement, experiment.workload
    workers = tuple(
        Worker(
            name=name,
            speed=speed(experiment, experiment.hosts[name].share),
            memory_bytes=experiment.hosts[name].memory_bytes,
            storage_bytes=experiment.hosts[name].storage_bytes,
            overhead_bytes=SERVER_OVERHEAD_BYTES,
            power_w=(DEFAULT_POWER_W if (power_w := experiment.hosts[name].power_w) is None else power_w) / time_scale,
            price_per_s=experiment.hosts[name].price_per_hour / 3600 / time_scale,
            tier=None if (tier := experiment.hosts[name].tier) is None else TIERS.index(tier),
        )
        for name in experiment.workers
    )
    paths = {
        (source, target): LinkPath(
            network.path_rate_bps(source, target) * GOODPUT,
            network.path_delay_s(source, target),
            math.fsum(ethernet_j_per_bit(rate * time_scale) for rate in network.path_rates_bps(source, target)),
            math.fsum(link.price_per_gb for link in network.path(source, target)) / 8e9,
            tuple(Link(name, rate * GOODPUT) for name, rate in network.path_links(source, target)),
        )
        for source in experiment.hosts
        for target in experiment.hosts
        if source != target
    }
    return Problem(
        chain=chain,
        workers=workers,
        dispatcher=experiment.dispatcher,
        paths=paths,
        max_stages=placement.max_stages,
        stages_per_host=placement.stages_per_host,
        seed=experiment.seed,
        weights={} if placement.weights is None else placement.weights.by_aim,
        demand_rps=workload.rate_rps if isinstance(workload, OpenWorkload) else 0.0,
        objective=placement.objective,
        balance=placement.balance,
        accuracy_loss={}
        if placement.accuracy is None
        else accuracy_losses(placement.accuracy, experiment.workers, chain),
    )


def at_start(problem: Problem, experiment: Experiment) -> Problem:
    """A problem without the hosts that join later; the dispatcher knows them too, but the first plan can't use them."""
    absent = joining(experiment)
    if not absent:
        return problem
    return dataclasses.replace(
        problem,
        workers=tuple(worker for worker in problem.workers if worker.name not in absent),
        paths={pair: path for pair, path in problem.paths.items() if absent.isdisjoint(pair)},
    )


def speed(experiment: Experiment, share: float) -> float:
    """How fast a host with a share of a core computes, relative to one core of this machine.

    What really runs is one thread, which can't use more than one core; a calibrated host may be faster than that.
    """
    return share if experiment.compute.mode == "calibrated" else min(1.0, share)


def prepare(
    experiment: Experiment,
    progress: Progress = lambda _: None,
    *,
    answers: bool = True,
    afresh: bool = False,
) -> Prepared:
    """Load, export, profile and plan.

    Args:
        experiment: As declared.
        progress: Told of each step.
        answers: Whether the right answers are computed; a plan alone needs none. Without them, and with analytic costs,
            the model isn't run at all.
        afresh: Whether the model's times are measured even if some are kept.

    Raises:
        ModelError: If the model, its weights or its inputs can't be used.
        InfeasibleError: If no plan satisfies the constraints.
        MachineError: If a host is a device that this machine is too slow for.
    """
    modelled = model_of(experiment, progress, answers=answers, afresh=afresh)
    progress("planning")
    return planned(
        modelled.declared,
        modelled.experiment,
        modelled.graph,
        modelled.samples,
        modelled.op_seconds,
        modelled.encoded_bits,
    )


def model_of(
    experiment: Experiment, progress: Progress = lambda _: None, *, answers: bool = True, afresh: bool = False
) -> Modelled:
    """Load, export and profile; arguments and errors as for :func:`prepare`."""
    torch.set_num_threads(1)
    declared = experiment
    if any(host.device is not None for host in experiment.hosts.values()):
        experiment = as_shares(experiment, machine_calibration(progress).model_s)
    spec, workload = experiment.model, experiment.workload
    analytic = experiment.placement.costs == "analytic"
    inputs = model_inputs(spec)
    progress(f"loading {spec.name or spec.module}")
    module = load_model(
        name=spec.name,
        module=spec.module,
        weights=spec.weights,
        input_shape=inputs,
        seed=experiment.seed,
        search_path=experiment.source.parent,
        run=answers or not analytic,
    )
    requests = load_inputs(inputs, experiment.seed, images=workload.images, distinct=workload.distinct)
    samples = answer(module, requests, inputs) if answers else Samples((), ())
    progress("exporting the model")
    graph = ModelGraph.trace(module, inputs)
    op_seconds = analytic_seconds(graph) if analytic else op_times(graph, requests[0], progress, afresh=afresh)
    measured = () if analytic else requests[:CODEC_SAMPLES]
    encoded_bits = encoded_sizes(graph, measured, experiment.placement.codec, progress)
    return Modelled(declared, experiment, graph, samples, op_seconds, encoded_bits)


def model_inputs(spec: ModelSpec) -> tuple[Input, ...]:
    """What a model takes, as the model package has it."""
    return tuple(
        Input(item.shape, item.dtype, name) if item.below is None else Input(item.shape, item.dtype, name, item.below)
        for name, item in spec.inputs.items()
    )


def planned(
    declared: Experiment,
    experiment: Experiment,
    graph: ModelGraph,
    samples: Samples,
    op_seconds: Sequence[float],
    encoded_bits: EncodedBits = raw_bits,
) -> Prepared:
    """Plan for a model whose times are known; ``experiment`` is the declared one with the shares of devices filled in.

    Raises:
        InfeasibleError: If no plan satisfies the constraints.
    """
    graph, op_seconds, chain = segmented(graph, op_seconds, experiment.placement.strategy, encoded_bits)
    network = Network.of(experiment)
    problem = survey(experiment, network, chain)
    plan = solve(at_start(problem, experiment), experiment.placement.strategy)
    slow = slowed(experiment)
    slow_network = Network.of(slow)
    emulated = Emulated(slow, slow_network, survey(slow, slow_network, chain, experiment.compute.time_scale))
    return Prepared(declared, experiment, network, graph, problem, plan, samples, op_seconds, emulated)


def answer(
    module: torch.nn.Module,
    requests: Sequence[torch.Tensor | Sequence[torch.Tensor]],
    inputs: Sequence[Input] = (),
) -> Samples:
    """The whole model's answers, against which every answer of the cluster is compared.

    Args:
        module: The model.
        requests: A tensor for each input; a tensor alone is a request of one.
        inputs: What the model takes, where it takes tensors by name.

    Raises:
        ModelError: If all answers are alike, which no comparison could tell from a constant.
    """
    rows = [(request,) if isinstance(request, torch.Tensor) else tuple(request) for request in requests]
    inputs = inputs or inputs_of([tuple(tensor.shape) for tensor in rows[0]])
    outputs = []
    with torch.inference_mode():
        for number, row in enumerate(rows):
            try:
                outputs.append(call(module, inputs, row))
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                raise ModelError(
                    f"the model can't answer request {number}: {(str(error).splitlines() or [''])[0][:300]}",
                    remedy="Are integers of an input too large? model.input: {NAME: {below: …}} limits them.",
                ) from error
    alike = all(not _differ(*pair) for other in outputs[1:] for pair in zip(outputs[0], other, strict=True))
    if len(rows) > 1 and alike:
        raise ModelError(
            "the model gives the same answer to different inputs: right answers can't be told from wrong ones",
            remedy="give it weights (model: {weights: FILE}), or initialise its last layer.",
        )
    return Samples(tuple(rows), tuple(outputs))


def _differ(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two answers differ by more than rounding."""
    if not first.is_floating_point():
        return not torch.equal(first, second)
    scale = float(first.abs().max())
    return scale > 0 and float((first - second).abs().max()) / scale >= LEAST_SPREAD

"""min-latency gets a model in an order in which its best cuts are stages, and everything else goes by that order."""

from __future__ import annotations

import dataclasses

import torch

from runner.comparison import compare_all
from runner.preparation import Modelled, answer, planned
from testbed.model.executor import StageExecutor
from testbed.model.graph import ModelGraph
from testbed.spec import Experiment
from testbed.spec.hosts import ComputeSpec, HostSpec
from testbed.spec.inference import ModelSpec, PlacementSpec
from testbed.spec.links import LinkSpec
from testbed.spec.workload import ClosedWorkload
from tests.model.test_tier_cuts import Branches

RATES_BPS = {"dispatcher": 1_000_000_000, "device": 1_000_000_000, "server": 1_600_000}


def modelled() -> Modelled:
    torch.manual_seed(0)
    module, shape = Branches().eval(), (1, 3, 32, 32)
    graph = ModelGraph.trace(module, shape)
    # What widens a branch again, and all behind it, takes long.
    late = [op.module in ("left.2", "head") or not op.module for op in graph.ops]
    experiment = Experiment(
        name="branches",
        hosts={"dispatcher": HostSpec(cpu=0.5), "device": HostSpec(cpu=0.05), "server": HostSpec(cpu=1.0)},
        switches=("s1",),
        links=tuple(LinkSpec(between=(host, "s1"), rate_bps=rate) for host, rate in RATES_BPS.items()),
        model=ModelSpec(module="tests.model.test_tier_cuts:Branches", input=shape),
        placement=PlacementSpec(strategy="min-latency"),
        compute=ComputeSpec(mode="calibrated"),
        workload=ClosedWorkload(in_flight=1, duration_s=1),
    )
    samples = answer(module, [torch.randn(shape) for _ in range(2)])
    return Modelled(experiment, experiment, graph, samples, tuple(1e-3 if slow else 1e-4 for slow in late))


def test_the_plan_cuts_both_branches_and_its_stages_answer_right() -> None:
    given = modelled()
    prepared = planned(given.declared, given.experiment, given.graph, given.samples, given.op_seconds)
    assert [stage.host for stage in prepared.plan.stages] == ["device", "server"]
    cut = prepared.plan.stages[1].first_op
    assert len(prepared.graph.cut(cut).tensors) == 2
    assert {op.name for op in prepared.graph.ops[:cut]} not in [
        {op.name for op in given.graph.ops[:position]} for position in range(len(given.graph.ops))
    ]
    # The times go with the operations.
    before = dict(zip((op.name for op in given.graph.ops), given.op_seconds, strict=True))
    assert [before[op.name] for op in prepared.graph.ops] == list(prepared.op_seconds)
    for inputs, expected in zip(prepared.samples.inputs, prepared.samples.outputs, strict=True):
        tensors = list(inputs)
        for stage in prepared.plan.stages:
            program = prepared.graph.stage(stage.first_op, stage.last_op)
            tensors = StageExecutor(program, prepared.graph.weights).run([tensor.clone() for tensor in tensors])
        assert torch.equal(tensors[0], expected[0])


def test_only_min_latency_is_given_the_wide_cuts() -> None:
    narrow, wide = modelled().problem(), modelled().problem("min-latency")
    assert modelled().problem("exact").chain == narrow.chain
    assert wide.chain.segments > narrow.chain.segments
    found = {item.strategy: item.plan for item in compare_all(modelled(), ("exact", "dnnsplit", "min-latency"))}
    least = found["min-latency"]
    assert least is not None
    for plan in found.values():
        assert plan is not None
        assert least.latency_s <= plan.latency_s * (1 + 1e-9)


def test_a_codec_takes_memory_of_its_own() -> None:
    given = modelled()
    plain = given.problem().chain
    half = dataclasses.replace(given, encoded_bits=lambda spec: 4.0 * spec.bytes).problem().chain
    assert half.boundary_bits == tuple(bits / 2 for bits in plain.boundary_bits)
    most = round(max(half.boundary_bits) / 8)
    for before, after, bits in zip(plain.activation_bytes, half.activation_bytes, plain.boundary_bits[1:], strict=True):
        assert after == max(before, 2 * round(bits / 8)) + most

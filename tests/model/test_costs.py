"""Costs: the chain adds up, its rule of dropping cuts, counts, and the profile's sum."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import nn

from testbed.model.costs import ChainCosts, analyse, chain, profile
from testbed.model.graph import ModelGraph
from testbed.planning.problem import Chain

Loaded = Callable[[str], tuple[nn.Module, ModelGraph]]


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet50"])
@pytest.mark.parametrize("width", [1, 2, None])
def test_chains_add_up(loaded: Loaded, name: str, width: int | None) -> None:
    _, graph = loaded(name)
    seconds = [float(i % 7 + 1) for i in range(len(graph.ops))]
    costs = chain(graph, seconds, max_cut_tensors=width)
    cuts = graph.cuts()
    assert costs.boundary_ops[0] == 0
    assert costs.boundary_ops[-1] == len(graph.ops)
    assert costs.boundary_bits[0] == 8 * 4 * 3 * 96 * 96
    assert costs.boundary_bits[-1] == 8 * 4 * 1000
    assert sum(costs.compute_s) == sum(seconds)
    assert sum(costs.weight_bytes) == sum(tensor.nbytes for tensor in graph.weights.values())
    for i, (first, last) in enumerate(itertools.pairwise(costs.boundary_ops)):
        assert costs.activation_bytes[i] >= max(cuts[first].bytes, cuts[last].bytes)
        assert width is None or len(cuts[first].tensors) <= max(width, 1)
    Chain(**{field: getattr(costs, field) for field in ChainCosts.__dataclass_fields__})


def test_wider_cuts_give_more_boundaries(loaded: Loaded) -> None:
    _, graph = loaded("resnet50")
    seconds = [1.0] * len(graph.ops)
    lengths = [len(chain(graph, seconds, max_cut_tensors=width).compute_s) for width in (1, 2, None)]
    assert lengths[0] < lengths[1] <= lengths[2]


class Views(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.a(x))
        return self.b(y.view(4, 2)[:2].transpose(0, 1).contiguous().view(2, 2))


def test_of_cuts_with_only_views_between_them_the_cheapest_stays() -> None:
    graph = ModelGraph.trace(Views().eval(), (2, 4))
    assert [op.op.split(".")[1] for op in graph.ops] == [
        "linear", "relu", "view", "slice", "transpose", "clone", "view", "linear",
    ]  # fmt: skip
    costs = chain(graph, [1.0] * 8)
    # Behind the slice half of the elements are left; the clone computes, and the view behind it is free again.
    assert costs.boundary_ops == (0, 1, 4, 6, 8)
    assert costs.boundary_bits == (256, 256, 128, 128, 192)
    assert costs.compute_s == (1, 3, 2, 2)


def test_the_codec_sets_the_bits(loaded: Loaded) -> None:
    _, graph = loaded("mobilenet_v2")
    seconds = [1.0] * len(graph.ops)
    raw, halved = chain(graph, seconds), chain(graph, seconds, encoded_bits=lambda spec: 16.0 * spec.elements)
    assert halved.boundary_bits == tuple(bits / 2 for bits in raw.boundary_bits)


def test_arguments_are_checked(loaded: Loaded) -> None:
    _, graph = loaded("mobilenet_v2")
    with pytest.raises(ValueError, match="3 times for"):
        chain(graph, [1.0] * 3)
    with pytest.raises(ValueError, match="at least one tensor"):
        chain(graph, [1.0] * len(graph.ops), max_cut_tensors=0)
    with pytest.raises(ValueError, match="at least one measured run"):
        profile(graph, torch.zeros(1, 3, 96, 96), repeats=0)


def test_counts_of_known_operations() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4 * 4, 10)).eval()
    found = analyse(ModelGraph.trace(module, (1, 3, 6, 6)))
    assert [cost.flops for cost in found] == [2 * 8 * 16 * 27, 0, 0, 2 * 128 * 10]
    assert found[1].bytes == 2 * 4 * 128
    assert found[2].bytes == 0


def test_counts_of_a_model(loaded: Loaded) -> None:
    _, graph = loaded("resnet50")
    # 8.18 GFLOP at 224 x 224; convolutions scale with the area but for rounding of sizes.
    assert sum(cost.flops for cost in analyse(graph)) == pytest.approx(8.18e9 * (96 / 224) ** 2, rel=0.05)


def test_profiles_sum_to_the_time_of_plain_runs(loaded: Loaded) -> None:
    _, graph = loaded("mobilenet_v2")
    ticks = itertools.count()
    # A clock that says each plain run takes one second: whatever the operations took, their sum must be that.
    seconds = profile(graph, torch.zeros(1, 3, 96, 96), repeats=3, clock=lambda: float(next(ticks)))
    assert len(seconds) == len(graph.ops)
    assert sum(seconds) == pytest.approx(1.0)
    assert min(seconds) > 0

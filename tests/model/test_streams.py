"""What may be left out of a model, and what is left then: the module without its blocks, bit for bit."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn

from testbed.model.costs import analytic_seconds, chain
from testbed.model.executor import StageExecutor
from testbed.model.graph import ModelGraph
from testbed.model.inputs import load_inputs
from testbed.model.streams import streams
from testbed.planning.adapter import chain_from
from tests.model.conftest import input_of

Loaded = Callable[[str], tuple[nn.Module, ModelGraph]]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.layer(x))


class Blocks(nn.Module):
    """Two residual blocks between layers of which one keeps the shape without a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Linear(4, 8)
        self.first, self.second = Block(), Block()
        self.plain = nn.Linear(8, 8)
        self.table = nn.Parameter(torch.randn(2, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(self.stem(x)))
        return self.head(torch.relu(self.plain(x)) + self.table)


def run(graph: ModelGraph, *inputs: torch.Tensor) -> torch.Tensor:
    return StageExecutor(graph.stage(0, len(graph.ops)), graph.weights).run(inputs)[0]


def runs(graph: ModelGraph) -> list[list[int]]:
    """Of each stream with weights between its cuts, the cuts."""
    found = chain_from(chain(graph, analytic_seconds(graph)))
    by_stream: defaultdict[int | None, list[int]] = defaultdict(list)
    for boundary, stream in enumerate(found.streams):
        by_stream[stream].append(boundary)
    return [
        [found.boundary_ops[boundary] for boundary in members]
        for members in by_stream.values()
        if found.may_skip(members[0], members[-1])
    ]


def test_streams_are_what_additions_and_activations_make_of_a_value() -> None:
    graph = ModelGraph.trace(Blocks().eval(), (2, 4))
    kinds = [op.op.split(".")[1] for op in graph.ops]
    assert kinds == ["linear", "linear", "add", "relu", "linear", "add", "relu", "linear", "relu", "add", "linear"]
    found = streams(graph, range(len(graph.ops) + 1))
    # Behind the stem, in each block before and behind its activation; inside the blocks two tensors cross.
    assert len({found[position] for position in (1, 3, 4, 6, 7)} - {None}) == 1
    assert found[2] is found[5] is None
    # The plain layer has the shape of its input and no shortcut, nor has a table that is added.
    assert found[8] == found[9] != found[7]
    assert found[10] not in found[:10]
    assert found[0] not in found[1:]
    assert runs(graph) == [[1, 3, 4, 6, 7]]


@pytest.mark.parametrize(
    ("left_out", "blocks"), [([(1, 4)], ["first"]), ([(4, 7)], ["second"]), ([(1, 4), (4, 7)], ["first", "second"])]
)
def test_without_a_run_the_model_is_the_module_without_the_block(
    left_out: Sequence[tuple[int, int]], blocks: Sequence[str]
) -> None:
    module = Blocks().eval()
    graph = ModelGraph.trace(module, (2, 4))
    shorter = copy.deepcopy(module)
    for name in blocks:
        setattr(shorter, name, nn.Identity())
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(run(graph.without(left_out), x), shorter(x))
    assert not torch.equal(run(graph.without(left_out), x), module(x))
    # The stages around it are those of the whole model, and nothing else: what the pipeline does.
    tensors = [x]
    bounds = [0, *(op for pair in left_out for op in pair), len(graph.ops)]
    for first, last in zip(bounds[::2], bounds[1::2], strict=True):
        if first < last:
            tensors = StageExecutor(graph.stage(first, last), graph.weights).run(tensors)
    assert torch.equal(tensors[0], shorter(x))


@pytest.mark.parametrize("left_out", [[(0, 4)], [(2, 4)], [(1, 3), (1, 4)], [(10, 11)]])
def test_what_is_no_run_can_not_be_left_out(left_out: Sequence[tuple[int, int]]) -> None:
    graph = ModelGraph.trace(Blocks().eval(), (2, 4))
    with pytest.raises(ValueError, match="can't be left out"):
        graph.without(left_out)
    with pytest.raises(ValueError, match="no stage"):
        graph.without([(4, 4)])


def test_the_blocks_of_resnet50(loaded: Loaded) -> None:
    module, graph = loaded("resnet50")
    # Its four groups of 3, 4, 6 and 3 blocks, of which the first changes the shape; a cut before and behind the last
    # activation of each.
    found = runs(graph)
    assert [len(cuts) for cuts in found] == [2 * 3, 2 * 4, 2 * 6, 2 * 3]
    shorter = copy.deepcopy(module)
    shorter.layer2[2] = nn.Identity()
    shorter.layer3[4] = shorter.layer3[5] = nn.Identity()
    third, fourth = found[1], found[2]
    less = graph.without([(third[3], third[5]), (fourth[7], fourth[11])])
    ((image,),) = load_inputs(input_of("resnet50"), seed=3, distinct=1)
    with torch.inference_mode():
        assert torch.equal(run(less, image), shorter(image))


def test_the_blocks_of_mobilenet_v2_that_keep_the_shape(loaded: Loaded) -> None:
    module, graph = loaded("mobilenet_v2")
    found = runs(graph)
    assert [len(cuts) - 1 for cuts in found] == [1, 2, 3, 2, 2]
    shorter = copy.deepcopy(module)
    shorter.features[3] = shorter.features[9] = nn.Identity()
    ((image,),) = load_inputs(input_of("mobilenet_v2"), seed=3, distinct=1)
    less = graph.without([(found[0][0], found[0][1]), (found[2][1], found[2][2])])
    with torch.inference_mode():
        assert torch.equal(run(less, image), shorter(image))


def test_a_transformer_that_normalises_first_has_a_stream_and_a_plain_network_none(loaded: Loaded) -> None:
    (stream,) = runs(loaded("vit_b_16")[1])
    assert len(stream) == 1 + 2 * 12
    assert runs(loaded("squeezenet1_1")[1]) == []

"""A model in stages answers bit for bit as the whole one."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence

import pytest
import torch

from testbed.model.executor import StageExecutor
from testbed.model.graph import ModelGraph
from testbed.model.inputs import load_inputs
from testbed.model.program import StageProgram
from testbed.model.signature import call, inputs_of
from tests.model.conftest import input_of

Loaded = Callable[[str], tuple[torch.nn.Module, ModelGraph]]


def run_in_stages(graph: ModelGraph, positions: Sequence[int], inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """As partition servers do it: programs and tensors arrive as copies, in contiguous memory."""
    carried = list(inputs)
    for first, last in zip([0, *positions], [*positions, len(graph.ops)], strict=True):
        program = StageProgram.from_json(graph.stage(first, last).to_json())
        weights = {name: tensor.clone() for name, tensor in graph.stage_weights(first, last).items()}
        received = [tensor.clone(memory_format=torch.contiguous_format) for tensor in carried]
        kept = [tensor.clone() for tensor in received]
        carried = StageExecutor(program, weights).run(received)
        assert all(map(torch.equal, kept, received)), "the stage changed its inputs"
    return carried


def check_equality(name: str, module: torch.nn.Module, graph: ModelGraph, sets: int, lengths: Sequence[int]) -> None:
    """Random cuts: those that one tensor crosses, those that several cross, and both together.

    Args:
        name: Of the model; seeds the cuts.
        module: Whole.
        graph: Of the module.
        sets: How many times cuts are drawn.
        lengths: How many cuts that one tensor crosses, several, and of both together.
    """
    inputs = inputs_of(input_of(name))
    first, second = load_inputs(inputs, seed=2, distinct=2)
    with torch.inference_mode():
        answers, others = call(module, inputs, first), call(module, inputs, second)
    assert_telling(answers, others)
    cuts = graph.cuts()[1:-1]
    single = [cut.position for cut in cuts if len(cut.tensors) == 1]
    several = [cut.position for cut in cuts if len(cut.tensors) > 1]
    draw = random.Random(name)  # noqa: S311 - draws cuts
    for _ in range(sets):
        for pool, length in zip((single, several, single + several), lengths, strict=True):
            positions = sorted(draw.sample(pool, min(length, len(pool))))
            found = run_in_stages(graph, positions, first)
            assert len(found) == len(answers)
            assert all(map(torch.equal, found, answers)), positions
    assert all(map(torch.equal, run_in_stages(graph, [], second), others))


def assert_telling(answers: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> None:
    """Equality of answers that are all alike, or alike for any input, would show nothing."""
    for answer, other in zip(answers, others, strict=True):
        assert answer.isfinite().all()
        assert answer.std() > 0.05, "the answer hardly varies"
        assert (answer - other).abs().max() > 0.1 * answer.abs().max(), "different inputs have nearly the same answer"


@pytest.mark.parametrize(
    ("answer", "other"),
    [
        (torch.zeros(1, 9), torch.zeros(1, 9)),
        (torch.full((1, 9), torch.nan), torch.ones(1, 9)),
        (torch.arange(9.0) * 1e-9, torch.arange(9.0) * -1e-9),
        (torch.arange(9.0), torch.arange(9.0) * 1.0001),
    ],
)
def test_degenerate_answers_do_not_pass(answer: torch.Tensor, other: torch.Tensor) -> None:
    assert_telling([torch.arange(9.0)], [torch.arange(9.0).flip(0)])
    with pytest.raises(AssertionError):
        assert_telling([answer], [other])


@pytest.mark.parametrize("name", ["mobilenet_v2", "squeezenet1_1"])
def test_stages_answer_as_the_whole_model(loaded: Loaded, name: str) -> None:
    check_equality(name, *loaded(name), sets=2, lengths=(4, 4, 6))


def test_a_model_of_several_integer_inputs_and_several_outputs(loaded: Loaded) -> None:
    pytest.importorskip("transformers.models.bert")
    module, graph = loaded("transformers:bert-tiny")
    assert [(spec.name, spec.dtype) for spec in graph.inputs] == [("input_ids", "int64"), ("attention_mask", "int64")]
    assert [spec.shape for spec in graph.outputs] == [(1, 24, 128), (1, 128)]
    check_equality("transformers:bert-tiny", module, graph, sets=3, lengths=(4, 4, 6))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "resnet50", "resnet101", "resnet152", "vgg16", "vgg19", "efficientnet_b0", "efficientnet_b1", "googlenet",
        "inception_v3", "regnet_x_400mf", "densenet121", "vit_b_16", "swin_t",
        "timm:inception_resnet_v2", "timm:xception", "transformers:bert-base",
    ],
)  # fmt: skip
def test_stages_of_every_model_answer_as_the_whole(loaded_once: Loaded, name: str) -> None:
    if ":" in name:
        pytest.importorskip({"timm": "timm", "transformers": "transformers.models.bert"}[name.partition(":")[0]])
    check_equality(name, *loaded_once(name), sets=2, lengths=(4, 4, 6))


def test_every_cut_of_a_model_is_exact(loaded: Loaded) -> None:
    module, graph = loaded("squeezenet1_1")
    ((image,),) = load_inputs(graph.inputs[0].shape, seed=3, distinct=1)
    with torch.inference_mode():
        answer = module(image)
    for position in range(1, len(graph.ops)):
        assert torch.equal(run_in_stages(graph, [position], [image])[0], answer), position


def test_one_stage_for_each_operation(loaded: Loaded) -> None:
    module, graph = loaded("mobilenet_v2")
    ((image,),) = load_inputs(graph.inputs[0].shape, seed=3, distinct=1)
    with torch.inference_mode():
        answer = module(image)
    assert torch.equal(run_in_stages(graph, range(1, len(graph.ops)), [image])[0], answer)


def test_channels_last_models_keep_their_layout_across_cuts(loaded: Loaded) -> None:
    module, plain = loaded("mobilenet_v2")
    turned = copy.deepcopy(module).to(memory_format=torch.channels_last)
    graph = ModelGraph.trace(turned, plain.inputs[0].shape)
    ((image,),) = load_inputs(plain.inputs[0].shape, seed=3, distinct=1)
    with torch.inference_mode():
        answer = turned(image)
    assert any(graph.turned(value) for value in graph.crossing(20))
    assert torch.equal(run_in_stages(graph, [20, 60, 100], [image])[0], answer)

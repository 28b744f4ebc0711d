"""The executor: what it refuses, what it leaves alone, what it imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from testbed.errors import ProtocolError
from testbed.model.executor import StageExecutor
from testbed.model.graph import ModelGraph
from testbed.model.program import Instruction, Ref, StageProgram, TensorSpec

X = TensorSpec("x", (2, 3), "float32")


def program(*ops: Instruction, value: int, output: TensorSpec = X) -> StageProgram:
    return StageProgram((X,), (), ops, (output,), (value,))


def test_inputs_of_another_shape_type_or_number_are_refused() -> None:
    executor = StageExecutor(program(Instruction("aten.relu.default", (Ref(0),)), value=1), {})
    with pytest.raises(ProtocolError, match=r"input 'x' must have shape \[2, 3\], not \[3, 2\]"):
        executor.run([torch.zeros(3, 2)])
    with pytest.raises(ProtocolError, match="input 'x' must be float32, not float64"):
        executor.run([torch.zeros(2, 3, dtype=torch.float64)])
    with pytest.raises(ProtocolError, match="takes 1 inputs, not 2"):
        executor.run([torch.zeros(2, 3)] * 2)


def test_weights_that_are_missing_or_differ_are_refused() -> None:
    stage = ModelGraph.trace(nn.Linear(3, 3).eval(), (2, 3)).stage(0, 1)
    with pytest.raises(ProtocolError, match="needs the weight 'weight', which is missing"):
        StageExecutor(stage, {"bias": torch.zeros(3)})
    with pytest.raises(ProtocolError, match=r"weight 'bias' must have shape \[3\], not \[4\]"):
        StageExecutor(stage, {"weight": torch.zeros(3, 3), "bias": torch.zeros(4)})


@pytest.mark.parametrize(
    "op",
    [
        Instruction("aten.view.default", (Ref(0), (7,))),
        Instruction("aten.select.int", (Ref(0), 0, 99)),
        Instruction("aten.matmul.default", (Ref(0), Ref(0))),
        Instruction("aten.einsum.default", ("nonsense", (Ref(0),))),
        Instruction("aten.pad.default", (Ref(0), (1, 1), "no such mode")),
        Instruction("aten.expand.default", (Ref(0), (2, 4))),
        Instruction("aten.index.Tensor", (Ref(0), (Ref(0),))),
    ],
    ids=lambda op: op.op,
)
def test_operations_that_cannot_be_done_are_named(op: Instruction) -> None:
    executor = StageExecutor(StageProgram.from_json(program(op, value=1).to_json()), {})
    with pytest.raises(ProtocolError, match=f"operation 0 of the stage \\({op.op}\\) can't be done"):
        executor.run([torch.zeros(2, 3)])


def test_an_output_that_is_not_what_was_promised_is_refused() -> None:
    stage = program(Instruction("aten.transpose.int", (Ref(0), 0, 1)), value=1)
    with pytest.raises(ProtocolError, match="output 'x' must have shape"):
        StageExecutor(stage, {}).run([torch.zeros(2, 3)])
    pieces = program(Instruction("aten.chunk.default", (Ref(0), 2), results=3), value=1)
    with pytest.raises(ProtocolError, match=r"aten\.chunk\.default"):
        StageExecutor(pieces, {}).run([torch.zeros(2, 3)])


class Overwriter(nn.Module):
    """Everything that might be overwritten and must not be: the input, a weight, a view, a value read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.randn(2, 3))
        self.mix = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        a = torch.relu(x)
        b = torch.relu(self.shift + 0) + x
        c = self.mix(a)
        d = c.transpose(0, 1)
        e = torch.sigmoid(c) + d.transpose(0, 1)
        f = self.mix(e)
        return torch.relu(f) + f, b, torch.relu(self.mix(b)).relu_()


def test_nothing_is_overwritten_that_is_still_needed() -> None:
    torch.manual_seed(4)
    module = Overwriter().eval().requires_grad_(False)
    graph = ModelGraph.trace(module, (2, 3))
    x = torch.randn(2, 3)
    kept, weights = x.clone(), {name: tensor.clone() for name, tensor in graph.weights.items()}
    executor = StageExecutor(graph.stage(0, len(graph.ops)), graph.weights)
    for _ in range(2):
        assert all(map(torch.equal, executor.run([x]), module(x)))
        assert torch.equal(x, kept)
    assert all(torch.equal(graph.weights[name], tensor) for name, tensor in weights.items())


def test_a_result_takes_the_memory_of_a_dead_argument() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Sigmoid()).eval()
    graph = ModelGraph.trace(module, (2, 3))
    assert graph.peak_activation_bytes(0, 3) == 2 * 24
    assert graph.peak_activation_bytes(1, 2) == 2 * 24


def test_timed_runs_give_the_same_and_a_time_for_each_operation() -> None:
    graph = ModelGraph.trace(nn.Sequential(nn.Linear(3, 3), nn.ReLU()).eval(), (2, 3))
    executor = StageExecutor(graph.stage(0, 2), graph.weights)
    x = torch.randn(2, 3)
    outputs, seconds = executor.run_timed([x])
    assert torch.equal(outputs[0], executor.run([x])[0])
    assert len(seconds) == 2
    assert min(seconds) > 0


def test_importing_is_light_and_running_imports_nothing(tmp_path: Path, repository: Path) -> None:
    graph = ModelGraph.trace(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval(),
        (1, 3, 8, 8),
    )
    (tmp_path / "stage.json").write_bytes(graph.stage(0, len(graph.ops)).to_json())
    script = """
import sys
import torch
torch_alone = set(sys.modules)
from testbed.model.chunks import WeightAssembler
from testbed.model.executor import StageExecutor
from testbed.model.program import StageProgram
imported = set(sys.modules) - torch_alone
heavy = {name for name in imported if name.split(".")[0] in ("torch", "torchvision", "numpy", "PIL", "safetensors")}
assert not heavy, heavy
before = set(sys.modules)
program = StageProgram.from_json(open(sys.argv[1], "rb").read())
weights = {spec.name: torch.zeros(spec.shape, dtype=spec.torch_dtype) for spec in program.weight_specs}
StageExecutor(program, weights).run([torch.zeros(spec.shape) for spec in program.inputs])
late = set(sys.modules) - before
assert not late, late
"""
    command = [sys.executable, "-c", script, str(tmp_path / "stage.json")]
    found = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr

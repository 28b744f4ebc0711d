"""The graph: constants, crossings, weights, memory, and models that can't be cut."""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from testbed.errors import ModelError
from testbed.model.costs import chain
from testbed.model.executor import StageExecutor
from testbed.model.graph import ModelGraph

Loaded = Callable[[str], tuple[nn.Module, ModelGraph]]


def whole(graph: ModelGraph, *inputs: torch.Tensor) -> list[torch.Tensor]:
    return StageExecutor(graph.stage(0, len(graph.ops)), graph.weights).run(inputs)


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.a(x))
        return self.b(y) + y


def test_cuts_name_all_that_crosses() -> None:
    graph = ModelGraph.trace(Skip().eval(), (2, 4))
    assert [op.op for op in graph.ops] == [
        "aten.linear.default",
        "aten.relu.default",
        "aten.linear.default",
        "aten.add.Tensor",
    ]
    names = [[spec.name for spec in cut.tensors] for cut in graph.cuts()]
    assert names == [["x"], ["linear"], ["relu"], ["relu", "linear_1"], ["add"]]
    assert [cut.bytes for cut in graph.cuts()] == [32, 32, 32, 64, 32]
    assert graph.inputs[0].shape == (2, 4)
    assert set(graph.stage_weights(0, 2)) == {"a.weight", "a.bias"}
    assert graph.stage(2, 4).weights == ("b.weight", "b.bias")
    assert graph.ops[0].module == "a"


def test_stage_ranges_are_checked() -> None:
    graph = ModelGraph.trace(Skip().eval(), (2, 4))
    for first, last in ((0, 0), (3, 2), (-1, 2), (0, 5)):
        with pytest.raises(ValueError, match="no stage"):
            graph.stage(first, last)


def test_unused_weights_do_not_count(loaded: Loaded) -> None:
    module, graph = loaded("googlenet")
    used = sum(tensor.nbytes for tensor in graph.weights.values())
    held = sum(tensor.nbytes for tensor in module.state_dict().values())
    assert used < 0.55 * held
    assert not any(name.startswith("aux") for name in graph.weights)


class Constants(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(8, 4))
        self.scale = torch.full((4,), 2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(3)
        x = x + nn.functional.embedding(positions, self.table) * self.scale
        mask = x.new_zeros(3, 3)
        mask[0, 1:] = -1.0
        return torch.softmax(x @ x.transpose(-1, -2) + mask, -1)


def test_constants_become_weights_and_never_cross() -> None:
    torch.manual_seed(0)
    module = Constants().eval()
    graph = ModelGraph.trace(module, (1, 3, 4))
    x = torch.randn(1, 3, 4)
    assert torch.equal(whole(graph, x)[0], module(x))
    assert "table" not in graph.weights
    assert all(name.startswith("constant:") for name in graph.weights)
    for cut in graph.cuts():
        assert not any(spec.name.startswith("constant:") for spec in cut.tensors)


class Several(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor, unused: torch.Tensor) -> dict[str, Any]:
        first, second = (a * 2).split(2, dim=1)
        changed = first.clone()
        changed[:, 0] += b
        return {"sum": (first + second).relu_(), "rest": (changed, b, None)}


def test_several_inputs_and_outputs() -> None:
    module = Several().eval()
    graph = ModelGraph.trace(module, ((3, 4), (3,), (1,)))
    a, b, unused = torch.randn(3, 4), torch.randn(3), torch.randn(1)
    expected = module(a, b, unused)
    assert [spec.name for spec in graph.inputs] == ["a", "b", "unused"]
    wanted = [expected["sum"], expected["rest"][0], b]
    assert all(map(torch.equal, whole(graph, a, b, unused), wanted))
    for position in range(1, len(graph.ops)):
        front, back = graph.stage(0, position), graph.stage(position, len(graph.ops))
        middle = StageExecutor(front, graph.stage_weights(0, position)).run([a, b, unused])
        assert all(map(torch.equal, StageExecutor(back, graph.weights).run([t.clone() for t in middle]), wanted))


def test_shared_weights_are_one() -> None:
    layer = nn.Linear(4, 4)
    graph = ModelGraph.trace(nn.Sequential(layer, nn.ReLU(), layer).eval(), (1, 4))
    assert len(graph.weights) == 2


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x + 1
        return x - 1


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * self.calls


class Random(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand(2)


class Fourier(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.fft(x).abs()


class Nothing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (Branching(), r"test_graph\.py:\d+ in forward: if x\.sum\(\) > 0:"),
        (Counting(), "changes its buffer 'calls'"),
        (Random(), "draws random numbers"),
        (Fourier(), r"operator aten\.\w*fft"),
        (Nothing(), "computes nothing"),
        (nn.Linear(3, 3), r"shape|shapes|size"),
    ],
)
def test_models_that_cannot_be_cut(module: nn.Module, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError, match=said):
        ModelGraph.trace(module.eval(), (2,))
    assert capsys.readouterr() == ("", "")


def test_training_mode_is_refused() -> None:
    with pytest.raises(ModelError, match="training mode"):
        ModelGraph.trace(Skip(), (2, 4))


class Tangle(nn.Module):
    """A random network of cheap operations, with views, joins and dead ends."""

    def __init__(self, seed: int, length: int = 14) -> None:
        super().__init__()
        self.seed, self.length = seed, length
        self.mix = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        draw = random.Random(self.seed)  # noqa: S311 - draws a network
        held = [x]
        for _ in range(self.length):
            a, b = draw.choice(held[-4:]), draw.choice(held[-4:])
            match draw.randrange(8):
                case 0:
                    made = torch.relu(a)
                case 1:
                    made = a + b
                case 2:
                    made = self.mix(a)
                case 3:
                    made = a.transpose(0, 1).contiguous().transpose(0, 1)
                case 4:
                    made = torch.sigmoid(a) * b
                case 5:
                    made = torch.cat([a[:, :3], b[:, 3:]], 1)
                case 6:
                    front, back = a.chunk(2, 1)
                    made = torch.cat([torch.relu(back), front], 1)
                case _:
                    made = a.reshape(3, 12).reshape(6, 6)
            held.append(made)
        return held[-1], held[-2], held[-1]


class LiveBytes(TorchDispatchMode):
    """Most bytes of distinct memory that tensors made or given hold at once, found by looking."""

    def __init__(self, given: list[torch.Tensor], ignored: list[torch.Tensor]) -> None:
        super().__init__()
        self.seen = [weakref.ref(tensor) for tensor in given]
        self.ignored = {tensor.untyped_storage().data_ptr() for tensor in ignored}
        self.peak = 0
        self.look()

    def look(self) -> None:
        alive = [tensor for ref in self.seen if (tensor := ref()) is not None]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in alive}
        self.peak = max(self.peak, sum(size for place, size in storages.items() if place not in self.ignored))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = result if isinstance(result, (list, tuple)) else [result]
        self.seen += [weakref.ref(tensor) for tensor in made if isinstance(tensor, torch.Tensor)]
        self.look()
        return result


@pytest.mark.parametrize("seed", range(25))
def test_memory_is_what_a_brute_force_count_finds(seed: int) -> None:
    torch.manual_seed(seed)
    module = Tangle(seed).eval().requires_grad_(False)
    try:
        graph = ModelGraph.trace(module, (6, 6))
    except ModelError as error:
        assert "computes nothing" in str(error)  # noqa: PT017 - the last values happen to be the input
        return
    x = torch.randn(6, 6)
    expected = module(x)
    draw = random.Random(seed)  # noqa: S311 - draws cuts
    for _ in range(4):
        position = draw.randrange(len(graph.ops) + 1)
        carried = [x]
        for first, last in ((0, position), (position, len(graph.ops))):
            if first == last:
                continue
            executor = StageExecutor(graph.stage(first, last), graph.weights)
            given = [tensor.clone() for tensor in carried]
            with LiveBytes(given, list(graph.weights.values())) as count:
                # The only references go to the stage, which may drop them.
                handed, given = given, []
                run = executor.run
                carried = run([handed.pop(0) for _ in range(len(handed))])
            assert count.peak == graph.peak_activation_bytes(first, last), (first, last)
        assert all(map(torch.equal, carried, expected))


@pytest.mark.parametrize("seed", range(12))
def test_no_stage_needs_more_than_its_segments_say(seed: int) -> None:
    try:
        graph = ModelGraph.trace(Tangle(seed).eval(), (6, 6))
    except ModelError as error:
        assert "computes nothing" in str(error)  # noqa: PT017 - the last values happen to be the input
        return
    costs = chain(graph, [1.0] * len(graph.ops), max_cut_tensors=None)
    ends = costs.boundary_ops
    for i in range(len(ends) - 1):
        for j in range(i + 1, len(ends)):
            assert graph.peak_activation_bytes(ends[i], ends[j]) <= max(costs.activation_bytes[i:j])

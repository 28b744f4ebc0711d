"""Loading: names, weights files, and the user's own modules."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from testbed.errors import ModelError
from testbed.model.catalogue import BERT_SIZES, model_names
from testbed.model.inputs import load_inputs
from testbed.model.signature import Input
from testbed.model.zoo import load_model

NAME, SHAPE = "squeezenet1_1", (1, 3, 64, 64)


def load(weights: Path | None = None, seed: int = 5) -> nn.Module:
    return load_model(name=NAME, weights=weights, input_shape=SHAPE, seed=seed)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in load().state_dict().items()}


def test_weights_are_seeded_and_the_generator_is_left_alone() -> None:
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    first, again, other = load(seed=1), load(seed=1), load(seed=2)
    assert torch.equal(torch.rand(3), expected)
    ((image,),) = load_inputs(SHAPE, seed=0, distinct=1)
    assert torch.equal(first(image), again(image))
    assert not torch.equal(first(image), other(image))
    assert not first.training
    assert not any(parameter.requires_grad for parameter in first.parameters())
    assert torch.get_num_threads() == 1
    assert not torch.backends.mha.get_fastpath_enabled()


def test_names_of_the_zoo() -> None:
    names = model_names()
    assert len(names) >= 80
    assert {"mobilenet_v2", "resnet50", "resnet152", "vgg19", "inception_v3", "regnet_x_400mf"} <= set(names)


@pytest.mark.parametrize(
    ("name", "size"), [("efficientnet_b0", 64), ("inception_v3", 96), ("convnext_tiny", 64), ("regnet_x_400mf", 64)]
)
def test_different_images_get_different_answers(name: str, size: int) -> None:
    module = load_model(name=name, input_shape=(1, 3, size, size), seed=1)
    first, second = (module(image) for (image,) in load_inputs((1, 3, size, size), seed=2, distinct=2))
    assert first.std() > 0.05
    assert (first - second).abs().max() > 0.1 * first.abs().max()


def test_names_of_the_extras() -> None:
    pytest.importorskip("timm")
    pytest.importorskip("transformers.models.bert")
    assert {"timm:xception", "timm:inception_resnet_v2"} <= set(model_names("timm"))
    assert set(model_names("transformers")) == {f"transformers:{name}" for name in BERT_SIZES}


@pytest.mark.parametrize(
    ("name", "said", "remedy"),
    [
        ("timm:xceptoin", "no model is called 'timm:xceptoin'", "Did you mean 'timm:xception'?"),
        ("transformers:bert-bas", "no model is called 'transformers:bert-bas'", "'transformers:bert-base'"),
        ("tim:xception", "no models are called 'tim'", "timm:NAME"),
        ("xception", "no model is called 'xception'", "timm:xception"),
        ("bert-base", "no model is called 'bert-base'", "transformers:bert-base"),
    ],
)
def test_unknown_names_of_families(name: str, said: str, remedy: str) -> None:
    package = {"timm": "timm", "transformers": "transformers.models.bert"}.get(name.partition(":")[0])
    if package is not None:
        pytest.importorskip(package)
    with pytest.raises(ModelError, match=said) as caught:
        load_model(name=name, input_shape=SHAPE, seed=0)
    assert remedy in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [("timm:xception", "timm", "[timm]"), ("transformers:bert-tiny", "transformers", "[nlp]")],
)
def test_an_extra_that_is_not_installed_is_named(
    name: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    for module in [item for item in sys.modules if item.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [_NotInstalled(package), *sys.meta_path])
    with pytest.raises(ModelError, match=f"need the package {package}, which is not installed") as caught:
        load_model(name=name, input_shape=SHAPE, seed=0)
    assert extra in str(caught.value.remedy)


class _NotInstalled:
    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == self._package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_a_language_model_says_what_it_takes() -> None:
    pytest.importorskip("transformers.models.bert")
    with pytest.raises(ModelError, match="takes word numbers, not float32") as caught:
        load_model(name="transformers:bert-tiny", input_shape=(1, 16), seed=0)
    assert "input_ids: {shape: [1, 128], dtype: int64, below: 30522}" in str(caught.value.remedy)
    wrong = (Input((1, 16), "int64", "input_id", 30522),)
    with pytest.raises(ModelError, match="bert-tiny has no input 'input_id'") as caught:
        load_model(name="transformers:bert-tiny", input_shape=wrong, seed=0)
    assert "input_ids, attention_mask" in str(caught.value.remedy)


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(ModelError, match="no model is called 'mobilnet_v2'") as caught:
        load_model(name="mobilnet_v2", input_shape=SHAPE, seed=0)
    assert "'mobilenet_v2'" in str(caught.value.remedy)
    assert "model_names" in str(caught.value.remedy)
    with pytest.raises(ModelError, match="no model is called 'fasterrcnn_resnet50_fpn'"):
        load_model(name="fasterrcnn_resnet50_fpn", input_shape=SHAPE, seed=0)
    with pytest.raises(ModelError, match="either a name or a module"):
        load_model(input_shape=SHAPE, seed=0)


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (1, 1, 64, 64), (3,)])
def test_inputs_that_the_model_cannot_take(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="can't take an input of shape"):
        load_model(name="alexnet", input_shape=shape, seed=0)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_weights_files_fill_the_model(tmp_path: Path, state: dict[str, torch.Tensor], suffix: str) -> None:
    file = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state, file)
    else:
        torch.save({"state_dict": state} if suffix == ".pth" else state, file)
    found = load(file, seed=77).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("kept", [0, 3, 0.5, 0.999])
def test_truncated_weights_files(tmp_path: Path, state: dict[str, torch.Tensor], suffix: str, kept: float) -> None:
    file = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state, file)
    else:
        torch.save(state, file)
    os.truncate(file, int(kept if kept >= 1 else kept * file.stat().st_size))
    with pytest.raises(ModelError, match=rf"weights{suffix} can't be read") as caught:
        load(file)
    assert caught.value.remedy
    assert len(str(caught.value).splitlines()) < 5


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.mark,)


def test_pickles_are_not_run(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save({"state_dict": state, "extra": Bomb(tmp_path / "mark")}, tmp_path / "a.pt")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Bomb(tmp_path / "mark")))
    for name in ("a.pt", "b.pth"):
        with pytest.raises(ModelError, match="can't be read") as caught:
            load(tmp_path / name)
        assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "mark").exists()


def test_weights_that_do_not_match(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    first, *others = state
    save_file({name: state[name] for name in others} | {"surplus": torch.zeros(1)}, tmp_path / "keys.safetensors")
    with pytest.raises(ModelError, match=f"missing: {first}; unknown: surplus"):
        load(tmp_path / "keys.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=r"and \d+ more"):
        load(tmp_path / "other.safetensors")
    save_file(state | {first: torch.zeros(2, 2)}, tmp_path / "shapes.safetensors")
    with pytest.raises(ModelError, match=rf"{first} is \[2, 2\], not \[64, 3, 3, 3\]"):
        load(tmp_path / "shapes.safetensors")


def test_files_that_hold_no_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no weights file at"):
        load(tmp_path / "missing.safetensors")
    (tmp_path / "weights.onnx").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"unknown suffix '\.onnx'"):
        load(tmp_path / "weights.onnx")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ModelError, match="holds no state dict"):
        load(tmp_path / "list.pt")
    torch.save({"epoch": 3}, tmp_path / "numbers.pt")
    with pytest.raises(ModelError, match="holds no state dict"):
        load(tmp_path / "numbers.pt")


SOURCE = """
import torch
from torch import nn
from {name}_parts import WIDTH

def factory():
    return nn.Linear(WIDTH, WIDTH)

def broken():
    raise RuntimeError("no disk")

def needs(width):
    return nn.Linear(width, width)

def number():
    return 3

value = 3
"""


@pytest.fixture
def package(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    name = "user_models"
    (tmp_path / f"{name}.py").write_text(SOURCE.format(name=name))
    (tmp_path / f"{name}_parts.py").write_text("WIDTH = 4\n")
    (tmp_path / f"{name}_wrong.py").write_text("import no_such_module_anywhere\n")
    return name


@pytest.fixture(autouse=True)
def forget_user_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [name for name in sys.modules if name.startswith("user_models")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


def test_a_users_module_comes_from_the_folder_of_the_file(tmp_path: Path, package: str) -> None:
    import sys

    path = list(sys.path)

    def make(seed: int) -> nn.Module:
        return load_model(module=f"{package}:factory", input_shape=(1, 4), seed=seed, search_path=tmp_path)

    first, again, other = make(1), make(1), make(2)
    assert isinstance(first, nn.Linear)
    assert not first.training
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)
    assert sys.path == path


@pytest.mark.parametrize(
    ("reference", "said", "remedy"),
    [
        ("user_models", "names no factory", "package.module:factory"),
        ("user_models:", "names no factory", "package.module:factory"),
        ("no_such_user_module:f", "module 'no_such_user_module' can't be imported", "importable from"),
        ("user_models_wrong:f", "No module named 'no_such_module_anywhere'", "importable from"),
        ("user_models:factor", "has no 'factor'", "'factory'"),
        ("user_models:value", "isn't callable", "function"),
        ("user_models:broken", "failed: RuntimeError: no disk", "without arguments"),
        ("user_models:needs", "failed: TypeError", "without arguments"),
        ("user_models:number", r"returned int, which is no torch\.nn\.Module", "module itself"),
    ],
)
def test_factories_that_cannot_be_used(tmp_path: Path, package: str, reference: str, said: str, remedy: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        load_model(module=reference, input_shape=(1, 4), seed=0, search_path=tmp_path)
    assert remedy in str(caught.value.remedy)

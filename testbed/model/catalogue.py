"""Models by name: torchvision's, and with the optional extras timm's and BERT of transformers; without a download."""

from __future__ import annotations

import difflib
import importlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType, ModuleType
from typing import Any

import torch

from testbed.errors import ModelError
from testbed.model.signature import Input
from testbed.model.vision import import_torchvision

_IMAGE_SIDE = 224
_TIMM_ALIASES = {"xception": "legacy_xception"}
"""Chollet's Xception, which timm has under another name since it has five more."""


@dataclass(frozen=True, slots=True)
class BertSize:
    """Layers, width and attention heads of a published BERT; its other dimensions follow from the width."""

    layers: int
    width: int
    heads: int


BERT_SIZES: Mapping[str, BertSize] = MappingProxyType(
    {
        "bert-tiny": BertSize(2, 128, 2),
        "bert-mini": BertSize(4, 256, 4),
        "bert-small": BertSize(4, 512, 8),
        "bert-medium": BertSize(8, 512, 8),
        "bert-base": BertSize(12, 768, 12),
        "bert-large": BertSize(24, 1024, 16),
    }
)
"""Sizes of Devlin et al. 2019 (base, large) and Turc et al. 2019, "Well-Read Students Learn Better" (the others)."""


_BERT_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")


@dataclass(frozen=True, slots=True)
class _Family:
    """Where names with a prefix come from: the package, the optional extra that installs it, names, and the maker."""

    package: str
    extra: str | None
    names: Callable[[], Sequence[str]]
    make: Callable[[str, Sequence[Input]], object]


def model_names(family: str = "") -> tuple[str, ...]:
    """Names that `make_model` knows, in full.

    Args:
        family: Empty for torchvision's classification models, ``timm`` or ``transformers``.

    Raises:
        ModelError: If the family is unknown, or its package isn't installed.
    """
    prefix = f"{family}:" if family else ""
    return tuple(prefix + name for name in _family(family).names())


def make_model(name: str, inputs: Sequence[Input]) -> torch.nn.Module:
    """A freshly initialised model; torch's generator draws its weights.

    Args:
        name: ``mobilenet_v2``, ``timm:xception``, ``transformers:bert-base``.
        inputs: What it shall take; some models are built for one size of image.

    Raises:
        ModelError: If there is no such model, or an optional package isn't installed; other errors come from the
            model's own code where it can't be built for such inputs.
    """
    prefix, colon, bare = name.rpartition(":")
    family = _family(prefix)
    names = family.names()
    if bare not in names:
        near = difflib.get_close_matches(bare.lower(), names, n=1, cutoff=0.5)
        elsewhere = "" if colon else _elsewhere(bare)
        raise ModelError(
            f"no model is called {name!r}",
            remedy=(f"Did you mean {prefix + colon + near[0]!r}? " if near else "")
            + elsewhere
            + f"List all: python -c 'from testbed.model.catalogue import model_names; print(*model_names({prefix!r}))'",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = family.make(bare, inputs)
    if not isinstance(model, torch.nn.Module):
        raise ModelError(f"{name!r} of {family.package} is no module")
    return model


def _family(prefix: str) -> _Family:
    if prefix not in _FAMILIES:
        raise ModelError(
            f"no models are called {prefix[:40]!r}:…",
            remedy="Names are torchvision's own (mobilenet_v2), timm:NAME, or transformers:NAME.",
        )
    return _FAMILIES[prefix]


def _elsewhere(name: str) -> str:
    """A hint for those who leave the prefix out."""
    if name.startswith("bert"):
        return "BERT is transformers:bert-base. "
    return "Models of timm have the prefix timm:, as in timm:xception. "


def _import(family: str, module: str) -> ModuleType:
    # timm and transformers import torchvision themselves, which needs help beside a CPU build of PyTorch.
    import_torchvision()
    found = _FAMILIES[family]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if error.name is not None and error.name.partition(".")[0] == found.package:
            raise ModelError(
                f"models called {family}:… need the package {found.package}, which is not installed",
                remedy=f"Install the extra {found.extra!r}: .venv/bin/pip install -e '.[{found.extra}]', "
                "or everything that requirements.lock pins: make setup.",
            ) from error
        raise ModelError(f"{found.package} can't be imported: {error}") from error


def _side(inputs: Sequence[Input]) -> int:
    return inputs[0].shape[-1]


def _torchvision_names() -> Sequence[str]:
    vision = import_torchvision()
    return tuple(vision.list_models(module=vision))


def _torchvision(name: str, inputs: Sequence[Input]) -> object:
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False  # the default draws with scipy, for minutes
    if _side(inputs) != _IMAGE_SIDE and name.startswith("vit_"):
        options["image_size"] = _side(inputs)
    if _side(inputs) != _IMAGE_SIDE and name.startswith("maxvit"):
        options["input_size"] = inputs[0].shape[-2:]
    return import_torchvision().get_model(name, weights=None, **options)


def _timm_names() -> Sequence[str]:
    return (*_import("timm", "timm").list_models(), *_TIMM_ALIASES)


def _timm(name: str, inputs: Sequence[Input]) -> object:
    timm = _import("timm", "timm")
    name = _TIMM_ALIASES.get(name, name)
    options: dict[str, Any] = {}
    default = timm.get_pretrained_cfg(name)
    if default is not None and default.fixed_input_size and tuple(default.input_size[-2:]) != inputs[0].shape[-2:]:
        options["img_size"] = inputs[0].shape[-2:]
    return timm.create_model(name, pretrained=False, **options)


def _bert_names() -> Sequence[str]:
    return tuple(BERT_SIZES)


def _bert(name: str, inputs: Sequence[Input]) -> object:
    transformers = _import("transformers", "transformers.models.bert")
    size = BERT_SIZES[name]
    config = transformers.BertConfig(
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.width,
    )
    for item in inputs:
        if item.torch_dtype.is_floating_point or item.name not in (None, *_BERT_INPUTS):
            what = f"has no input {item.name!r}" if item.dtype == "int64" else f"takes word numbers, not {item.dtype}"
            raise ModelError(
                f"{name} {what}",
                remedy="Write its input like {input_ids: {shape: [1, 128], dtype: int64, "
                f"below: {config.vocab_size}}}}}; it may have {', '.join(_BERT_INPUTS)}.",
            )
    return transformers.BertModel(config)


_FAMILIES: Mapping[str, _Family] = MappingProxyType(
    {
        "": _Family("torchvision", None, _torchvision_names, _torchvision),
        "timm": _Family("timm", "timm", _timm_names, _timm),
        "transformers": _Family("transformers", "nlp", _bert_names, _bert),
    }
)

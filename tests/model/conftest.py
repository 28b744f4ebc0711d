"""Models that several tests share, loaded and exported once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch

from testbed.model.graph import ModelGraph
from testbed.model.signature import Input, InputShape
from testbed.model.zoo import load_model

# Small inputs keep the tests quick; the graphs are those of full-sized inputs.
SIZES = {"vit_b_16": 32, "swin_t": 64, "googlenet": 64, "squeezenet1_1": 64, "densenet121": 64}
WORDS = (Input((1, 24), "int64", "input_ids", 30_522), Input((1, 24), "int64", "attention_mask"))


def input_of(name: str) -> InputShape:
    """What a model of the zoo takes in these tests."""
    if name.startswith("transformers:"):
        # Without a mask BERT's own is a constant, and one tensor crosses between its layers; with it, always two.
        return WORDS if name == "transformers:bert-tiny" else WORDS[:1]
    size = SIZES.get(name, 96)
    return (1, 3, size, size)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """As every server has; and the machine's other CPUs may be somebody else's (tests/kernel)."""
    torch.set_num_threads(1)


@cache
def _load(name: str) -> tuple[torch.nn.Module, ModelGraph]:
    module = load_model(name=name, input_shape=input_of(name), seed=1)
    return module, ModelGraph.trace(module, input_of(name))


@pytest.fixture
def loaded() -> Callable[[str], tuple[torch.nn.Module, ModelGraph]]:
    """Gives a zoo model and its graph by name."""
    return _load


@pytest.fixture
def loaded_once() -> Callable[[str], tuple[torch.nn.Module, ModelGraph]]:
    """The same for a model that is too large to be kept."""
    return _load.__wrapped__

"""What a model takes and gives: its inputs by shape, type and name, and its outputs as a flat list."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.utils import _pytree as pytree

from testbed.errors import ModelError
from testbed.model.program import DTYPES


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a model.

    Attributes:
        shape: Its sizes, batch first.
        dtype: Such as ``float32`` or ``int64``.
        name: The argument of the model's ``forward``; None passes it by position.
        below: Synthetic integers are drawn from 0 up to but not including this.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    name: str | None = None
    below: int = 2

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type as torch names it."""
        return DTYPES[self.dtype]

    def batched(self, batch: int) -> Input:
        """The same for another number of samples at once."""
        return Input((batch, *self.shape[1:]), self.dtype, self.name, self.below)

    def __str__(self) -> str:
        words = str(list(self.shape))
        if self.dtype != "float32":
            words += f" {self.dtype}"
        return words if self.name is None else f"{self.name} {words}"


InputShape: TypeAlias = Sequence[int] | Sequence[Sequence[int]] | Sequence[Input]
"""One shape, or one for each input (all float32), or what each input is."""


def inputs_of(given: InputShape) -> tuple[Input, ...]:
    """What each input is."""
    if all(isinstance(item, int) for item in given):
        return (Input(tuple(item for item in given if isinstance(item, int))),)
    return tuple(item if isinstance(item, Input) else Input(tuple(item)) for item in given if not isinstance(item, int))


def told(inputs: Sequence[Input]) -> str:
    """The inputs for people."""
    if len(inputs) == 1:
        return f"an input of shape {inputs[0]}"
    return "inputs of shapes " + ", ".join(map(str, inputs))


def arguments(
    inputs: Sequence[Input], tensors: Sequence[torch.Tensor]
) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
    """How ``forward`` is given the tensors: by position, and by keyword."""
    pairs = list(zip(inputs, tensors, strict=True))
    return (
        tuple(tensor for item, tensor in pairs if item.name is None),
        {item.name: tensor for item, tensor in pairs if item.name is not None},
    )


def forward_order(module: torch.nn.Module, inputs: Sequence[Input]) -> tuple[int, ...]:
    """Indices of the inputs in the order of ``forward``'s own arguments, which is that of an exported graph.

    Raises:
        ModelError: If ``forward`` has no argument of an input's name; tells those that it has.
    """
    parameters = inspect.signature(module.forward).parameters.values()
    legal = [item.name for item in parameters if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)]
    if not any(item.kind is item.VAR_KEYWORD for item in parameters):
        for item in inputs:
            if item.name is not None and item.name not in legal:
                raise ModelError(
                    f"{type(module).__name__} has no input {item.name!r}",
                    remedy=f"Its forward has the arguments: {', '.join(legal) or 'none'}.",
                )
    rank = {name: place for place, name in enumerate(legal)}

    def place(index: int) -> int:
        name = inputs[index].name
        return -1 if name is None else rank.get(name, len(rank))

    return tuple(sorted(range(len(inputs)), key=place))


def call(module: torch.nn.Module, inputs: Sequence[Input], tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The model's outputs, in the order in which its graph gives them."""
    positional, named = arguments(inputs, tensors)
    return flat_outputs(module(*positional, **named))


def flat_outputs(result: Any) -> tuple[torch.Tensor, ...]:
    """The tensors in what a ``forward`` returned: one, or tuples, lists and dictionaries of them; None is left out.

    Raises:
        ModelError: If it holds something else, or no tensor.
    """
    leaves = [leaf for leaf in pytree.tree_leaves(result) if leaf is not None]
    for leaf in leaves:
        if not isinstance(leaf, torch.Tensor):
            raise ModelError(
                f"the model returns {type(leaf).__name__}, which is no tensor",
                remedy="Return a tensor, or several in a tuple, list or dictionary.",
            )
    if not leaves:
        raise ModelError("the model returns no tensor")
    return tuple(leaves)

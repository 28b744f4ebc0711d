"""Weights files: read without running code from them, and checked against the model."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from testbed.errors import ModelError

_SHOWN = 5


def load_weights(model: torch.nn.Module, file: Path) -> None:
    """Copy the state dict in ``file`` into ``model``.

    Args:
        model: What to fill.
        file: A ``.safetensors`` file, or a ``.pt``, ``.pth`` or ``.bin`` file with a state dict, perhaps under the key
            ``state_dict`` or ``model``. The latter are pickles, of which only tensors and plain containers are read.

    Raises:
        ModelError: If the file is missing, truncated or of another kind, or its tensors don't match the model's.
    """
    state = read_weights(file)
    own = model.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or extra:
        parts = [f"{label} {_first(names)}" for label, names in (("missing:", missing), ("unknown:", extra)) if names]
        raise ModelError(
            f"{file} doesn't match the model: {'; '.join(parts)}",
            remedy="The file must be the state dict of this very model, with the same number of classes.",
        )
    wrong = [
        f"{name} is {list(state[name].shape)}, not {list(tensor.shape)}"
        for name, tensor in own.items()
        if state[name].shape != tensor.shape
    ]
    if wrong:
        raise ModelError(
            f"{file} doesn't match the model: {_first(wrong)}",
            remedy="The shapes must be those of this very model, with the same number of classes.",
        )
    model.load_state_dict(dict(state))


def read_weights(file: Path) -> Mapping[str, torch.Tensor]:
    """The state dict in ``file``.

    Raises:
        ModelError: If the file is missing, truncated or of another kind.
    """
    if not file.is_file():
        raise ModelError(
            f"no weights file at {file}", remedy="Name an existing file; the path is relative to the YAML file."
        )
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        if file.suffix in (".pt", ".pth", ".bin"):
            with warnings.catch_warnings():
                # A pickle that torch didn't write is refused or read all the same; its protocol is no news to anyone.
                warnings.simplefilter("ignore", UserWarning)
                content = torch.load(file, map_location="cpu", weights_only=True)
        else:
            raise ModelError(
                f"{file} is no weights file: unknown suffix {file.suffix!r}",
                remedy="Use .safetensors, .pt, .pth or .bin.",
            )
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        _broken(file, error)
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in content.items()
    ):
        raise ModelError(
            f"{file} holds no state dict",
            remedy="Save it with torch.save(model.state_dict(), file), not the model itself.",
        )
    return content


def _broken(file: Path, error: Exception) -> NoReturn:
    if isinstance(error, pickle.UnpicklingError):
        # torch's own message is a page that recommends to load the file unsafely.
        raise ModelError(
            f"{file} can't be read: it is broken, or holds more than tensors in plain containers",
            remedy="Save the state dict alone: torch.save(model.state_dict(), file), or use safetensors.",
        ) from error
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    raise ModelError(
        f"{file} can't be read: {reason[:200]}",
        remedy="The file is truncated or of another kind; copy it again.",
    ) from error


def _first(items: list[str]) -> str:
    more = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f" and {more} more" if more > 0 else "")

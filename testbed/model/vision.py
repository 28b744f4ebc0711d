"""Importing torchvision beside a CPU build of PyTorch: the one place that knows how."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

from testbed.errors import ModelError

_DETECTION_OPERATORS = ("nms", "qnms")
# The declared operators live as long as the library object that declared them.
_declared: list[torch.library.Library] = []


def import_torchvision() -> ModuleType:
    """``torchvision.models``, also where its compiled operators can't be loaded.

    The default Linux wheel of torchvision is linked against CUDA libraries, which a CPU build of PyTorch lacks. Its
    import then fails while it registers fake kernels for two detection operators that nobody declared. Declaring them
    makes the import succeed; classification models need neither. Native installs never get here.

    Returns:
        The module ``torchvision.models``.

    Raises:
        ModelError: If torchvision is missing or can't be imported for another reason.
    """
    try:
        return importlib.import_module("torchvision.models")
    except ImportError as error:
        raise ModelError(
            f"torchvision can't be imported: {error}",
            remedy="Install it: pip install torchvision, in the version that pyproject.toml names.",
        ) from error
    except RuntimeError as error:
        if "torchvision::" not in str(error) or _declared:
            raise ModelError(f"torchvision can't be imported: {error}") from error
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for operator in _DETECTION_OPERATORS:
        schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        library.define(schema)  # type: ignore[no-untyped-call]
    _declared.append(library)
    return import_torchvision()

"""Calling torch.export, quietly, and saying where in the user's code it failed."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch.export import ExportedProgram

from testbed.errors import ModelError
from testbed.model.signature import Input, arguments

_CACHE_FOLDER = "TORCHINDUCTOR_CACHE_DIR"


def export_functional(
    module: torch.nn.Module, inputs: Sequence[Input], example: Sequence[torch.Tensor]
) -> ExportedProgram:
    """The exported program of ``module``, in which no operation changes a tensor and none is decomposed.

    Args:
        module: In evaluation mode.
        inputs: What it takes.
        example: A tensor for each input.

    Raises:
        ModelError: If it can't be exported; names the line of the user's code.
    """
    positional, named = arguments(inputs, example)
    with _quiet(), _no_cache_folder(), torch.no_grad():
        exported = _attempt(lambda: torch.export.export(module, positional, named, strict=False), module)
        return _attempt(lambda: exported.run_decompositions({}), module)


def _attempt(export: Callable[[], ExportedProgram], module: torch.nn.Module) -> ExportedProgram:
    try:
        return export()
    except Exception as error:
        # torch.export raises what it likes; whatever it is, the model is what can't be exported.
        frame = _user_frame(error)
        place = "" if frame is None else f" at {frame.filename}:{frame.lineno} in {frame.name}: {frame.line}"
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{type(module).__name__} can't be exported{place}\n{reason}",
            remedy="A model is cut into stages from a fixed graph: its control flow may depend on shapes, but not on "
            "the values in a tensor (no `if x.sum() > 0`, no .item()), and its forward must accept the input's shape.",
        ) from error


@contextlib.contextmanager
def _no_cache_folder() -> Iterator[None]:
    """Nothing is compiled here, yet torch makes the compiler's cache folder among the temporary files, for good.

    It is content with any folder that exists, and writes nothing to it.
    """
    before = os.environ.get(_CACHE_FOLDER)
    os.environ[_CACHE_FOLDER] = before or str(Path(torch.__file__).parent)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_CACHE_FOLDER]
        else:
            os.environ[_CACHE_FOLDER] = before


def _user_frame(error: BaseException) -> traceback.FrameSummary | None:
    own = Path(__file__).resolve()
    library = Path(torch.__file__).resolve().parent
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename.startswith("<"):
            continue
        path = Path(frame.filename).resolve()
        if path != own and library not in path.parents:
            return frame
    return None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch.export from printing graphs and warnings of its own; errors still come as exceptions."""
    logger = logging.getLogger("torch")
    level = logger.level
    children = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.startswith("torch.")]
    levels = [child.level for child in children]
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        for item in (logger, *children):
            item.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)
            for child, old in zip(children, levels, strict=True):
                child.setLevel(old)

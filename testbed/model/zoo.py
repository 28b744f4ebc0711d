"""Models by name, or a user's own."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from testbed.errors import ModelError
from testbed.model.catalogue import make_model
from testbed.model.initialisation import make_answers_differ
from testbed.model.inputs import synthetic_request
from testbed.model.signature import Input, InputShape, call, forward_order, inputs_of, told
from testbed.model.weights import load_weights


def load_model(
    *,
    name: str | None = None,
    module: str | None = None,
    weights: Path | None = None,
    input_shape: InputShape,
    seed: int,
    search_path: Path | None = None,
    run: bool = True,
) -> torch.nn.Module:
    """A model in evaluation mode.

    Without a weights file, a model by name has random weights drawn from ``seed``, adjusted so that different inputs
    give clearly different answers (see `testbed.model.initialisation`); a user's module keeps what its factory made,
    with torch's generator seeded. Two settings of this process change: torch uses one thread (a server that is forked
    after a parallel operation would hang), and the fast path of multi-head attention is off (it rounds differently from
    the operations that a stage runs).

    Args:
        name: A name of `model_names`.
        module: Or ``package.module:factory``, a callable without required arguments that returns a module.
        weights: A state dict: a safetensors file, or a ``.pt``/``.pth`` file, read without running code from it.
        input_shape: Shape of the input, or what each input is.
        seed: Of the random weights.
        search_path: Folder that ``module`` is also looked for in: that of the experiment's file.
        run: Whether the model may be run, which adjusts random weights and shows that it takes the input. Without it
            the model is good for its graph alone.

    Raises:
        ModelError: If the name is unknown, the factory can't be used, the weights file is missing, broken or doesn't
            fit, or the model can't take ``input_shape``.
    """
    if (name is None) == (module is None):
        raise ModelError("a model needs either a name or a module", remedy="Give exactly one of `name` and `module`.")
    inputs = inputs_of(input_shape)
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name is not None:
            with _refusals(name, inputs):
                model = make_model(name, inputs)
        else:
            model = _by_factory(module or "", search_path)
        if weights is not None:
            load_weights(model, weights)
        model.eval().requires_grad_(False)
        forward_order(model, inputs)
        if not run:
            return model
        if name is not None and weights is None:
            with _refusals(name, inputs):
                make_answers_differ(model, inputs, seed)
        elif name is not None:
            with _refusals(name, inputs):
                _try(model, inputs)
        else:
            _try_factory_model(module or "", model, inputs)
    return model


@contextlib.contextmanager
def _refusals(name: str, inputs: Sequence[Input]) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, AssertionError, TypeError, ValueError, IndexError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{name} can't take {told(inputs)}: {reason[:300]}",
            remedy="Most models take [1, 3, 224, 224]; a too small image leaves nothing after the last pooling.",
        ) from error


def _try(model: torch.nn.Module, inputs: Sequence[Input]) -> None:
    with torch.inference_mode():
        call(model, inputs, synthetic_request(inputs, np.random.default_rng(0)))


def _try_factory_model(reference: str, model: torch.nn.Module, inputs: Sequence[Input]) -> None:
    try:
        _try(model, inputs)
    except ModelError:
        raise
    except Exception as error:
        # The user's forward may raise anything.
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ModelError(
            f"the model of {reference!r} can't take {told(inputs)}: {type(error).__name__}: {reason[:300]}",
            remedy="Give the shape that its forward expects, batch first, as model: {input: […]}; several inputs by "
            "the names of its arguments, as model: {input: {left: {shape: […]}, right: {shape: […]}}}.",
        ) from error


def _by_factory(reference: str, search_path: Path | None) -> torch.nn.Module:
    path, _, attribute = reference.partition(":")
    if not path or not attribute:
        raise ModelError(f"{reference!r} names no factory", remedy='Write it like "package.module:factory".')
    with _on_path(search_path):
        try:
            imported = importlib.import_module(path)
        except Exception as error:
            # The user's module may raise anything while it is imported.
            raise ModelError(
                f"module {path!r} can't be imported: {type(error).__name__}: {error}",
                remedy=f"It must be importable from {search_path or 'the current folder'} or be installed.",
            ) from error
        factory = getattr(imported, attribute, None)
        if factory is None:
            public = [item for item in vars(imported) if not item.startswith("_") and callable(getattr(imported, item))]
            near = difflib.get_close_matches(attribute, public, n=1, cutoff=0.5)
            raise ModelError(
                f"module {path!r} has no {attribute!r}",
                remedy=f"Did you mean {near[0]!r}?" if near else f"It has: {', '.join(public) or 'nothing public'}.",
            )
        if not callable(factory):
            raise ModelError(f"{reference!r} isn't callable", remedy="Name a function or class that returns a module.")
        try:
            model = factory()
        except Exception as error:
            place = inspect.getsourcefile(factory) if inspect.isroutine(factory) or inspect.isclass(factory) else None
            raise ModelError(
                f"{reference!r} failed: {type(error).__name__}: {error}",
                remedy=f"It is called without arguments; see {place or path}.",
            ) from error
    if not isinstance(model, torch.nn.Module):
        raise ModelError(
            f"{reference!r} returned {type(model).__name__}, which is no torch.nn.Module",
            remedy="Return the module itself.",
        )
    return model


@contextlib.contextmanager
def _on_path(folder: Path | None) -> Iterator[None]:
    if folder is None:
        yield
        return
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(entry)

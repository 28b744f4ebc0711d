"""Degraded answers, kept by the client until the run is over: only then is it computed what they should have been.

Answers that are alike, bit for bit, are one file, named by the hash of what is in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load, save


def answers_folder(work: Path) -> Path:
    """Where the answers of a run are, among what nobody needs after it."""
    return work / "answers"


def keep(folder: Path, outputs: Sequence[torch.Tensor]) -> str:
    """Keep an answer; returns its name.

    Raises:
        OSError: If it can't be written.
    """
    data = save({str(place): tensor.contiguous() for place, tensor in enumerate(outputs)})
    name = hashlib.sha256(data).hexdigest()
    path = folder / name
    if not path.exists():
        draft = path.with_name(f".{name}.part")
        draft.write_bytes(data)
        draft.rename(path)
    return name


def kept(folder: Path, name: str) -> list[torch.Tensor]:
    """The answer that was kept under a name.

    Raises:
        OSError: If it can't be read.
    """
    tensors = load((folder / name).read_bytes())
    return [tensors[str(place)] for place in range(len(tensors))]

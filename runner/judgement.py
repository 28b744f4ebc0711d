"""Is an answer right? Bit for bit, or, through a lossy codec, within what that codec allows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from testbed.serving.codecs import NONE, answer_error, is_lossless


@dataclass(frozen=True, slots=True)
class Judgement:
    """An outcome, and how far an answer through a lossy codec is off.

    Attributes:
        outcome: ``ok``, ``wrong`` or ``rejected``; ``degraded`` where that is still to be found out.
        error: Largest difference from the right answer, relative to that one's range; None where nothing may differ, or
            where the two can't be compared. Of a degraded answer, from the whole model's.
        same_class: Whether both have their largest element in the same place; None where nothing may differ.
        answer: Under which name a degraded answer is kept.
    """

    outcome: str
    error: float | None = None
    same_class: bool | None = None
    answer: str = ""


def judge(expected: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor], codec: str = NONE) -> Judgement:
    """An answer against the whole model's.

    Args:
        expected: Tensors of the whole model's answer.
        outputs: Those of the answer.
        codec: Through which it came.
    """
    alike = _alike(expected, outputs)
    if is_lossless(codec) or not alike:
        equal = alike and all(map(torch.equal, outputs, expected))
        return Judgement("ok" if equal else "wrong")
    error, same = _distance(expected, outputs)
    known = error if math.isfinite(error) else None
    return Judgement("ok" if error <= answer_error(codec) else "wrong", known, same)


def compare(expected: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> Judgement:
    """How far a degraded answer is from the whole model's; what it should have been is another question."""
    if not _alike(expected, outputs):
        return Judgement("wrong")
    error, same = _distance(expected, outputs)
    return Judgement("degraded", error if math.isfinite(error) else None, same)


def _alike(expected: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> bool:
    return len(outputs) == len(expected) and all(
        (found.shape, found.dtype) == (right.shape, right.dtype) for found, right in zip(outputs, expected, strict=True)
    )


def _distance(expected: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> tuple[float, bool]:
    same = all(_class(right) == _class(found) for right, found in zip(expected, outputs, strict=True))
    return max(map(_error, expected, outputs)), same


def _error(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Infinite for what may not differ but does, and for what is no number."""
    if torch.equal(expected, found):
        return 0.0
    if not expected.is_floating_point() or not bool(found.isfinite().all()):
        return math.inf
    least, largest = torch.aminmax(expected.double())
    spread = float(largest - least) or float(largest.abs())
    return float((expected.double() - found.double()).abs().max()) / spread if spread else math.inf


def _class(answer: torch.Tensor) -> list[int]:
    """Of each row, where its largest element is."""
    rows = answer.reshape(-1, answer.shape[-1]) if answer.dim() else answer.reshape(1, 1)
    found: list[int] = rows.argmax(-1).tolist() if rows.numel() else []
    return found

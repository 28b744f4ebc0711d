"""Which operations of the model a plan leaves out, and how tables say so."""

from __future__ import annotations

from collections.abc import Iterable

Runs = tuple[tuple[int, int], ...]
"""Runs of operations ``first_op..last_op-1``, in order."""


def left_out(stages: Iterable[tuple[int, int]], operations: int) -> Runs:
    """What lies between the stages of a pipeline, before the first and behind the last.

    Args:
        stages: Operations ``first_op..last_op-1`` of each, in the order of the pipeline.
        operations: Of the whole model.
    """
    found = []
    done = 0
    for first, last in (*stages, (operations, operations)):
        if done < first:
            found.append((done, first))
        done = last
    return tuple(found)


def as_text(runs: Runs) -> str:
    """``12-24 40-52``: the first and the last operation of each run, both left out."""
    return " ".join(f"{first}-{last - 1}" for first, last in runs)


def from_text(text: str) -> Runs:
    """The runs that :func:`as_text` told.

    Raises:
        ValueError: If the text tells of none.
    """
    pairs = [word.split("-") for word in text.split()]
    return tuple((int(first), int(last) + 1) for first, last in pairs)

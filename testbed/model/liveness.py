"""When a tensor is dead, and where its memory can take the next result.

Values are numbered: first the ``fixed`` ones (inputs and weights), then the results of the operations in order. Both
the executor and the memory model read the same schedule, so what is predicted is what is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from testbed.model.operators import OPERATORS


@dataclass(frozen=True, slots=True)
class Step:
    """An operation as liveness sees it: operator name, values it reads (with repeats), values it makes."""

    op: str
    reads: tuple[int, ...]
    makes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Schedule:
    """What to do around each step.

    Attributes:
        frees: For each step the values that nobody needs after it.
        in_place: For each step whether its result may overwrite its first argument.
        unused: Fixed values that no step reads and that aren't wanted.
        roots: For each value the one whose memory it may share (itself if it owns its memory).
    """

    frees: tuple[tuple[int, ...], ...]
    in_place: tuple[bool, ...]
    unused: tuple[int, ...]
    roots: tuple[int, ...]


def schedule(fixed: int, steps: Sequence[Step], wanted: Sequence[int]) -> Schedule:
    """The schedule of ``steps`` when ``wanted`` values must survive to the end.

    A step may overwrite its first argument when the operator has an in-place form, the argument is no view and was made
    by an operation (never an input or a weight), and nothing that shares its memory is read later or wanted.
    """
    end = len(steps)
    last_use: dict[int, int] = dict.fromkeys(wanted, end)
    for index in range(end - 1, -1, -1):
        for value in (*steps[index].reads, *steps[index].makes):
            last_use.setdefault(value, index)
    roots = list(range(fixed))
    reusable = [False] * fixed
    for step in steps:
        operator = OPERATORS[step.op]
        view = not operator.computes and bool(step.reads)
        for _ in step.makes:
            roots.append(roots[step.reads[0]] if view else len(roots))
            reusable.append(operator.owns_result)
        if operator.computes and not operator.owns_result:
            for value in step.reads:
                reusable[roots[value]] = False
    group_end: dict[int, int] = {}
    for value, index in last_use.items():
        group_end[roots[value]] = max(group_end.get(roots[value], -1), index)
    frees: list[list[int]] = [[] for _ in steps]
    for value, index in sorted(last_use.items()):
        if index < end:
            frees[index].append(value)
    in_place = tuple(
        OPERATORS[step.op].in_place is not None
        and reusable[step.reads[0]]
        and group_end[step.reads[0]] == index
        and all(roots[value] != step.reads[0] for value in step.reads[1:])
        for index, step in enumerate(steps)
    )
    unused = tuple(value for value in range(fixed) if value not in last_use)
    return Schedule(tuple(map(tuple, frees)), in_place, unused, tuple(roots))

"""Hosts that no plan can tell apart, merged: a cluster of three kinds of boards has three types, not fifty hosts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def merge(
    attributes: Sequence[tuple[float, ...]], pairwise: Sequence[NDArray[np.float64]]
) -> tuple[tuple[int, ...], ...]:
    """Group interchangeable hosts.

    Two hosts are interchangeable when their attributes are equal, each pairwise figure is equal to and from every third
    host, and equal both ways between the two. That is an equivalence, so comparing with a group's first host suffices.

    Args:
        attributes: What must be equal of each of ``n`` hosts.
        pairwise: ``n × n`` matrices, such as rates; diagonals are ignored.

    Returns:
        Groups of host indices, each ascending, ordered by their first host.
    """
    groups: dict[tuple[float, ...], list[list[int]]] = {}
    for host, key in enumerate(attributes):
        alike = groups.setdefault(key, [])
        for group in alike:
            if all(_interchangeable(matrix, group[0], host) for matrix in pairwise):
                group.append(host)
                break
        else:
            alike.append([host])
    return tuple(tuple(group) for group in sorted(group for alike in groups.values() for group in alike))


def _interchangeable(matrix: NDArray[np.float64], first: int, second: int) -> bool:
    others = np.ones(len(matrix), dtype=bool)
    others[[first, second]] = False
    return bool(
        matrix[first, second] == matrix[second, first]
        and np.array_equal(matrix[first, others], matrix[second, others])
        and np.array_equal(matrix[others, first], matrix[others, second])
    )


class UsedSets:
    """Sets of used hosts as integers: a unary field for each type, so that "subset" is ``a & b == a``.

    With ``counted`` a last unary field counts all stages, which makes "subset" also mean "no more stages"; the label
    sweep needs it where the number of stages is limited, since it may forget which hosts were used.

    Attributes:
        masks: Of each type, all of its hosts.
    """

    __slots__ = ("_counted", "_shift", "_unit", "masks")

    def __init__(self, multiplicity: Sequence[int], counted: bool) -> None:
        self._unit: list[int] = []
        self.masks: list[int] = []
        shift = 0
        for copies in multiplicity:
            self._unit.append(1 << shift)
            self.masks.append(((1 << copies) - 1) << shift)
            shift += copies
        self._shift = shift
        self._counted = counted

    def add(self, used: int, kind: int) -> int:
        """``used`` and one more host of type ``kind``; the type must not be full."""
        return used | ((used & self.masks[kind]) + self._unit[kind])

    def add_stage(self, used: int) -> int:
        """Count a stage, if stages are counted."""
        return used | (((used >> self._shift) + 1) << self._shift) if self._counted else used

    def full(self, used: int, kind: int) -> bool:
        """Whether every host of type ``kind`` is used."""
        return used & self.masks[kind] == self.masks[kind]

    def copies(self, used: int, kind: int) -> int:
        """How many hosts of type ``kind`` are used."""
        return (used & self.masks[kind]).bit_count()

    def stages(self, used: int) -> int:
        """Stages so far: exact where they are counted, else the hosts in the set."""
        return (used >> self._shift if self._counted else used).bit_count()

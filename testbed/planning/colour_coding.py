"""Colour coding: a simple path of ``k`` vertices, by colouring at random and looking for a path of all colours.

The algorithm of Alon, Yuster and Zwick (1995) with SEIFER's parameters: ``int(10 e^k)`` colourings in ``floor(1.3 k)``
colours, of which ``1..k`` count; the first hit wins (notes/papers.md §1.5). A path of given vertices is hit by one
colouring with probability ``k! / floor(1.3 k)^k``, so a "no" is wrong with a small probability.

What makes it quick here changes no answer's odds: the sets of colours on paths to a vertex are the bits of one number,
many colourings are tried at a time, and a "no" that a short depth-first search proves needs no colouring.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from testbed.planning.deadline import Deadline, NodeLimit
from testbed.planning.instance import Bools

Words = NDArray[np.uint64]

SPARE_COLOURS = 1.3
MOST_VERTICES = 16
"""Longer paths need more than 10^7 colourings."""

_PROOF_NODES = 5000
_BATCH_WORDS = 2**20
_WORD = 64


def find_path(
    edges: Bools, k: int, start: int | None, end: int | None, rng: np.random.Generator, deadline: Deadline
) -> list[int] | None:
    """A simple path of ``k`` vertices, or None: there is none, or no colouring hit one.

    Args:
        edges: ``(n, n)`` where an edge leads from the row's vertex to the column's.
        k: From 2 to ``MOST_VERTICES``.
        start: The path's first vertex, where it is given.
        end: The path's last vertex, where it is given.
        rng: Colours.
        deadline: Ends the search.

    Raises:
        OutOfTime: At the deadline.
    """
    if ruled_out(edges, k, start, end, deadline):
        return None
    left, batch = int(10 * math.e**k), 8
    while left > 0:
        deadline.check()
        size = min(batch, left, max(1, _BATCH_WORDS // (len(edges) * _words(k))))
        colours = rng.integers(1, int(SPARE_COLOURS * k) + 1, size=(size, len(edges))) - 1
        path = _first_hit(edges, k, start, end, colours)
        if path is not None:
            return path
        left -= size
        batch *= 4
    return None


def _words(k: int) -> int:
    return max(1, (1 << k) // _WORD)


def _first_hit(
    edges: Bools, k: int, start: int | None, end: int | None, colours: NDArray[np.int64]
) -> list[int] | None:
    """The path of the first colouring that has one.

    ``reached[b, v]`` has bit ``S`` set when, in colouring ``b``, some path to ``v`` has exactly the colours ``S``.
    """
    count, (batch, vertices) = _words(k), colours.shape
    reached: Words = np.zeros((batch, vertices, count), dtype=np.uint64)
    usable = colours < k
    if start is not None:
        usable_start = np.zeros_like(usable)
        usable_start[:, start] = usable[:, start]
    else:
        usable_start = usable
    row, column = np.nonzero(usable_start)
    alone = 1 << colours[row, column]
    reached[row, column, alone // _WORD] = np.uint64(1) << (alone % _WORD).astype(np.uint64)
    # A path neither returns to its start nor goes on from its end.
    onward = edges.copy()
    if start is not None:
        onward[:, start] = False
    if end is not None:
        onward[end] = False
    sources = [np.flatnonzero(onward[:, vertex]) for vertex in range(vertices)]
    for _ in range(k - 1):
        arriving = np.zeros_like(reached)
        for vertex in range(vertices):
            if sources[vertex].size:
                arriving[:, vertex] = np.bitwise_or.reduce(reached[:, sources[vertex]], axis=1)
        for colour in range(k):
            row, column = np.nonzero(colours == colour)
            reached[row, column] |= _with_colour(arriving[row, column], colour)
    full = 2**k - 1
    hits = (reached[:, :, full // _WORD] >> np.uint64(full % _WORD)) & np.uint64(1) == 1
    if end is not None:
        hits[:, [vertex for vertex in range(vertices) if vertex != end]] = False
    if not hits.any():
        return None
    first = int(hits.any(axis=1).argmax())
    return _trace(reached[first], sources, colours[first], int(hits[first].argmax()), full)


def _without(colour: int) -> np.uint64:
    """A word's sets without one of the first six colours."""
    return np.uint64(sum(1 << subset for subset in range(_WORD) if not subset >> colour & 1))


_WITHOUT = [_without(colour) for colour in range(6)]


def _with_colour(sets: Words, colour: int) -> Words:
    """``(m, W)`` the sets that lack the colour, with it added: set ``S`` becomes set ``S + 2^colour``."""
    if colour < 6:
        return (sets & _WITHOUT[colour]) << np.uint64(1 << colour)
    block = 2**colour // _WORD
    halves = sets.reshape(len(sets), -1, 2, block)
    added = np.zeros_like(halves)
    added[:, :, 1] = halves[:, :, 0]
    return added.reshape(sets.shape)


def _trace(
    reached: Words, sources: list[NDArray[np.int64]], colours: NDArray[np.int64], vertex: int, subset: int
) -> list[int]:
    """Walk back from a vertex that a path of all colours reaches."""
    path = [vertex]
    subset &= ~(1 << int(colours[vertex]))
    while subset:
        # The last one that fits, as in the authors' code, where later finds overwrite earlier ones.
        vertex = next(
            source
            for source in reversed(sources[vertex].tolist())
            if int(reached[source, subset // _WORD]) >> (subset % _WORD) & 1
        )
        path.append(vertex)
        subset &= ~(1 << int(colours[vertex]))
    return path[::-1]


def ruled_out(edges: Bools, k: int, start: int | None, end: int | None, deadline: Deadline) -> bool:
    """Whether a short depth-first search proves that there is no such path; False proves nothing.

    Raises:
        OutOfTime: At the deadline.
    """
    following = [np.flatnonzero(row).tolist() for row in edges]
    budget = iter(range(_PROOF_NODES))
    on_path = [False] * len(edges)

    def leads(vertex: int, more: int) -> bool:
        if next(budget, None) is None:
            raise NodeLimit
        if not more:
            return end is None or vertex == end
        if vertex == end:
            return False
        on_path[vertex] = True
        found = any(not on_path[other] and leads(other, more - 1) for other in following[vertex])
        on_path[vertex] = False
        return found

    deadline.check()
    try:
        return not any(leads(vertex, k - 1) for vertex in (range(len(edges)) if start is None else (start,)))
    except NodeLimit:
        return False

from __future__ import annotations

import itertools

import numpy as np
import pytest

from testbed.planning.colour_coding import find_path, ruled_out
from testbed.planning.deadline import Deadline, OutOfTime

FOREVER = Deadline(60, lambda: 0.0)


def exists(edges: np.ndarray, k: int, start: int | None, end: int | None) -> bool:
    return any(
        (start is None or path[0] == start)
        and (end is None or path[-1] == end)
        and all(edges[pair] for pair in itertools.pairwise(path))
        for path in itertools.permutations(range(len(edges)), k)
    )


@pytest.mark.parametrize("seed", range(60))
def test_finds_a_path_exactly_where_there_is_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vertices, k = int(rng.integers(3, 8)), int(rng.integers(2, 6))
    edges = rng.random((vertices, vertices)) < rng.choice([0.15, 0.3, 0.6])
    np.fill_diagonal(edges, False)
    chosen = rng.permutation(vertices)
    start = int(chosen[0]) if rng.random() < 0.5 else None
    end = int(chosen[1]) if rng.random() < 0.5 else None
    path = find_path(edges, k, start, end, rng, FOREVER)
    assert (path is not None) == (k <= vertices and exists(edges, k, start, end))
    if path is not None:
        assert len(set(path)) == len(path) == k
        assert all(edges[pair] for pair in itertools.pairwise(path))
        assert start in (None, path[0])
        assert end in (None, path[-1])


@pytest.mark.parametrize("k", [7, 8, 10])
def test_sets_of_more_colours_than_a_word_has_bits(k: int) -> None:
    """One way alone, so each colour's shift, within words and across them, has to be right."""
    edges = np.zeros((2 * k, 2 * k), dtype=bool)
    way = np.random.default_rng(k).permutation(2 * k)[:k].tolist()
    for pair in itertools.pairwise(way):
        edges[pair] = True
    assert find_path(edges, k, None, None, np.random.default_rng(0), FOREVER) == way


def test_the_same_seed_finds_the_same_path() -> None:
    edges = ~np.eye(12, dtype=bool)
    paths = [find_path(edges, 5, None, None, np.random.default_rng(seed), FOREVER) for seed in (1, 1, 2, 3, 4)]
    assert paths[0] == paths[1]
    assert len({tuple(path or ()) for path in paths}) > 1


def test_a_search_that_is_too_long_proves_nothing() -> None:
    edges = ~np.eye(12, dtype=bool)
    edges[:, 11] = False
    assert not ruled_out(edges, 11, None, 11, FOREVER)
    assert ruled_out(edges[:4, :4] & False, 2, None, None, FOREVER)


def test_the_deadline_ends_it() -> None:
    with pytest.raises(OutOfTime):
        find_path(~np.eye(5, dtype=bool), 3, None, None, np.random.default_rng(0), Deadline(0, lambda: 0.0))

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from testbed.errors import InfeasibleError
from testbed.planning import even
from testbed.planning.problem import Chain, Path, Problem, Worker

MIB = 2**20


def problem(compute_s: tuple[float, ...], hosts: int, **changes: object) -> Problem:
    segments = len(compute_s)
    names = [f"n{index}" for index in range(hosts)]
    chain = Chain(
        boundary_ops=tuple(range(segments + 1)),
        boundary_bits=(1.0,) * (segments + 1),
        weight_bytes=(4 * MIB,) * segments,
        activation_bytes=(MIB,) * segments,
        compute_s=compute_s,
    )
    workers = tuple(Worker(name, 1.0, memory_bytes=64 * MIB, overhead_bytes=16 * MIB) for name in names)
    paths = dict.fromkeys(itertools.permutations([*names, "d"], 2), Path(10.0))
    return replace(Problem(chain, workers, "d", paths), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(40))
def test_the_largest_run_is_as_small_as_any_cut_makes_it(seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311 - no secret
    compute = [rng.choice([0.0, 0.1, 1.0, 2.5, 7.0]) for _ in range(rng.randint(1, 9))]
    stages = rng.randint(1, len(compute))

    def runs(cuts: tuple[int, ...]) -> list[float]:
        return [sum(compute[a:b]) for a, b in itertools.pairwise((0, *cuts, len(compute)))]

    every = [runs(cuts) for cuts in itertools.combinations(range(1, len(compute)), stages - 1)]
    boundaries = even.partition(compute, stages)
    assert len(boundaries) == stages + 1
    assert list(boundaries) == sorted(set(boundaries))
    found = runs(boundaries[1:-1])
    largest = min(max(each) for each in every)
    assert max(found) == pytest.approx(largest)
    squares = min(sum(run**2 for run in each) for each in every if max(each) <= largest * (1 + 1e-9))
    assert sum(run**2 for run in found) == pytest.approx(squares)


def test_a_chain_over_all_hosts_in_their_order() -> None:
    plan = even.solve(problem((1.0, 1.0, 2.0, 2.0), 3))
    assert [(stage.host, stage.first, stage.last) for stage in plan.stages] == [
        ("n0", 0, 2),
        ("n1", 2, 3),
        ("n2", 3, 4),
    ]
    assert plan.strategy == "even"
    assert plan.bottleneck_s == 2.0
    assert plan.gap is None


def test_even_in_layers_counts_operations_whatever_they_take() -> None:
    chain = replace(problem((9.0, 1.0, 1.0, 1.0), 2), balance="layers")
    chain = replace(chain, chain=replace(chain.chain, boundary_ops=(0, 2, 4, 6, 8)))
    assert [(stage.first_op, stage.last_op) for stage in even.solve(chain).stages] == [(0, 4), (4, 8)]
    assert [stage.last for stage in even.solve(replace(chain, balance="compute")).stages] == [1, 4]
    uneven = replace(chain, chain=replace(chain.chain, boundary_ops=(0, 1, 2, 3, 30)))
    assert [stage.last for stage in even.solve(uneven).stages] == [3, 4]


def test_no_more_stages_than_allowed_or_than_segments() -> None:
    assert len(even.solve(problem((1.0,) * 4, 3, max_stages=2)).stages) == 2
    assert len(even.solve(problem((1.0,) * 2, 3)).stages) == 2


def test_a_stage_that_does_not_fit_says_which_where_and_by_how_much() -> None:
    crowded = problem((0.1,) * 10 + (1.0, 1.0), 3)
    with pytest.raises(InfeasibleError) as caught:
        even.solve(replace(crowded, workers=tuple(replace(w, memory_bytes=48 * MIB) for w in crowded.workers)))
    assert str(caught.value) == (
        "even: stage 0 needs 57MiB of memory incl. 16MiB server overhead, its host n0 has 48MiB: short by 9MiB\n"
        "give n0 at least 57MiB of memory, or use the strategy exact"
    )


def test_storage_is_checked_too() -> None:
    small = problem((1.0,) * 4, 2)
    workers = (small.workers[0], replace(small.workers[1], storage_bytes=6 * MIB))
    with pytest.raises(InfeasibleError) as caught:
        even.solve(replace(small, workers=workers))
    assert caught.value.message == "even: stage 1 needs 8MiB of storage, its host n1 has 6MiB: short by 2MiB"


def test_neighbours_that_can_not_talk() -> None:
    whole = problem((1.0, 1.0), 2)
    with pytest.raises(InfeasibleError) as caught:
        even.solve(replace(whole, paths={pair: path for pair, path in whole.paths.items() if pair != ("n0", "n1")}))
    assert caught.value.message == "even: n0 can't reach n1, the next in the hosts' order"


def test_no_host() -> None:
    with pytest.raises(InfeasibleError, match="no host is left"):
        even.solve(problem((1.0,), 1, workers=()))

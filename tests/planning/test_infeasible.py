"""Golden messages: which constraint binds, by how much, and what would make a plan possible."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace

import pytest

from testbed.errors import InfeasibleError
from testbed.planning import exact
from testbed.planning.deadline import Deadline
from testbed.planning.infeasible import enough, explain
from testbed.planning.problem import Chain, Path, Problem, Worker

MIB = 2**20


def build(
    weights_mib: Iterable[int],
    memory_mib: Iterable[int | None],
    *,
    storage_mib: int | None = None,
    overhead_mib: int = 0,
    links: Iterable[tuple[str, str]] | None = None,
    max_stages: int | None = None,
) -> Problem:
    weights = [weight * MIB for weight in weights_mib]
    segments = len(weights)
    chain = Chain(
        boundary_ops=tuple(3 * index for index in range(segments + 1)),
        boundary_bits=(1.0,) * (segments + 1),
        weight_bytes=tuple(weights),
        activation_bytes=(MIB,) * segments,
        compute_s=(1.0,) * segments,
    )
    workers = tuple(
        Worker(
            f"n{index}",
            1.0,
            None if memory is None else memory * MIB,
            None if storage_mib is None else storage_mib * MIB,
            overhead_mib * MIB,
        )
        for index, memory in enumerate(memory_mib)
    )
    names = [*(worker.name for worker in workers), "d"]
    pairs = itertools.permutations(names, 2) if links is None else links
    return Problem(chain, workers, "d", dict.fromkeys(pairs, Path(1.0)), max_stages=max_stages)


CASES = {
    "no host": (
        build([1], []),
        "no host is left to hold a stage\nadd at least one host besides d",
    ),
    "a segment that fits nowhere": (
        build([8, 44, 8], [48, 32], overhead_mib=16),
        "the largest indivisible segment (operations 3 to 5) needs 61MiB of memory incl. 16MiB server overhead; "
        "the best host for it, n0, has 48MiB: short by 13MiB\n"
        "give n0 at least 61MiB of memory, or split the model finer",
    ),
    "a segment that no disk takes": (
        build([8, 9], [48, 48], storage_mib=8),
        "the largest indivisible segment (operations 3 to 5) needs 9MiB of storage; "
        "the best host for it, n0, has 8MiB: short by 1MiB\n"
        "give n0 at least 9MiB of storage, or split the model finer",
    ),
    "too little memory together": (
        build([10] * 6, [21, 21], overhead_mib=0),
        "the memory of n0, n1 together holds 40MiB of the model's 60MiB of weights besides activations and server "
        "overhead: short by 20MiB\n"
        "give every host 10MiB more memory, or add hosts",
    ),
    "too little on one host": (
        build([10] * 6, [21]),
        "the memory of n0 holds 20MiB of the model's 60MiB of weights besides activations and server overhead: "
        "short by 40MiB\n"
        "give every host 40MiB more memory, or add hosts",
    ),
    "too little storage on many": (
        build([10] * 12, [64] * 5, storage_mib=20),
        "the storage of all 5 hosts together holds 100MiB of the model's 120MiB of weights: short by 20MiB\n"
        "give every host 10MiB more storage, or add hosts",
    ),
    "stages too few for the memory": (
        build([10] * 6, [21, 21, 21], max_stages=2),
        "with at most 2 stages, the largest that fit hold 40MiB of the model's 60MiB of weights: short by 20MiB\n"
        "allow more stages (there are 3 hosts), or give the hosts more memory",
    ),
    "stages too few for the links": (
        build([1, 1, 1], [64] * 3, links=[("d", "n0"), ("n0", "n1"), ("n1", "n2"), ("n2", "d")], max_stages=2),
        "no plan has at most 2 stages; these hosts and links need at least 3\n"
        "allow 3 stages, or give the hosts more memory",
    ),
    "enough together, but not in any arrangement": (
        build([6, 6, 4, 4], [11, 11]),
        "no cut of the model fits the memory of n0, n1 together as they are linked: short by 2MiB a host\n"
        "give every host 2MiB more memory, or add hosts",
    ),
    "linked in an order that does not fit": (
        build([20, 5], [21, 6], links=[("d", "n1"), ("n1", "n0"), ("n0", "d")]),
        "no cut of the model fits the memory of n0, n1 together as they are linked: short by 15MiB a host\n"
        "give every host 15MiB more memory, or add hosts",
    ),
    "the dispatcher is heard by nobody": (
        build([1], [64, 64], links=[("n0", "d"), ("n0", "n1")]),
        "d can't reach any of n0, n1\nlink d to a host, or to a switch that hosts are linked to",
    ),
    "the dispatcher hears nobody": (
        build([1], [64] * 5, links=[("d", "n0"), ("n0", "n1")]),
        "d can't be reached from any of the 5 hosts\nlink d to a host, or to a switch that hosts are linked to",
    ),
    "two islands": (
        build([1, 1], [64, 64], links=[("d", "n0"), ("n1", "d")]),
        "no chain of hosts leads from d through hosts that could hold the model and back\n"
        "link the hosts to each other, or to a common switch",
    ),
    "one segment can not be spread over the only route": (
        build([1], [64, 64], links=[("d", "n0"), ("n0", "n1"), ("n1", "d")]),
        "no chain of hosts leads from d through hosts that could hold the model and back\n"
        "link the hosts to each other, or to a common switch",
    ),
    "stages and memory both": (
        build([9, 9], [10, 4, 10], links=[("d", "n0"), ("n0", "n1"), ("n1", "n2"), ("n2", "d")], max_stages=1),
        "with at most 1 stage, the largest that fit hold 9MiB of the model's 18MiB of weights: short by 9MiB\n"
        "allow more stages (there are 3 hosts), or give the hosts more memory",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str) -> None:
    problem, message = CASES[case]
    with pytest.raises(InfeasibleError) as caught:
        exact.solve(problem)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "case",
    [
        "too little memory together",
        "enough together, but not in any arrangement",
        "linked in an order that does not fit",
    ],
)
def test_the_remedy_helps_and_a_little_less_does_not(case: str) -> None:
    problem, message = CASES[case]
    extra = int(message.rsplit("every host ", 1)[1].split("MiB")[0]) * MIB

    def with_more(more: int) -> Problem:
        workers = (replace(worker, memory_bytes=(worker.memory_bytes or 0) + more) for worker in problem.workers)
        return replace(problem, workers=tuple(workers))

    assert exact.solve(with_more(extra)).gap == 0
    with pytest.raises(InfeasibleError):
        exact.solve(with_more(extra - 1))


def test_out_of_time_the_reason_is_left_open() -> None:
    problem, _ = CASES["linked in an order that does not fit"]
    error = explain(problem, Deadline(0.0, lambda: 0.0))
    assert error.message == "no plan fits the model on n0, n1 together; time ran out before the reason was found"


@pytest.mark.parametrize(
    ("size", "words"),
    [(61 * MIB, "61MiB"), (61 * MIB + 1, "61.1MiB"), (1000, "1000B"), (1025, "1.1KiB"), (3 * 2**30, "3GiB")],
)
def test_a_size_to_write_down_is_never_too_small(size: int, words: str) -> None:
    assert enough(size) == words

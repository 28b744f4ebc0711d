"""Which operations are left out when hosts are lost: the decision alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from testbed.planning.plan import Assignment
from testbed.planning.problem import Chain, Path, Problem, Worker
from testbed.serving.recovery import Lacks
from testbed.serving.skipping import bridge

MB = 1_000_000
# A stem, three blocks of one stream, a block that widens, three blocks of another stream, a head.
CHAIN = Chain(
    boundary_ops=tuple(range(0, 100, 10)),
    boundary_bits=(1e6,) * 10,
    weight_bytes=(1 * MB,) * 4 + (4 * MB,) * 5,
    activation_bytes=(MB,) * 9,
    compute_s=(0.01,) * 9,
    streams=(None, 1, 1, 1, 1, 2, 2, 2, 2, None),
)


def problem(*live: str, chain: Chain = CHAIN, **memory_bytes: int) -> Problem:
    names = ["dispatcher", *live]
    paths = {(a, b): Path(1e7) for a in names for b in names if a != b}
    return Problem(chain, tuple(Worker(name, 1.0, memory_bytes.get(name)) for name in live), "dispatcher", paths)


def stages(*bounds: int, hosts: str = "abcdef") -> tuple[Assignment, ...]:
    return tuple(Assignment(host, first, last) for host, first, last in zip(hosts, bounds, bounds[1:], strict=False))


def unasked() -> Lacks:
    raise AssertionError("nothing moves, so nobody asks what hosts lack")


def holding(**held: range) -> Callable[[], Lacks]:
    """Who holds the weights of which segments."""
    found: Mapping[str, Sequence[int]] = {
        host: [0 if segment in segments else CHAIN.weight_bytes[segment] for segment in range(CHAIN.segments)]
        for host, segments in held.items()
    }
    return lambda: found


def test_a_lost_stage_between_two_cuts_of_a_stream_is_left_out_and_nothing_else_changes() -> None:
    whole = stages(0, 1, 4, 9)
    assert bridge(problem("a", "c"), whole, unasked) == (Assignment("a", 0, 1), Assignment("c", 4, 9))


def test_two_neighbours_may_be_left_out_together_and_two_apart() -> None:
    assert bridge(problem("a", "d"), stages(0, 1, 2, 4, 9), unasked) == (Assignment("a", 0, 1), Assignment("d", 4, 9))
    apart = bridge(problem("a", "c", "e"), stages(0, 1, 3, 5, 7, 9), unasked)
    assert apart == (Assignment("a", 0, 1), Assignment("c", 3, 5), Assignment("e", 7, 9))


def test_a_second_loss_goes_by_the_whole_decision() -> None:
    whole = stages(0, 1, 3, 6, 8, 9)
    assert bridge(problem("a", "c", "d", "e"), whole, unasked) is not None
    assert bridge(problem("a", "c", "e"), whole, unasked) == (
        Assignment("a", 0, 1),
        Assignment("c", 3, 6),
        Assignment("e", 8, 9),
    )
    # The first one's host is back, so it serves its stage.
    assert bridge(problem("a", "b", "c", "e"), whole, unasked) == (*whole[:3], whole[4])


def test_who_has_lost_nothing_or_everything_needs_no_bridge() -> None:
    assert bridge(problem("a", "b", "c"), stages(0, 1, 4, 9), unasked) is None
    assert bridge(problem("d"), stages(0, 1, 4, 9), unasked) is None


def test_the_first_and_the_last_stage_of_a_classifier_can_not_be_left_out() -> None:
    whole = stages(0, 1, 4, 9)
    for lost in "ac":
        live = [host for host in "abc" if host != lost]
        assert bridge(problem(*live), whole, holding()) is None


def test_the_ends_may_be_left_out_where_the_stream_goes_that_far() -> None:
    chain = dataclasses.replace(CHAIN, streams=(1,) * 10)
    assert bridge(problem("b", chain=chain), stages(0, 4, 9), unasked) == (Assignment("b", 4, 9),)
    assert bridge(problem("a", chain=chain), stages(0, 4, 9), unasked) == (Assignment("a", 0, 4),)


def test_what_is_not_residual_is_never_left_out() -> None:
    plain = dataclasses.replace(CHAIN, streams=())
    assert bridge(problem("a", "c", chain=plain), stages(0, 1, 4, 9), holding()) is None
    # The widening block is all that is lost.
    assert bridge(problem("a", "c"), stages(0, 4, 5, 9), holding()) is None


def test_within_a_lost_stage_the_largest_run_is_left_out_and_a_neighbour_takes_on_the_rest() -> None:
    # b had the widening block and two blocks behind it.
    whole = stages(0, 4, 7, 9)
    assert bridge(problem("a", "c"), whole, holding(a=range(5), c=range(7, 9))) == (
        Assignment("a", 0, 5),
        Assignment("c", 7, 9),
    )
    # With two blocks left out, four of twelve megabytes have to move; that is less than half.
    assert bridge(problem("a", "c"), whole, holding(a=range(4), c=range(7, 9))) == (
        Assignment("a", 0, 5),
        Assignment("c", 7, 9),
    )


def test_a_bridge_that_moves_nearly_as_much_as_the_whole_is_none() -> None:
    # The widening block is half of what is lost, or most of it.
    whole = stages(0, 4, 6, 9)
    assert bridge(problem("a", "c"), whole, holding(a=range(4), c=range(6, 9))) is not None
    heavy = dataclasses.replace(CHAIN, weight_bytes=(*CHAIN.weight_bytes[:4], 9 * MB, *CHAIN.weight_bytes[5:]))
    lacks = {"a": (0,) * 4 + (9 * MB,) + (4 * MB,) * 4, "c": (1 * MB,) * 4 + (9 * MB, 4 * MB) + (0,) * 3}
    assert bridge(problem("a", "c", chain=heavy), whole, lambda: lacks) is None
    # A free host holds all of it: the whole model is back as soon as a bridge for which something moves.
    assert bridge(problem("a", "c", "d"), whole, holding(a=range(4), c=range(6, 9), d=range(4, 6))) is None


def test_a_neighbour_without_room_takes_nothing_on() -> None:
    whole = stages(0, 4, 7, 9)
    held = holding(a=range(5), c=range(4, 9))
    assert bridge(problem("a", "c"), whole, held) == (Assignment("a", 0, 5), Assignment("c", 7, 9))
    # With its own 4 MB, the widening block's 4 and what lives meanwhile a needs 9.
    assert bridge(problem("a", "c", a=9 * MB), whole, held) is not None
    assert bridge(problem("a", "c", a=8 * MB), whole, held) is None


def test_stages_that_can_not_reach_each_other_make_no_bridge() -> None:
    found = problem("a", "c")
    paths = {pair: path for pair, path in found.paths.items() if pair != ("a", "c")}
    assert bridge(dataclasses.replace(found, paths=paths), stages(0, 1, 4, 9), unasked) is None

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from testbed.planning.evaluate import evaluate, violations
from testbed.planning.plan import Assignment
from testbed.planning.problem import Chain, Path, Problem, Worker

MIB = 2**20
CHAIN = Chain(
    boundary_ops=(0, 4, 5, 9),
    boundary_bits=(8.0, 4.0, 2.0, 1.0),
    weight_bytes=(10 * MIB, 20 * MIB, 30 * MIB),
    activation_bytes=(3 * MIB, 5 * MIB, 1 * MIB),
    compute_s=(1.0, 2.0, 3.0),
)
WORKERS = (
    Worker("a", 0.5, memory_bytes=60 * MIB, storage_bytes=40 * MIB, overhead_bytes=16 * MIB),
    Worker("b", 2.0, memory_bytes=40 * MIB),
)
PATHS = {
    ("d", "a"): Path(4.0, 0.1),
    ("a", "b"): Path(1.0, 0.2),
    ("b", "d"): Path(0.5, 0.4),
}
PROBLEM = Problem(CHAIN, WORKERS, "d", PATHS)
DECISION = (Assignment("a", 0, 2), Assignment("b", 2, 3))


def test_every_cost_by_hand() -> None:
    plan = evaluate(PROBLEM, DECISION, "mine", 1.5, 0.25)
    first, second = plan.stages
    assert (first.index, first.host, first.first_op, first.last_op) == (0, "a", 0, 5)
    assert (second.index, second.host, second.first_op, second.last_op) == (1, "b", 5, 9)
    assert (first.weights_bytes, first.memory_bytes) == (30 * MIB, 51 * MIB)
    assert (second.weights_bytes, second.memory_bytes) == (30 * MIB, 31 * MIB)
    assert (first.compute_s, second.compute_s) == (6.0, 1.5)
    assert (first.transfer_bits, first.link_s) == (8.0, 2.0)
    assert (second.transfer_bits, second.link_s) == (2.0, 2.0)
    assert (plan.return_bits, plan.return_s) == (1.0, 2.0)
    assert (plan.bottleneck, plan.bottleneck_s, plan.bottleneck_stage) == ("compute on a", 6.0, 0)
    assert plan.latency_s == pytest.approx(2 + 6 + 2 + 1.5 + 2 + 0.1 + 0.2 + 0.4)
    assert plan.throughput_rps == pytest.approx(1 / 6)
    assert plan.gap == pytest.approx(3.0)
    assert (plan.strategy, plan.planning_s) == ("mine", 0.25)


@pytest.mark.parametrize(
    ("pair", "name", "stage"),
    [(("d", "a"), "link d → a", 0), (("a", "b"), "link a → b", 1), (("b", "d"), "link b → d", None)],
)
def test_a_slow_link_is_the_bottleneck_by_name(pair: tuple[str, str], name: str, stage: int | None) -> None:
    plan = evaluate(replace(PROBLEM, paths=PATHS | {pair: Path(0.01)}), DECISION, "mine", None, 0.0)
    assert (plan.bottleneck, plan.bottleneck_stage) == (name, stage)
    assert plan.gap is None


def test_doubling_what_does_not_bind_changes_nothing_and_halving_what_binds_halves_the_throughput() -> None:
    plan = evaluate(PROBLEM, DECISION, "mine", None, 0.0)
    relaxed = evaluate(replace(PROBLEM, paths=PATHS | {("a", "b"): Path(2.0, 0.2)}), DECISION, "mine", None, 0.0)
    assert relaxed.throughput_rps == plan.throughput_rps
    slower = (replace(WORKERS[0], speed=0.25), WORKERS[1])
    assert evaluate(replace(PROBLEM, workers=slower), DECISION, "mine", None, 0.0).throughput_rps == pytest.approx(
        plan.throughput_rps / 2
    )


def test_a_legal_decision_breaks_nothing() -> None:
    assert violations(PROBLEM, DECISION) == ()


def test_broken_constraints_in_words() -> None:
    tight = replace(
        PROBLEM,
        workers=(replace(WORKERS[0], memory_bytes=48 * MIB, storage_bytes=29 * MIB), WORKERS[1]),
        max_stages=1,
    )
    assert violations(tight, DECISION) == (
        "stage 0 needs 51MiB of memory, a has 48MiB: short by 3MiB",
        "stage 0 needs 30MiB of storage, a has 29MiB: short by 1MiB",
        "2 stages, 1 are allowed",
    )
    # What has a cost is costed, legal or not.
    assert evaluate(tight, DECISION, "mine", None, 0.0).bottleneck_s == 6.0


@pytest.mark.parametrize(
    ("decision", "words"),
    [
        ((), "there is no stage"),
        ((Assignment("a", 0, 3), Assignment("a", 3, 3)), "stage 1 is empty"),
        ((Assignment("a", 1, 3),), "stage 0 starts at boundary 1, where 0 is due"),
        ((Assignment("a", 0, 2),), "the last stage ends at boundary 2, the model at 3"),
        ((Assignment("nobody", 0, 3),), "stage 0 is on nobody, which is no worker"),
        ((Assignment("b", 0, 2), Assignment("a", 2, 3)), "b can't reach a"),
    ],
)
def test_a_decision_without_a_cost_is_refused(decision: tuple[Assignment, ...], words: str) -> None:
    assert words in violations(PROBLEM, decision)
    with pytest.raises(ValueError, match=words):
        evaluate(PROBLEM, decision, "mine", None, 0.0)


def test_a_host_twice_and_a_dead_link() -> None:
    twice = (Assignment("a", 0, 1), Assignment("b", 1, 2), Assignment("a", 2, 3))
    everywhere = {pair: Path(1.0) for pair in itertools.permutations(("a", "b", "d"), 2)}
    assert violations(replace(PROBLEM, paths=everywhere), twice) == ("a holds 2 stages, 1 is allowed",)
    dead = replace(PROBLEM, paths=PATHS | {("a", "b"): Path(0.0)})
    assert violations(dead, DECISION) == ("a can't reach b",)


RESIDUAL = replace(PROBLEM, chain=replace(CHAIN, streams=(None, 7, 7, None)), paths=PATHS | {("a", "b"): Path(1.0)})
GAPPED = (Assignment("a", 0, 1), Assignment("b", 2, 3))


def test_only_who_asks_for_it_may_leave_a_residual_run_out() -> None:
    assert violations(RESIDUAL, GAPPED) == ("stage 1 starts at boundary 2, where 1 is due",)
    assert violations(RESIDUAL, GAPPED, skipping=True) == ()
    plan = evaluate(RESIDUAL, GAPPED, "mine", None, 0.0, skipping=True)
    assert plan.skipped == ((4, 5),)
    assert [(stage.first_op, stage.last_op, stage.transfer_bits) for stage in plan.stages] == [(0, 4, 8.0), (5, 9, 2.0)]
    assert evaluate(PROBLEM, DECISION, "mine", None, 0.0).skipped == ()


@pytest.mark.parametrize(
    "chain",
    [
        CHAIN,
        replace(CHAIN, streams=(None, 7, 8, None)),
        replace(CHAIN, streams=(None,) * 4),
        replace(CHAIN, streams=(None, 7, 7, None), weight_bytes=(10 * MIB, 0, 30 * MIB)),
    ],
    ids=["nothing known", "two streams", "no stream", "an activation alone"],
)
def test_what_is_no_residual_run_must_not_be_left_out(chain: Chain) -> None:
    assert violations(replace(RESIDUAL, chain=chain), GAPPED, skipping=True)
    with pytest.raises(ValueError, match="starts at boundary 2"):
        evaluate(replace(RESIDUAL, chain=chain), GAPPED, "mine", None, 0.0, skipping=True)


def test_the_end_may_be_left_out_and_streams_are_one_a_boundary() -> None:
    chain = replace(CHAIN, streams=(None, None, 7, 7))
    plan = evaluate(
        replace(RESIDUAL, chain=chain, paths=PATHS | {("a", "d"): Path(1.0)}),
        (Assignment("a", 0, 2),),
        "mine",
        None,
        0.0,
        skipping=True,
    )
    assert plan.skipped == ((5, 9),)
    with pytest.raises(ValueError, match="2 streams for 4 boundaries"):
        replace(CHAIN, streams=(1, 1))

"""Re-planning: what survives stays where it is, unless moving it pays."""

from __future__ import annotations

import dataclasses
import math

import pytest

from testbed.errors import InfeasibleError
from testbed.planning.evaluate import evaluate
from testbed.planning.plan import Assignment
from testbed.planning.problem import Chain, Path, Problem, Worker
from testbed.planning.strategies import STRATEGIES
from testbed.serving.estimates import ARRIVALS, LEAST_ARRIVALS, WINDOW, Estimates
from testbed.serving.recovery import Lacks, moved_bytes, pays, replan, standbys, takeover, transfer_s

MB = 10**6


def problem(*names: str, memory_bytes: int | None = None) -> Problem:
    chain = Chain(
        boundary_ops=(0, 10, 20, 30, 40),
        boundary_bits=(1e6, 1e5, 1e5, 1e5, 1e3),
        weight_bytes=(10 * MB,) * 4,
        activation_bytes=(MB,) * 4,
        compute_s=(0.1,) * 4,
    )
    hosts = ("dispatcher", *names)
    return Problem(
        chain=chain,
        workers=tuple(Worker(name, 1.0, memory_bytes) for name in names),
        dispatcher="dispatcher",
        paths={(a, b): Path(1e7, 0.001) for a in hosts for b in hosts if a != b},
    )


def lacks(found: Problem, holdings: dict[str, list[tuple[int, int]]]) -> Lacks:
    """What hosts lack that hold these runs of segments."""
    return {
        host: [
            0 if any(first <= segment < last for first, last in runs) else weight_bytes
            for segment, weight_bytes in enumerate(found.chain.weight_bytes)
        ]
        for host, runs in holdings.items()
    }


BEFORE = (Assignment("a", 0, 2), Assignment("b", 2, 4))


@pytest.mark.parametrize("lost", ["a", "b"])
def test_the_free_host_takes_over_what_the_lost_one_had(lost: str) -> None:
    left = [name for name in ("a", "b", "c") if name != lost]
    left_over = problem(*left, memory_bytes=25 * MB)
    plan = replan(left_over, STRATEGIES["exact"], BEFORE, lacks(left_over, {"a": [(0, 2)], "b": [(2, 4)]}))
    stays = next(assignment for assignment in BEFORE if assignment.host != lost)
    decision = {(stage.host, stage.first, stage.last) for stage in plan.stages}
    assert (stays.host, stays.first, stays.last) in decision
    assert ("c", *((0, 2) if lost == "a" else (2, 4))) in decision


def test_a_few_bytes_less_are_no_reason_to_stop_what_runs() -> None:
    # The same cuts the other way round would move 10 MB less of 20.4 MB if b held segment 0 too; here only 0.5 %.
    found = dataclasses.replace(
        problem("a", "c"),
        chain=dataclasses.replace(problem("a", "c").chain, weight_bytes=(10 * MB, 10 * MB, 10 * MB, 10 * MB + 100_000)),
    )
    plan = replan(found, STRATEGIES["exact"], BEFORE, lacks(found, {"a": [(0, 2)]}))
    assert (plan.stages[0].host, plan.stages[0].first, plan.stages[0].last) == ("a", 0, 2)


def test_weights_that_a_host_still_has_need_not_move() -> None:
    found = problem("a", "c")
    held = lacks(found, {"a": [(0, 2)], "c": [(2, 4)]})
    assert moved_bytes(found, held, (Assignment("a", 0, 2), Assignment("c", 2, 4))) == 0
    assert moved_bytes(found, held, (Assignment("c", 0, 2), Assignment("a", 2, 4))) == 40 * MB
    assert moved_bytes(found, held, (Assignment("a", 0, 3), Assignment("c", 3, 4))) == 10 * MB


def test_too_few_hosts_are_infeasible() -> None:
    with pytest.raises(InfeasibleError):
        replan(problem("a", memory_bytes=25 * MB), STRATEGIES["exact"], BEFORE, {})


def test_a_plan_is_never_more_than_five_per_cent_slower_for_its_bytes() -> None:
    # Staying would put both stages behind a slow path; moving everything pays.
    found = problem("a", "c", "d")
    slow = {pair: Path(1e5) if "a" in pair else path for pair, path in found.paths.items()}
    plan = replan(dataclasses.replace(found, paths=slow), STRATEGIES["exact"], BEFORE, lacks(found, {"a": [(0, 2)]}))
    assert "a" not in {stage.host for stage in plan.stages}
    best = STRATEGIES["exact"](dataclasses.replace(found, paths=slow))
    assert plan.bottleneck_s <= best.bottleneck_s * 1.05


def test_missing_weights_leave_over_the_dispatchers_own_link() -> None:
    found = problem("a", "b")
    assert transfer_s(found, {}, BEFORE) == pytest.approx(40 * MB * 8 / 1e7)
    assert transfer_s(found, lacks(found, {"a": [(0, 2)], "b": [(2, 4)]}), BEFORE) == 0
    slow = {pair: Path(1e6) if pair == ("dispatcher", "b") else path for pair, path in found.paths.items()}
    assert transfer_s(dataclasses.replace(found, paths=slow), {}, BEFORE) == pytest.approx(20 * MB * 8 / 1e6)


def test_a_change_must_answer_more_within_the_horizon() -> None:
    assert pays(1.2, move_s=0.0, horizon_s=60, gain=0.1)
    assert not pays(1.05, move_s=0.0, horizon_s=60, gain=0.1)
    assert not pays(1.2, move_s=10.0, horizon_s=60, gain=0.1)
    assert not pays(9, move_s=60.0, horizon_s=60, gain=0.1)
    assert pays(math.inf, move_s=60.0, horizon_s=60, gain=0.1), "what serves isn't possible any more"


def test_the_least_latency_is_not_given_up_for_throughput() -> None:
    """The same cut with hosts swapped has half the bottleneck and moves nothing, but a request takes longer."""
    found = problem("a", "b")
    chain = dataclasses.replace(found.chain, compute_s=(0.3, 0.3, 0.3, 0.3), boundary_bits=(1e6, 1e5, 5e6, 1e5, 1e3))
    found = dataclasses.replace(found, chain=chain)
    whole = STRATEGIES["min-latency"](found)
    assert len(whole.stages) == 1
    held = lacks(found, {"a": [(0, 2)], "b": [(2, 4)]})
    kept = replan(found, STRATEGIES["min-latency"], BEFORE, held)
    assert kept.latency_s == pytest.approx(whole.latency_s)
    split = evaluate(found, BEFORE, "min-latency", None, 0.0)
    assert split.bottleneck_s < 0.6 * whole.bottleneck_s
    assert split.latency_s > 1.2 * whole.latency_s
    bridged = replan(found, STRATEGIES["min-latency"], BEFORE, held, tolerance=math.inf)
    assert [(stage.host, stage.first, stage.last) for stage in bridged.stages] == [("a", 0, 2), ("b", 2, 4)]


def test_a_standby_joins_the_lost_stage_to_its_own_where_no_host_is_free() -> None:
    found = problem("a", "b")
    keeping = standbys(found, BEFORE, 1)
    assert keeping == {"a": (BEFORE[1],), "b": (BEFORE[0],)}
    left = problem("a")
    plan = replan(left, STRATEGIES["exact"], BEFORE, lacks(left, {"a": [(0, 4)]}), tolerance=float("inf"))
    assert [(stage.host, stage.first, stage.last) for stage in plan.stages] == [("a", 0, 4)]


def test_copies_go_to_free_hosts_first_and_only_where_there_is_room() -> None:
    found = problem("a", "b", "c")
    assert standbys(found, BEFORE, 1) == {"c": BEFORE}
    small = tuple(
        dataclasses.replace(worker, storage_bytes=20 * MB if worker.name == "c" else None) for worker in found.workers
    )
    assert standbys(dataclasses.replace(found, workers=small), BEFORE, 1) == {"c": (BEFORE[0],), "a": (BEFORE[1],)}
    assert standbys(problem("a", "b", memory_bytes=25 * MB), BEFORE, 3) == {}


def test_a_standby_prefers_copies_to_speed() -> None:
    found = problem("a", "c", "d")
    slow = tuple(dataclasses.replace(w, speed=0.2 if w.name == "c" else 1.0) for w in found.workers)
    found = dataclasses.replace(found, workers=slow)
    held = lacks(found, {"a": [(0, 2)], "c": [(2, 4)]})
    plan = replan(found, STRATEGIES["exact"], BEFORE, held, tolerance=float("inf"))
    assert [(stage.host, stage.first, stage.last) for stage in plan.stages] == [("a", 0, 2), ("c", 2, 4)]


def test_a_standby_takes_over_without_a_search() -> None:
    found = problem("a", "c", "d")
    held = lacks(found, {"a": [(0, 4)], "c": [(2, 4)]})
    plan = takeover(found, "exact", BEFORE, held)
    assert plan is not None
    # Joined to a's own it would be one stage, which is slower.
    assert [(stage.host, stage.first, stage.last) for stage in plan.stages] == [("a", 0, 2), ("c", 2, 4)]
    assert plan.strategy == "exact"


def test_nobody_takes_over_what_would_have_to_move_or_does_not_fit() -> None:
    found = problem("a", "c")
    assert takeover(found, "exact", BEFORE, lacks(found, {"a": [(0, 2)], "c": [(3, 4)]})) is None
    small = problem("a", memory_bytes=25 * MB)
    assert takeover(small, "exact", BEFORE, lacks(small, {"a": [(0, 4)]})) is None
    assert takeover(problem(), "exact", BEFORE, {}) is None


TWICE = (Assignment("a", 0, 1), Assignment("b", 1, 3), Assignment("a", 3, 4))


def several(*names: str, memory_bytes: int | None = None) -> Problem:
    """As :func:`problem`, with two stages a host."""
    return dataclasses.replace(problem(*names, memory_bytes=memory_bytes), stages_per_host=2)


def decided(found: Problem, holdings: dict[str, list[tuple[int, int]]]) -> list[tuple[str, int, int]]:
    plan = replan(found, STRATEGIES["exact"], TWICE, lacks(found, holdings))
    return [(stage.host, stage.first, stage.last) for stage in plan.stages]


def test_a_free_host_takes_over_both_stages_of_a_lost_one() -> None:
    left_over = several("b", "c", memory_bytes=25 * MB)
    assert decided(left_over, {"b": [(1, 3)]}) == [("c", 0, 1), ("b", 1, 3), ("c", 3, 4)]


def test_two_hosts_that_stand_by_for_a_stage_each_take_over_from_one() -> None:
    found = several("b", "c", "d")
    plan = takeover(found, "exact", TWICE, lacks(found, {"b": [(1, 3)], "c": [(0, 1)], "d": [(3, 4)]}))
    assert plan is not None
    assert [(stage.host, stage.first, stage.last) for stage in plan.stages] == [("c", 0, 1), ("b", 1, 3), ("d", 3, 4)]


def test_stages_that_follow_each_other_on_a_host_once_the_one_between_is_lost_become_one() -> None:
    assert decided(several("a"), {"a": [(0, 1), (3, 4)]}) == [("a", 0, 4)]


def test_what_a_hosts_stages_lack_crosses_its_path_together() -> None:
    found = several("a", "b")
    slow = dataclasses.replace(found, paths={**found.paths, ("dispatcher", "a"): Path(1e6, 0.001)})
    assert transfer_s(slow, {}, TWICE) == pytest.approx(20 * MB * 8 / 1e6)


def test_a_host_that_stands_by_has_room_for_its_own_stages_beside_the_copy() -> None:
    assert standbys(several("a", "b", memory_bytes=31 * MB), TWICE, 1) == {"b": (TWICE[0], TWICE[2])}
    assert standbys(several("a", "b", memory_bytes=41 * MB), TWICE, 1) == {
        "a": (TWICE[1],),
        "b": (TWICE[0], TWICE[2]),
    }
    assert standbys(several("a", "b", memory_bytes=30 * MB), TWICE, 1) == {}


def test_estimates_start_from_the_survey_and_follow_what_is_measured() -> None:
    survey = problem("a", "b")
    estimates = Estimates(survey)
    assert estimates.problem(["a", "b"]) == survey
    for _ in range(WINDOW):
        estimates.observe_transfer("a", "b", bits=1e6, transfer_s=1.001)
        estimates.observe_compute("b", 0, 2, 0.4)
    learned = estimates.problem(["a", "b"])
    assert learned.paths["a", "b"].rate_bps == pytest.approx(1e6)
    assert learned.paths["b", "a"] == survey.paths["b", "a"]
    assert [worker.speed for worker in learned.workers] == [1.0, pytest.approx(0.5)]
    for _ in range(WINDOW // 2 + 1):
        estimates.observe_transfer("a", "b", bits=1e6, transfer_s=0.101)
    assert estimates.problem(["a", "b"]).paths["a", "b"].rate_bps == pytest.approx(1e7)


def test_small_transfers_and_lost_hosts_do_not_count() -> None:
    survey = problem("a", "b")
    estimates = Estimates(survey)
    for _ in range(WINDOW):
        estimates.observe_transfer("a", "b", bits=1000, transfer_s=1.0)
    assert estimates.problem(["a", "b"]) == survey
    left = estimates.problem(["a"])
    assert [worker.name for worker in left.workers] == ["a"]
    assert all("b" not in pair for pair in left.paths)
    evaluate(left, (Assignment("a", 0, 4),), "exact", None, 0.0)


def test_a_small_transfer_tells_only_of_a_rate_far_from_what_is_believed() -> None:
    survey = problem("a", "b")  # 10 Mbit/s, 1 ms
    bits, estimates = 1e5, Estimates(survey)

    def believed(transfer_s: float) -> float:
        for _ in range(WINDOW):
            estimates.observe_transfer("a", "b", bits, transfer_s)
        return estimates.problem(["a", "b"]).paths["a", "b"].rate_bps

    assert believed(0.001 + 2.5 * 0.012) == pytest.approx(1e7), "round trips, or a busy receiver"
    assert believed(0.001 + 0.1) == pytest.approx(1e6), "a throttled link"
    assert believed(0.001 + 0.2) == pytest.approx(1e6)
    assert believed(0.001 + 0.015) == pytest.approx(bits / 0.015), "it was at least so fast"


def test_the_demand_is_measured_from_the_requests_that_come() -> None:
    now_s = 0.0
    estimates = Estimates(dataclasses.replace(problem("a"), demand_rps=2.0), clock=lambda: now_s)
    for _ in range(LEAST_ARRIVALS - 1):
        estimates.observe_request(1)
        now_s += 0.1
    assert estimates.demand_rps(0.5) == 2.0, "too few have come to tell"
    for _ in range(ARRIVALS):
        estimates.observe_request(1)
        now_s += 0.1
    assert estimates.demand_rps(0.5) == pytest.approx(10.0)
    for _ in range(ARRIVALS):
        estimates.observe_request(1)
        now_s += 0.02
    assert estimates.demand_rps(0.5) == pytest.approx(50.0)
    now_s += 60.0
    assert estimates.demand_rps(1.0) < 1.1, "nobody has asked for a minute"


def test_clients_that_wait_for_answers_ask_for_more_than_they_get() -> None:
    now_s = 0.0
    estimates = Estimates(problem("a"), clock=lambda: now_s)
    for _ in range(ARRIVALS):
        estimates.observe_request(6)
        now_s += 0.15
    assert estimates.demand_rps(0.15) == pytest.approx(40.0)
    assert estimates.demand_rps(0.0) == pytest.approx(1 / 0.15), "no latency is known yet"

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from runner.answer_rate import rate_rps
from runner.disturbances import disturbances
from runner.events import (
    FaultEffective,
    FaultHealed,
    FaultScheduled,
    FaultStarted,
    HostStateChanged,
    RunEnded,
    RunStarted,
)
from runner.fault_table import FAULT_COLUMNS, fault_rows
from testbed.serving.events import (
    EpochActive,
    Event,
    HostFound,
    HostLeaving,
    HostLost,
    PlanAdopted,
    RequestCompleted,
    RequestSubmitted,
    StorageTrouble,
)

Plan = Callable[..., PlanAdopted]


def answers(times: Sequence[float], epoch: int = 1, first_id: int = 0) -> list[Event]:
    found: list[Event] = []
    for id_, t_s in enumerate(times, start=first_id):
        found.append(RequestSubmitted(t_s=t_s - 0.4, id=id_, due_s=t_s - 0.4))
        found.append(
            RequestCompleted(t_s=t_s, id=id_, submitted_s=t_s - 0.4, outcome="ok", attempts=1, epoch=epoch, path=("a",))
        )
    return found


def every(step_s: float, since_s: float, until_s: float) -> list[float]:
    return [since_s + i * step_s for i in range(round((until_s - since_s) / step_s))]


def fault(number: int, verb: str, at_s: float, healed_s: float | None = None, **where: tuple[str, ...]) -> list[Event]:
    scheduled = FaultScheduled(t_s=0.0, fault=number, verb=verb, target="x", due_s=at_s, **where)  # type: ignore[arg-type]
    events: list[Event] = [scheduled, FaultStarted(t_s=at_s, fault=number), FaultEffective(t_s=at_s, fault=number)]
    return events if healed_s is None else [*events, FaultHealed(t_s=healed_s, fault=number)]


def run(*parts: Sequence[Event]) -> list[Event]:
    events: list[Event] = [RunStarted(t_s=0.0, name="t", seed=1, duration_s=30.0), RunEnded(t_s=31.0)]
    for part in parts:
        events.extend(part)
    return events


def test_the_quickstart_reads_as_it_happened(quickstart: tuple[Event, ...]) -> None:
    kill, throttle = fault_rows(quickstart)
    assert tuple(kill) == FAULT_COLUMNS
    assert kill["detected_s"] == pytest.approx(8.0521)
    assert kill["replanned_s"] == pytest.approx(8.075)
    assert kill["recovered_s"] == pytest.approx(12.0)
    assert kill["healed_s"] is None
    assert kill["throughput_during_rps"] == 0
    assert kill["throughput_before_rps"] == pytest.approx(5.8, abs=0.2)
    assert kill["throughput_after_rps"] == pytest.approx(5.8, abs=0.2)
    assert throttle["detected_s"] is None
    assert throttle["replanned_s"] is None
    assert 25.0 < float(throttle["recovered_s"] or 0) < 26.0
    assert throttle["throughput_during_rps"] == pytest.approx(1.0, abs=0.1)


def test_a_plan_that_still_uses_the_host_is_no_recovery(plan: Plan) -> None:
    events = run(
        [plan(0.0, 1, ("a", "b")), EpochActive(t_s=0.0, epoch=1, replayed=0)],
        answers(every(0.5, 1.0, 10.0)),
        fault(0, "kill", 10.0, hosts=("a",)),
        [HostLost(t_s=10.1, host="b", how="heartbeat", detail=""), HostLost(t_s=10.2, host="a", how="x", detail="")],
        [plan(10.3, 2, ("a", "c")), plan(10.4, 3, ("c", "d"))],
        answers([11.0, 12.0], epoch=2, first_id=50),
        answers([13.0, 14.0], epoch=3, first_id=60),
    )
    (found,) = disturbances(events)
    assert (found.detected_s, found.replanned_s, found.recovered_s) == (10.2, 10.4, 13.0)
    assert found.needs_recovery


def test_killing_a_host_without_a_stage_costs_nothing(plan: Plan) -> None:
    events = run(
        [plan(0.0, 1, ("a", "b")), EpochActive(t_s=0.0, epoch=1, replayed=0)],
        answers(every(0.5, 1.0, 30.0)),
        fault(0, "kill", 10.2, hosts=("idle",)),
        [HostLost(t_s=10.3, host="idle", how="connection", detail="")],
    )
    (found,) = disturbances(events)
    assert (found.detected_s, found.replanned_s, found.recovered_s) == (10.3, None, 10.5)
    assert not found.needs_recovery


def test_a_host_killed_twice_is_detected_twice(plan: Plan) -> None:
    events = run(
        [plan(0.0, 1, ("a", "b")), EpochActive(t_s=0.0, epoch=1, replayed=0)],
        fault(0, "kill", 5.0, hosts=("a",)),
        [HostLost(t_s=5.1, host="a", how="connection", detail="")],
        fault(1, "kill", 9.0, hosts=("a",)),
        [HostLost(t_s=9.2, host="a", how="connection", detail="")],
    )
    assert [found.detected_s for found in disturbances(events)] == [5.1, 9.2]


def test_a_throttled_link_nobody_uses_recovers_at_once() -> None:
    events = run(answers(every(0.25, 1.0, 30.0)), fault(0, "throttle", 10.1, 15.0, links=("a-s1",), ends=("a",)))
    (found,) = disturbances(events)
    assert found.recovered_s == pytest.approx(10.25)
    assert found.ended_s == 15.0
    assert found.throughput_during_rps == pytest.approx(4.0, abs=0.2)


def test_throughput_that_never_comes_back_is_no_recovery() -> None:
    times = [*every(0.25, 1.0, 10.0), *every(2.0, 11.0, 30.0)]
    events = run(answers(times), fault(0, "throttle", 10.0, 15.0, links=("a-s1",)))
    (found,) = disturbances(events)
    assert found.recovered_s is None
    assert found.throughput_during_rps == pytest.approx(0.5, abs=0.1)


def test_a_permanent_throttle_recovers_when_the_system_adapts() -> None:
    times = [*every(0.25, 1.0, 10.0), *every(2.0, 11.0, 17.0), *every(0.25, 17.0, 30.0)]
    events = run(answers(times), fault(0, "throttle", 10.0, links=("a-s1",)))
    (found,) = disturbances(events)
    assert found.recovered_s == pytest.approx(17.0)


def test_a_link_fault_detected_as_a_lost_host(plan: Plan) -> None:
    events = run(
        answers(every(0.25, 1.0, 10.0)),
        fault(0, "throttle", 10.0, 15.0, links=("a-s1",), ends=("a",)),
        [HostLost(t_s=10.4, host="a", how="heartbeat", detail=""), plan(10.5, 2, ("b",))],
    )
    (found,) = disturbances(events)
    assert (found.detected_s, found.replanned_s) == (10.4, 10.5)


def test_a_kill_during_a_throttle_keeps_its_own_plan(plan: Plan) -> None:
    events = run(
        [plan(0.0, 1, ("a", "b")), EpochActive(t_s=0.0, epoch=1, replayed=0)],
        fault(0, "throttle", 10.0, 15.0, links=("a-s1",), ends=("a",)),
        fault(1, "kill", 12.0, hosts=("a",)),
        [HostLost(t_s=12.1, host="a", how="connection", detail=""), plan(12.2, 2, ("b",))],
    )
    throttle, kill = disturbances(events)
    assert (throttle.detected_s, throttle.replanned_s) == (None, None)
    assert (kill.detected_s, kill.replanned_s) == (12.1, 12.2)


def test_lost_requests_fall_to_the_fault_that_cost_them(plan: Plan) -> None:
    events = run(
        [plan(0.0, 1, ("a", "b")), EpochActive(t_s=0.0, epoch=1, replayed=0)],
        answers([1.0, 2.0]),
        [RequestSubmitted(t_s=9.9, id=90, due_s=9.9), RequestSubmitted(t_s=10.5, id=91, due_s=10.5)],
        fault(0, "kill", 10.0, hosts=("a",)),
        [HostLost(t_s=10.1, host="a", how="connection", detail=""), plan(10.2, 2, ("b",))],
        answers([13.0], epoch=2, first_id=60),
        [RequestSubmitted(t_s=14.0, id=92, due_s=14.0)],
        fault(1, "kill", 15.0, hosts=("b",)),
        [RequestSubmitted(t_s=29.0, id=93, due_s=29.0)],
    )
    assert [found.lost_requests for found in disturbances(events)] == [2, 2]


def test_a_fault_that_never_came_has_an_empty_row() -> None:
    (row,) = fault_rows(run([FaultScheduled(t_s=0.0, fault=3, verb="kill", target="a", due_s=99.0, hosts=("a",))]))
    assert {column for column, value in row.items() if value is not None} == {
        "id",
        "kind",
        "target",
        "hosts",
        "due_s",
        "lost_requests",
    }


def test_a_fault_tells_what_it_struck_and_what_would_strike_again() -> None:
    scheduled = FaultScheduled(t_s=0.0, fault=0, verb="kill", target="stage 1", due_s=5.0, entry="{kill: {stage: 1}}")
    started = FaultStarted(t_s=5.0, fault=0, target="b", hosts=("b",), entry="{kill: b}")
    (row,) = fault_rows(run([scheduled]))
    assert (row["target"], row["entry"]) == ("stage 1", "{kill: {stage: 1}}")
    (row,) = fault_rows(run([scheduled, started, FaultEffective(t_s=5.0, fault=0)]))
    assert (row["target"], row["entry"]) == ("b", "{kill: b}")
    (found,) = disturbances(run([scheduled, started, FaultEffective(t_s=5.0, fault=0)]))
    assert found.hosts == ("b",)


def test_a_host_that_came_back_before_anybody_planned_around_it_is_recovered_then(plan: Plan) -> None:
    events = run(
        [plan(0.0, 1, ("a", "b")), EpochActive(t_s=0.0, epoch=1, replayed=0)],
        answers([*every(0.5, 1.0, 10.0), *every(0.5, 10.7, 20.0)]),
        fault(0, "isolate", 10.0, 10.2, hosts=("a",)),
    )
    (row,) = fault_rows(events)
    assert (row["detected_s"], row["replanned_s"], row["recovered_s"]) == (None, None, 10.7)


def test_a_plan_long_after_a_spare_came_back_was_not_for_it(plan: Plan) -> None:
    lost = HostLost(t_s=5.3, host="c", how="heartbeat", detail="")
    events = run(
        [plan(0.0, 1, ("a", "b")), EpochActive(t_s=0.0, epoch=1, replayed=0), lost],
        answers(every(0.5, 1.0, 20.0)),
        fault(0, "isolate", 5.0, 6.0, hosts=("c",)),
        fault(1, "throttle", 20.0, links=("a-s1",)),
        [plan(21.0, 2, ("a", "b")), EpochActive(t_s=21.1, epoch=2, replayed=0)],
        answers(every(0.5, 21.2, 29.0), epoch=2, first_id=60),
    )
    isolated, throttled = fault_rows(events)
    assert (isolated["detected_s"], isolated["replanned_s"], isolated["recovered_s"]) == (5.3, None, 5.0)
    assert throttled["replanned_s"] == 21.0


def test_a_disk_s_fault_is_detected_when_a_node_it_hit_needs_the_disk(plan: Plan) -> None:
    def trouble(t_s: float, host: str, over: bool = False) -> StorageTrouble:
        return StorageTrouble(t_s=t_s, host=host, detail="", over=over)

    events = run(
        [plan(0.0, 1, ("a", "b")), EpochActive(t_s=0.0, epoch=1, replayed=0)],
        answers(every(0.5, 1.0, 30.0)),
        fault(0, "disk-full", 10.2, 15.2, hosts=("a",)),
        fault(1, "disk-gone", 20.2, 25.2, hosts=("b",)),
        [trouble(9.0, "a"), trouble(11.0, "b"), trouble(12.0, "a", over=True), trouble(13.0, "a"), trouble(14.0, "a")],
        [trouble(26.0, "b")],
    )
    full, gone = disturbances(events)
    assert (full.detected_s, full.replanned_s, full.recovered_s) == (13.0, None, 10.5)
    assert (gone.detected_s, gone.needs_recovery) == (None, False)


def test_a_rate_counts_gaps_not_posts() -> None:
    times = [1.0, 2.0, 3.0]
    assert rate_rps(times, 1.0, 3.0) == 1.0
    assert rate_rps(times, 1.0, 3.0, closed=False) == 0.5
    assert rate_rps(times, 3.0, 3.0) is None


def test_a_host_that_joins_is_found_and_planned_with(plan: Plan) -> None:
    events = run(
        [plan(0.0, 1, ("a",)), EpochActive(t_s=0.0, epoch=1, replayed=0)],
        answers(every(0.5, 1.0, 12.0)),
        fault(0, "join", 10.0, hosts=("b",)),
        [HostFound(t_s=0.5, host="a"), HostFound(t_s=10.2, host="b")],
        [plan(11.0, 2, ("a", "b")), EpochActive(t_s=12.0, epoch=2, replayed=0)],
        answers(every(0.25, 12.25, 29.0), epoch=2, first_id=100),
    )
    (found,) = disturbances(events)
    assert (found.detected_s, found.replanned_s, found.recovered_s) == (10.2, 11.0, 12.25)
    assert not found.needs_recovery


def test_a_squeezed_memory_takes_a_host_away_only_if_the_kernel_kills(plan: Plan) -> None:
    parts = (
        [plan(0.0, 1, ("a",)), EpochActive(t_s=0.0, epoch=1, replayed=0)],
        answers([*every(0.5, 1.0, 10.0), *every(0.5, 12.0, 29.0)]),
        fault(0, "memory", 10.0, 11.0, hosts=("a",)),
    )
    (alive,) = disturbances(run(*parts))
    assert not alive.needs_recovery
    killed = HostStateChanged(t_s=10.1, host="a", state="killed", detail="out of memory")
    (found,) = disturbances(run(*parts, [killed, HostLost(t_s=10.2, host="a", how="connection", detail="")]))
    assert found.needs_recovery
    assert (found.detected_s, found.recovered_s) == (10.2, 12.0)


def test_a_host_that_leaves_is_detected_when_it_says_so(plan: Plan) -> None:
    events = run(
        [plan(0.0, 1, ("a",)), EpochActive(t_s=0.0, epoch=1, replayed=0)],
        answers(every(0.5, 1.0, 12.0)),
        fault(0, "leave", 10.0, hosts=("a",)),
        [HostLeaving(t_s=10.1, host="a"), plan(10.3, 2, ("b",)), EpochActive(t_s=12.0, epoch=2, replayed=0)],
        [HostLost(t_s=12.1, host="a", how="left", detail="")],
        answers(every(0.5, 12.5, 29.0), epoch=2, first_id=100),
    )
    (found,) = disturbances(events)
    assert (found.detected_s, found.replanned_s, found.recovered_s) == (10.1, 10.3, 12.5)


def test_the_dispatcher_has_recovered_with_its_next_epoch(plan: Plan) -> None:
    events = [
        RunStarted(t_s=0.0, name="t", seed=1, duration_s=30.0, dispatcher="boss"),
        RunEnded(t_s=31.0),
        plan(0.0, 1, ("a",)),
        EpochActive(t_s=0.0, epoch=1, replayed=0),
        *answers(every(0.5, 1.0, 10.2)),
        *fault(0, "restart", 10.0, 11.0, hosts=("boss",)),
        plan(12.0, 2, ("a",)),
        EpochActive(t_s=13.0, epoch=2, replayed=3),
        *answers(every(0.5, 13.5, 29.0), epoch=2, first_id=100),
    ]
    (found,) = disturbances(events)
    assert found.needs_recovery
    assert (found.replanned_s, found.recovered_s) == (12.0, 13.5)
    (unrecovered,) = disturbances([e for e in events if not isinstance(e, EpochActive) or e.epoch == 1])
    assert unrecovered.recovered_s is None


def test_a_slower_cpu_is_no_lost_host(plan: Plan) -> None:
    events = run(
        [plan(0.0, 1, ("a",)), EpochActive(t_s=0.0, epoch=1, replayed=0)],
        answers([*every(0.5, 1.0, 10.0), *every(2.0, 10.0, 20.0), *every(0.5, 20.0, 29.0)]),
        fault(0, "cpu", 10.0, 20.0, hosts=("a",)),
    )
    (found,) = disturbances(events)
    assert not found.needs_recovery
    assert found.recovered_s == pytest.approx(20.0, abs=0.6)
    assert found.throughput_during_rps == pytest.approx(0.5, abs=0.1)

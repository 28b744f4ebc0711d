"""The soak: its campaign, what it compares, and a short one on the emulated cluster."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.footprints import MIB, Calm, Footprint, Life, Sample, series, theil_sen
from benchmarks.soak import calm_moments, grown
from benchmarks.soak_campaign import CALM_S, DISPATCHER, FINAL, LASTING, ROUND_S, WORKERS, experiment, rounds
from runner.events import HostStateChanged, RunStarted
from testbed.emulation.processes import ProcessIdentity
from testbed.serving.events import EpochActive, EpochFenced, Event, HostFound, HostLost, PlanAdopted, PlannedStage
from testbed.spec.faults.timeline import timeline
from tests.emulation.world import world

SOAK_TIMEOUT_S = 220


def test_a_campaign_is_seeded_strikes_everything_and_leaves_calm_moments() -> None:
    found = experiment(30, seed=1)
    strikes = timeline(found)
    assert strikes == timeline(experiment(30, seed=1))
    assert strikes != timeline(experiment(30, seed=2))
    assert len(strikes) > 400
    verbs = {strike.verb for strike in strikes}
    assert len(verbs) >= 17
    assert not verbs & FINAL
    for strike in strikes:
        over_s = strike.at_s % ROUND_S + (strike.lasts_s or 0.0)
        assert over_s <= ROUND_S - CALM_S - LASTING.most, "no time to settle"
    dispatcher = [strike for strike in strikes if strike.target == DISPATCHER]
    assert len(dispatcher) == rounds(30)
    deaths = [int(strike.at_s // ROUND_S) for strike in dispatcher if strike.verb in ("restart", "reboot")]
    assert deaths == [2, 4, 8, 16, 32]


def test_a_trend_ignores_steps_and_spikes() -> None:
    assert theil_sen([(0, 1), (1, 2), (2, 9), (3, 4), (4, 5)]) == 1
    assert theil_sen([(0, 5), (1, 5), (2, 50), (3, 5), (4, 5)]) == 0


NODE = Life("node1", ProcessIdentity(7, 70))


def test_only_calm_moments_at_the_same_task_are_compared_by_their_least() -> None:
    samples = [
        Sample(at_s, NODE, Footprint(memory, threads, 9))
        for at_s, memory, threads in ((1, 5, 5), (2, 4, 6), (5, 99, 99), (11, 7, 8), (21, 6, 6))
    ]
    calms = [Calm(0, 3, {"node1": "idle"}), Calm(10, 12, {"node1": "a stage"}), Calm(20, 22, {"node1": "idle"})]
    assert series(samples, calms) == {
        (NODE, "idle"): [(3, Footprint(4, 5, 9)), (22, Footprint(6, 6, 9))],
        (NODE, "a stage"): [(12, Footprint(7, 8, 9))],
    }


def history(*events: Event) -> list[Event]:
    start = RunStarted(t_s=0.0, name="soak", seed=1, duration_s=2 * ROUND_S, dispatcher=DISPATCHER)
    found = [HostFound(t_s=-1.0, host=host) for host in WORKERS]
    return sorted((*found, start, plan(-0.5, 1), EpochActive(t_s=-0.4, epoch=1, replayed=0), *events), key=_time)


def _time(event: Event) -> float:
    return event.t_s


def plan(t_s: float, epoch: int, **ops: tuple[int, int]) -> PlanAdopted:
    """A plan with these hosts' operations."""
    return PlanAdopted(
        t_s=t_s,
        epoch=epoch,
        strategy="exact",
        reason="",
        stages=tuple(
            PlannedStage(
                stage=number,
                host=host,
                first_op=first,
                last_op=last,
                weights_bytes=1,
                memory_bytes=1,
                compute_s=1.0,
                transfer_bits=1.0,
                link_s=1.0,
                is_bottleneck=False,
            )
            for number, (host, (first, last)) in enumerate(ops.items())
        ),
        return_bits=0.0,
        return_s=0.0,
        throughput_rps=1.0,
        latency_s=1.0,
        bottleneck="",
        gap=0.0,
        planning_s=0.0,
    )


@pytest.mark.parametrize(
    "event",
    [
        EpochFenced(t_s=ROUND_S - 1, epoch=1, reason=""),
        EpochFenced(t_s=ROUND_S - 20, epoch=1, reason=""),
        plan(ROUND_S - 20, 17),
        HostLost(t_s=ROUND_S - 1, host="node3", how="heartbeat", detail=""),
    ],
    ids=["fenced meanwhile", "fenced before", "planned and not served", "a host lost"],
)
def test_a_moment_is_calm_if_one_plan_serves_and_all_hosts_are_there(event: Event) -> None:
    assert [calm.end_s for calm in calm_moments(history(), 2, exactly=True)] == [ROUND_S, 2 * ROUND_S]
    assert ROUND_S not in [calm.end_s for calm in calm_moments(history(event), 2, exactly=True)]


def test_a_worker_without_a_stage_is_at_the_same_only_after_the_same() -> None:
    events = history(
        plan(ROUND_S + 1, 2, node1=(0, 4)),
        EpochActive(t_s=ROUND_S + 2, epoch=2, replayed=0),
        plan(2 * ROUND_S + 1, 3),
        EpochActive(t_s=2 * ROUND_S + 2, epoch=3, replayed=0),
        HostStateChanged(t_s=3 * ROUND_S + 1, host="node1", state="starting"),
    )
    at = [calm.tasks["node1"] for calm in calm_moments(events, 4, exactly=True)]
    assert at == [(False, None), (True, (0, 4)), (False, (0, 4)), (False, None)]
    assert [calm.tasks["node1"] for calm in calm_moments(events, 4, exactly=False)] == [False, True, False, False]


@pytest.mark.parametrize(
    ("taken", "over"),
    [
        (lambda number: Footprint(8 * MIB, 5, 9), set()),
        (lambda number: Footprint(8 * MIB, 5 + (number > 1), 9), {"threads more"}),
        (lambda number: Footprint(8 * MIB, 5, 9 + (number > 1)), {"descriptors more"}),
        (lambda number: Footprint(2 * number * MIB, 5, 9), {"memory more, MiB", "memory's trend, MiB/min"}),
    ],
    ids=["nothing", "a thread", "a descriptor", "memory"],
)
def test_what_grows_is_over_its_bar(taken: Callable[[int], Footprint], over: set[str]) -> None:
    count = 10
    samples = [
        Sample(number * ROUND_S - 1, life, taken(number))
        for number in range(1, count)
        for life in (NODE, Life(DISPATCHER, ProcessIdentity(8, 80)))
    ]
    rows = list(grown(history(), samples, count))
    assert {row.measure for row in rows if not row.ok} == over


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(SOAK_TIMEOUT_S + 20)
def test_two_minutes_of_chaos_lose_nothing_and_leak_nothing(tmp_path: Path) -> None:
    table = tmp_path / "soak.csv"
    command = [sys.executable, "-m", "benchmarks.soak", "--quick", "--csv", str(table), "--results", str(tmp_path)]
    with world() as machine:
        done = machine.run(*command, check=False, timeout_s=SOAK_TIMEOUT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    with table.open(newline="") as file:
        rows = {(row["case"], row["measure"]): float(row["value"]) for row in csv.DictReader(file)}
    assert rows["faults", "took effect"] > 20
    assert rows["requests", "answered right"] > 400

"""Links that get slow, on the emulated cluster: no host behind one is taken for dead, and who adapts moves away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.emulation.world import World, world
from tests.runner.real_run import NAME, RealRun, started

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.alone]

TENSOR_BITS = 256 * 32 * 32 * 32
THROTTLED_BPS = 1_000_000


@pytest.fixture(scope="module")
def machine() -> Iterator[World]:
    with world() as made:
        yield made


def of(run: RealRun, kind: str) -> list[dict[str, Any]]:
    return [event for event in run.events() if event["event"] == kind]


def finish(run: RealRun) -> None:
    code, output = run.finish()
    assert code in (0, 4), output  # on a busy machine the emulation may be invalid
    assert run.record["outcome"] == "passed", output
    assert {row["outcome"] for row in run.rows("requests.csv")} == {"ok"}


@pytest.mark.parametrize("detector", [{"detector": "misses", "misses": 3}, {"detector": "phi"}], ids=["misses", "phi"])
def test_a_host_whose_link_is_full_of_a_large_tensor_is_not_taken_for_dead(
    machine: World, tmp_path: Path, detector: dict[str, Any]
) -> None:
    """A megabyte at 1 Mbit/s takes over eight seconds, and the heartbeats of its sender leave over the same link."""
    spec = {
        "name": NAME,
        "seed": 1,
        "hosts": {"dispatcher": {"cpu": 0.5}, "node1": {"cpu": 0.2}, "node2": {"cpu": 0.2}},
        "switches": ["s1"],
        "links": [
            {"between": [host, "s1"], "rate": "50Mbit/s", "delay": "1ms"} for host in ("dispatcher", "node1", "node2")
        ],
        "model": {"module": "tests.runner.tiny_model:wide", "input": [1, 3, 32, 32]},
        "placement": {"strategy": "even"},
        "compute": {"mode": "calibrated"},
        "workload": {"kind": "closed", "in_flight": 3, "duration": "14s"},
        "recovery": {"policy": "replan", "heartbeat": "100ms", **detector},
        "faults": [{"at": "2s", "throttle": ["node1", "s1"], "rate": "1Mbit/s", "for": "12s"}],
    }
    with started(machine, tmp_path, spec) as run:
        finish(run)
    (fault,) = run.rows("faults.csv")
    slow_s, healed_s = float(fault["effective_s"]), float(fault["healed_s"])
    stages = {(row["id"], row["stage"]): row for row in run.rows("stages.csv")}
    under_way_s = [
        min(float(stages[request, "1"]["received_s"]), healed_s) - max(float(row["finished_s"]), slow_s)
        for (request, stage), row in stages.items()
        if stage == "0"
    ]
    assert max(under_way_s) > 0.9 * TENSOR_BITS / THROTTLED_BPS, "no large tensor crossed the slow link"
    (ended,) = of(run, "run_ended")  # after which every server is killed
    assert not [event for event in of(run, "host_lost") if event["t_s"] < ended["t_s"]]
    assert len([event for event in of(run, "plan_adopted") if event["t_s"] < ended["t_s"]]) == 1


def adapting(**changes: Any) -> dict[str, Any]:
    """The whole model on the better one of two hosts."""
    hosts = {"node1": 0.08, "spare": 0.05}
    return {
        "name": NAME,
        "seed": 1,
        "hosts": {"dispatcher": {"cpu": 0.5}, **{host: {"cpu": share} for host, share in hosts.items()}},
        "switches": ["s1"],
        "links": [
            {"between": ["dispatcher", "s1"], "rate": "100Mbit/s", "delay": "1ms"},
            *({"between": [host, "s1"], "rate": "50Mbit/s", "delay": "2ms"} for host in hosts),
        ],
        "model": {"name": "squeezenet1_1", "input": [1, 3, 160, 160]},
        "placement": {"strategy": "single"},
        "compute": {"mode": "calibrated"},
        "recovery": {"adaptive": True, "horizon": "12s", "heartbeat": "100ms", "misses": 10},
        **changes,
    }


def hosts_by_epoch(run: RealRun) -> list[str]:
    return [row["host"] for row in run.rows("plan.csv")]


def answers_rps(run: RealRun, begin_s: float, end_s: float) -> float:
    at_s = [float(row["completed_s"]) for row in run.rows("requests.csv")]
    return sum(begin_s <= t_s < end_s for t_s in at_s) / (end_s - begin_s)


def test_a_dispatcher_moves_away_from_a_slow_link_and_comes_back(machine: World, tmp_path: Path) -> None:
    spec = adapting(
        workload={"kind": "closed", "in_flight": 4, "duration": "40s"},
        faults=[{"at": "6s", "throttle": ["node1", "s1"], "rate": "3Mbit/s", "for": "12s"}],
    )
    with started(machine, tmp_path, spec) as run:
        finish(run)
    assert hosts_by_epoch(run)[:3] == ["node1", "spare", "node1"]
    (fault,) = run.rows("faults.csv")
    slow_s, healed_s = float(fault["effective_s"]), float(fault["healed_s"])
    moved_s, back_s = (float(row["active_s"]) for row in run.rows("epochs.csv")[1:3])
    assert slow_s < moved_s < healed_s < back_s
    stuck_rps, moved_rps = answers_rps(run, slow_s, moved_s), answers_rps(run, moved_s + 1, healed_s)
    assert moved_rps > 1.5 * stuck_rps
    assert answers_rps(run, back_s + 1, 40) > 1.1 * moved_rps

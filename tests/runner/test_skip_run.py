"""Whole runs that lose a residual stage: skipping it bridges the time in which its weights travel to another host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.emulation.world import world
from tests.runner.real_run import RATE, RealRun, experiment, started

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.alone]

WORKERS = ("node1", "node2", "node3", "spare")


def spec(policy: str) -> dict[str, Any]:
    """Nobody has memory for more than a third of the model; the third that is lost takes seconds to the spare."""
    return experiment(
        hosts={
            "dispatcher": {"cpu": 0.3},
            **{name: {"cpu": 0.05, "memory": "46MiB", "storage": "64MiB"} for name in WORKERS},
        },
        links=[{"between": [host, "s1"], "rate": RATE, "delay": "1ms"} for host in ("dispatcher", *WORKERS)],
        model={"module": "tests.runner.tiny_model:residual", "input": [1, 256]},
        placement={"strategy": "even", "max_stages": 3, "deploy": "prestaged", "costs": "analytic"},
        compute={"mode": "calibrated"},
        workload={"kind": "closed", "in_flight": 4, "duration": "11s"},
        recovery={"policy": policy},
        faults=[
            {"at": "1s", "kill": {"stage": 1}},
            {"at": "8s", "restart": {"stage": 1}, "for": "1s"},
        ],
    )


def run_of(folder: Path, policy: str) -> RealRun:
    with world() as machine, started(machine, folder, spec(policy)) as run:
        code, output = run.finish()
    assert code in (0, 4), output  # on a busy machine the emulation may be invalid
    assert run.record["outcome"] == "passed", output
    assert {row["outcome"] for row in run.rows("requests.csv")} == {"ok"}
    return run


def longest_s(run: RealRun) -> float:
    return max(until_s - since_s for since_s, until_s in run.record["summary"]["downtime"])


def test_a_skipped_stage_is_hardly_missed_and_comes_back(tmp_path: Path) -> None:
    skipping, replanning = run_of(tmp_path / "skip", "skip"), run_of(tmp_path / "replan", "replan")
    # Eight megabytes over 20 Mbit/s are more than three seconds.
    assert longest_s(replanning) > 3
    assert longest_s(skipping) < longest_s(replanning) / 4
    assert replanning.record["summary"]["degraded"] is None
    assert {row["degraded"] for row in replanning.rows("requests.csv")} == {"false"}

    # Whole, degraded until the weights are on the spare, whole; degraded until the server is back, whole.
    epochs = skipping.rows("epochs.csv")
    assert [bool(row["skipped"]) for row in epochs] == [False, True, False, True, False]
    assert [row["strategy"] for row in epochs if row["skipped"]] == ["skip", "skip"]
    plans = [[row["host"] for row in skipping.rows("plan.csv") if row["epoch"] == each["epoch"]] for each in epochs]
    assert plans[0] == ["node1", "node2", "node3"]
    assert plans[1] == plans[3] == ["node1", "node3"]
    assert plans[2] == plans[4] == ["node1", "spare", "node3"]
    moved = [row for row in skipping.events() if row["event"] == "weights_supplied" and row["purpose"] == "move"]
    assert [row["host"] for row in moved] == ["spare"]
    # The spare had its stage on its disk when its server came back.
    sent = [float(row["deploy_mbit"]) for row in skipping.rows("plan.csv") if row["epoch"] != epochs[0]["epoch"]]
    assert max(sent) < 1

    marked = {row["epoch"] for row in skipping.rows("requests.csv") if row["degraded"] == "true"}
    assert marked == {row["epoch"] for row in epochs if row["skipped"]}
    degraded = skipping.record["summary"]["degraded"]
    assert degraded["answers"] == sum(row["degraded"] == "true" for row in skipping.rows("requests.csv"))
    assert len(degraded["spans"]) == 2
    assert 0 < degraded["mean_error_pct"] <= degraded["largest_error_pct"]
    assert {row["state"] for row in skipping.rows("service.csv") if row["event"] == "service"} >= {
        "degraded",
        "serving",
    }

"""A whole run under faults of every sort: no request is lost, and all that was changed is as declared afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.fault_table import FAULT_COLUMNS
from testbed.spec import load_experiment
from testbed.spec.faults.entries import entry
from testbed.spec.faults.timeline import timeline
from tests.emulation.world import world
from tests.runner.real_run import experiment, started

pytestmark = [pytest.mark.root, pytest.mark.slow]

SPEC = experiment(
    compute={"mode": "calibrated"},
    workload={"kind": "closed", "in_flight": 4, "duration": "7s"},
    faults=[
        {"at": "1s", "kill": {"stage": 1}},
        {"at": "3s", "partition": [["dispatcher"], ["node1", "node2", "node3"]], "for": "100ms"},
        {"at": "3500ms", "flap": ["dispatcher", "s1"], "period": "200ms", "for": "500ms"},
    ],
    chaos={
        "rate": "4/s",
        "kinds": ["throttle", "delay", "jitter", "loss"],
        "from": "4500ms",
        "until": "6s",
        "for": ["100ms", "500ms"],
    },
)


def test_a_run_under_faults_loses_nothing_and_can_be_replayed(tmp_path: Path) -> None:
    with world() as machine, started(machine, tmp_path, SPEC) as run:
        code, output = run.finish()
    assert code in (0, 4), output  # on a busy machine the emulation may be invalid
    assert run.record["outcome"] == "passed", output
    assert {row["outcome"] for row in run.rows("requests.csv")} == {"ok"}

    rows = run.rows("faults.csv")
    assert tuple(rows[0])[: len(FAULT_COLUMNS)] == FAULT_COLUMNS
    kill, drawn = rows[0], rows[3:]
    assert kill["target"] in ("node1", "node2", "node3")
    assert kill["entry"] == f"{{at: 1s, kill: {kill['target']}}}"
    assert len(drawn) > 1
    for row in rows:
        assert float(row["effective_s"]) >= float(row["started_s"]) >= float(row["due_s"])
        assert row["healed_s"] or row is kill
    # What was struck is what was printed before, and what a replay would strike.
    declared = [entry(fault) for fault in timeline(load_experiment(tmp_path / "tiny.yaml"))]
    assert [row["entry"] for row in rows[1:]] == declared[1:]
    assert set(declared) <= {line.strip().removeprefix("- ") for line in output.splitlines()}
    assert run.folder is not None
    again = load_experiment(tmp_path / "tiny.yaml", replay=run.folder / "faults.csv")
    assert [entry(fault) for fault in timeline(again)] == [row["entry"] for row in rows]

    # It was up in between, and as declared afterwards.
    turns = {found["detail"] for found in run.events() if found["event"] == "fault_changed"}
    assert turns <= {"down", "20Mbit/s, delay 1ms"}
    assert turns
    healed = [found["detail"] for found in run.events() if found["event"] == "fault_healed" and found["fault"] == 2]
    assert healed == ["20Mbit/s, delay 1ms"]

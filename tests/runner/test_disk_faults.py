"""A whole run whose disks break: answers don't depend on disks, and what was damaged is fetched again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.emulation.world import world
from tests.runner.real_run import RATE, experiment, started

pytestmark = [pytest.mark.root, pytest.mark.slow]

WORKERS = ("node1", "node2")
SPEC = experiment(
    hosts={
        "dispatcher": {"cpu": 0.3},
        "node1": {"cpu": 0.1, "memory": "64MiB", "storage": "64MiB"},
        "node2": {"cpu": 0.1, "memory": "64MiB"},
    },
    links=[{"between": [host, "s1"], "rate": RATE, "delay": "1ms"} for host in ("dispatcher", *WORKERS)],
    compute={"mode": "calibrated"},
    placement={"strategy": "even"},
    workload={"kind": "closed", "in_flight": 4, "duration": "5s"},
    faults=[
        {"at": "500ms", "disk-slow": "node2", "rate": "8Mbit/s", "for": "1s"},
        {"at": "600ms", "disk-full": ["node1", "node2"], "for": "500ms"},
        {"at": "700ms", "disk-gone": "node2", "for": "500ms"},
        {"at": "1s", "disk-corrupt": "node1"},
        {"at": "1500ms", "disk-readonly": "node1"},
        # Now node1 has to serve the whole model: half of it is on its disk, and damaged.
        {"at": "2s", "kill": "node2"},
    ],
)


def test_answers_do_not_depend_on_disks(tmp_path: Path) -> None:
    with world() as machine, started(machine, tmp_path, SPEC) as run:
        code, output = run.finish()
    assert code in (0, 4), output  # on a busy machine the emulation may be invalid
    assert run.record["outcome"] == "passed", output
    assert {row["outcome"] for row in run.rows("requests.csv")} == {"ok"}
    slow, full, gone, corrupt, readonly, kill = run.rows("faults.csv")
    assert all(row["effective_s"] for row in (slow, full, gone, corrupt, readonly, kill))
    told = {found["fault"]: found["detail"] for found in run.events() if found["event"] == "fault_effective"}
    assert told[0] == "1000000 bytes a second"
    assert told[1] == "node1: 0 bytes free; node2: 0 bytes free, 1000000 bytes a second"
    assert told[2] == "input/output errors"
    assert "flipped" in told[3]
    assert told[4] == "read-only"
    healed = {found["fault"]: found["detail"] for found in run.events() if found["event"] == "fault_healed"}
    assert (healed[1], healed[2], healed[0]) == (
        "node1: works; node2: input/output errors",
        "1000000 bytes a second",
        "works",
    )

    # Nobody needed a disk before the kill; then the damage was found and every weight fetched.
    assert not slow["detected_s"]
    assert not gone["detected_s"]
    for row in (corrupt, readonly):
        assert float(row["detected_s"]) > float(kill["effective_s"])
    troubles = [found["detail"] for found in run.events() if found["event"] == "storage_trouble"]
    assert any("damaged" in trouble for trouble in troubles)
    assert any("can't be written: Read-only file system" in trouble for trouble in troubles)
    (adopted,) = (found for found in run.events() if found["event"] == "plan_adopted" and found["epoch"] == 2)
    (stage,) = adopted["stages"]
    (deployed,) = (found for found in run.events() if found["event"] == "stage_deployed" and found["epoch"] == 2)
    assert deployed["bytes_sent"] > stage["weights_bytes"]
    assert {row["path"] for row in run.rows("requests.csv")[-4:]} == {"node1"}

"""A whole run whose dispatcher is killed, started again, and loses its power: nothing is lost or asked for twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.serving.journal import EPOCH_BLOCK
from tests.emulation.world import world
from tests.runner.real_run import experiment, started

pytestmark = [pytest.mark.root, pytest.mark.slow]

SPEC = experiment(
    compute={"mode": "calibrated"},
    workload={"kind": "closed", "in_flight": 4, "duration": "6s"},
    faults=[
        {"at": "1500ms", "restart": "dispatcher", "for": "200ms"},
        {"at": "3500ms", "reboot": "dispatcher", "for": "300ms"},
    ],
)


def test_a_dispatcher_that_comes_back_goes_on_where_it_was(tmp_path: Path) -> None:
    with world() as machine, started(machine, tmp_path, SPEC) as run:
        code, output = run.finish()
    assert code in (0, 4), output  # on a busy machine the emulation may be invalid
    assert run.record["outcome"] == "passed", output
    requests = run.rows("requests.csv")
    assert {row["outcome"] for row in requests} == {"ok"}
    # One life of the dispatcher after the other, each above all epochs of the one before.
    answered_in = sorted({(int(row["epoch"]) - 1) // EPOCH_BLOCK for row in requests})
    assert answered_in == [0, 1, 2]
    assert all(row["healed_s"] for row in run.rows("faults.csv"))
    again = [found for found in run.events() if found["event"] == "plan_adopted" and "again" in found["reason"]]
    assert len(again) == 2

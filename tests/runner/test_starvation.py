"""Heartbeats behind data: a link that is suddenly fifty times slower is no dead host."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.emulation.world import world
from tests.runner.real_run import experiment, started

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.alone]


def test_no_host_is_lost_on_a_link_throttled_to_1_mbit_while_it_carries_a_megabyte(tmp_path: Path) -> None:
    """A queue of a 50 Mbit/s link takes most of a second to drain at 1 Mbit/s; three missed heartbeats are 300 ms."""
    nodes = ("dispatcher", "node1", "node2")
    spec = experiment(
        hosts={name: {"cpu": 0.25, "memory": "96MiB"} for name in nodes},
        links=[{"between": [name, "s1"], "rate": "50Mbit/s", "delay": "10ms"} for name in nodes],
        model={"module": "tests.runner.tiny_model:wide", "input": [1, 3, 32, 32]},
        placement={"strategy": "even", "max_stages": 2},
        workload={"kind": "closed", "in_flight": 6, "duration": "4s"},
        faults=[{"at": f"{at}s", "throttle": ["node1", "s1"], "rate": "1Mbit/s", "for": "1s"} for at in (1, 3)],
    )
    with world() as machine:
        assert machine.testbed("clean").returncode == 0
        with started(machine, tmp_path / "run", spec) as run:
            code, output = run.finish()
        assert code in (0, 4), output
        first = min(run.rows("plan.csv"), key=lambda row: int(row["stage"]))
        second = max(run.rows("plan.csv"), key=lambda row: int(row["stage"]))
        assert (first["host"], float(second["transfer_mbit"]) > 8) == ("node1", True)
        assert [event for event in run.events() if event["event"] == "host_lost"] == []

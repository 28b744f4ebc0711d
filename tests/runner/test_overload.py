"""The verdict falls when the machine is overloaded on purpose, and where the file wants more of it than it can."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.emulation.world import World, world
from tests.runner.real_run import experiment, started

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(180)]


@pytest.fixture
def machine() -> Iterator[World]:
    with world() as found:
        yield found


@contextlib.contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Processes that want a core each, outside of the run."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait(10)


def test_busy_loops_beside_a_run_are_not_passed_over(machine: World, tmp_path: Path) -> None:
    spec = experiment(faults=[], workload={"kind": "closed", "in_flight": 4, "duration": "5s"})
    with (
        busy_loops(3 * len(os.sched_getaffinity(0))),
        started(machine, tmp_path, spec, "--quiet") as run,
    ):
        code, said = run.finish(120)
    record = run.record
    assert record["verdict"] in ("suspect", "invalid"), said
    assert code == {"suspect": 0, "invalid": 4}[record["verdict"]], said
    assert any("machine" in reason for reason in record["verdict_reasons"]), record["verdict_reasons"]
    failed = {row["check"] for row in run.rows("fidelity.csv") if row["ok"] == "false"}
    assert "cpu_saturated_pct" in failed


def test_a_file_may_ask_for_more(machine: World, tmp_path: Path) -> None:
    workload = {"kind": "closed", "in_flight": 4, "duration": "1s"}
    bars = {"scheduling_lateness": ["0ms", "0.001ms"]}  # no machine is that prompt
    with started(machine, tmp_path, experiment(faults=[], workload=workload, verdict=bars), "--quiet") as run:
        code, said = run.finish(120)
    assert code == 4, said
    assert "invalid" in said
    record = run.record
    assert (record["outcome"], record["verdict"]) == ("passed", "invalid")
    assert any(reason.startswith("machine: one wake-up in a hundred came over") for reason in record["verdict_reasons"])
    assert record["spec"]["verdict"]["scheduling_lateness_s"] == [0, 1e-6]
    (row,) = [row for row in run.rows("fidelity.csv") if row["check"] == "scheduling_lateness_p99_ms"]
    assert (row["requested"], row["ok"]) == ("0", "false")

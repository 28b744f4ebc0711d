"""A few cells of the matrix for real, through the benchmark's own command: they pass, and are not run again."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

from tests.emulation.world import world

CELLS = {
    "kill/host/standby/1": "recovered",
    "poweroff/dispatcher/skip/1": "unavailable",
    "disk-corrupt/bottleneck/replan/1": "recovered",
    "all-kill/many/restart/1": "unavailable",
}
DEADLINE_S = 110.0


@pytest.mark.root
@pytest.mark.slow
def test_cells_pass_and_are_kept(tmp_path: Path) -> None:
    table = tmp_path / "faults.csv"
    command = [sys.executable, "-m", "benchmarks.faults", "--parts", "matrix", "--only", *CELLS]
    command += ["--csv", str(table), "--results", str(tmp_path / "runs")]
    with world() as machine:
        done = machine.run(*command, check=False, timeout_s=DEADLINE_S)
        assert done.returncode == 0, done.stdout + done.stderr
        with table.open(newline="") as file:
            rows = list(csv.DictReader(file))
        found = {f"{row['kind']}/{row['target']}/{row['policy']}/{row['seed']}": row["outcome"] for row in rows}
        assert found == CELLS
        # Of cells that passed only the row is kept.
        assert [path.name for path in (tmp_path / "runs").iterdir() if path.is_dir() and not path.is_symlink()] == []
        before = table.read_bytes()
        again = machine.run(*command, check=False, timeout_s=DEADLINE_S)
        assert again.returncode == 0, again.stdout + again.stderr
        assert "4 of 4 cells" in again.stdout
        assert table.read_bytes() == before

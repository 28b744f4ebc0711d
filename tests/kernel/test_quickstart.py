"""An experiment from its file to its results on a kernel with netem, by the command that users call."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from testbed.emulation.manifest import RunManifest
from testbed.errors import EXIT_INVALID, EXIT_PASSED

# Most of it are imports of torch.
pytestmark = [pytest.mark.root, pytest.mark.kernel, pytest.mark.timeout(240)]

EXPERIMENT = Path(__file__).with_name("quickstart.yaml")


def _rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_experiment_survives_a_kill(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    command = [sys.executable, "-m", "testbed", "run", str(EXPERIMENT), "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    sys.stdout.write(done.stdout + done.stderr)
    # How well one slow CPU emulates a cluster is the verdict's business, and said in the listing.
    assert done.returncode in (EXIT_PASSED, EXIT_INVALID)
    (path,) = tmp_path.glob("kernel-*Z-1/run.json")
    record = json.loads(path.read_text())
    record_property("quickstart: verdict", record["verdict"])
    assert record["outcome"] == "passed"
    assert record["delay_backend"] == "netem"

    requests = _rows(path.parent / "requests.csv")
    assert requests
    assert {request["outcome"] for request in requests} == {"ok"}
    (fault,) = _rows(path.parent / "faults.csv")
    assert (fault["kind"], fault["target"]) == ("kill", "node2")
    outage_s = float(fault["recovered_s"]) - float(fault["effective_s"])
    record_property("quickstart: answers, and seconds from the kill to the next", f"{len(requests)}, {outage_s:.2f}")
    after = {stage["host"] for stage in _rows(path.parent / "plan.csv") if stage["epoch"] == "2"}
    assert after
    assert after <= {"node1", "spare"}
    assert RunManifest.load_all() == ()

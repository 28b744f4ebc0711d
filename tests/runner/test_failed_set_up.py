"""A system that fails before its workload began leaves a result that says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from runner.checker.check import check_run
from runner.csvfile import from_csv
from runner.experiment import Options, run
from runner.lab import Lab
from runner.preparation import Prepared, answer, planned
from testbed.errors import ExperimentError
from testbed.model.graph import ModelGraph
from testbed.spec import Experiment
from testbed.spec.hosts import ComputeSpec, HostSpec
from testbed.spec.inference import ModelSpec
from testbed.spec.links import LinkSpec
from testbed.spec.workload import ClosedWorkload

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.alone]

SHAPE = (1, 8)


def prepare(declared: Experiment, progress: Callable[[str], None]) -> Prepared:
    """A model of one layer."""
    torch.manual_seed(0)
    module = torch.nn.Linear(8, 8).eval()
    graph = ModelGraph.trace(module, SHAPE)
    return planned(declared, declared, graph, answer(module, [torch.ones(SHAPE)]), [0.001] * len(graph.ops))


def test_it_has_a_record_and_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(lab: Lab) -> None:
        raise ExperimentError("the start of the partition servers didn't happen within 30 s")

    monkeypatch.setattr(Lab, "start_nodes", fail)
    declared = Experiment(
        name="failed-set-up",
        hosts={"dispatcher": HostSpec(cpu=0.2), "node": HostSpec(cpu=0.2)},
        links=(LinkSpec(between=("dispatcher", "node")),),
        model=ModelSpec(module="tests.runner.test_failed_set_up:prepare", input=SHAPE),
        workload=ClosedWorkload(in_flight=1, duration_s=1),
        compute=ComputeSpec(mode="calibrated"),
    )
    with pytest.raises(ExperimentError, match="didn't happen"):
        run(declared, Options(tmp_path, prepare=prepare))
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir() and not path.is_symlink()]
    record = json.loads((folder / "run.json").read_text())
    assert record["outcome"] == "failed"
    reason = "the run failed: the start of the partition servers didn't happen within 30 s"
    assert reason in record["outcome_reasons"]
    assert "the workload never started" in record["outcome_reasons"]
    (row,) = from_csv((tmp_path / "runs.csv").read_bytes())
    assert (row["run"], row["outcome"], row["submitted"]) == (folder.name, "failed", "0")
    assert reason in row["reasons"]
    assert (folder / "report.html").exists()
    again = check_run(folder).ruling
    assert list(again.reasons) == record["outcome_reasons"]

"""What hosts find on their disks before the clock starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.outfit import Outfit
from runner.preparation import prepare
from testbed.serving.package import Package
from testbed.spec.loader import load_experiment
from tests.runner.real_run import experiment

PLACEMENT = {"strategy": "even", "max_stages": 2, "deploy": "prestaged"}


def stores(folder: Path, recovery: dict[str, Any]) -> tuple[dict[str, set[str]], list[set[str]]]:
    """The chunks on each worker's disk, and those of each stage, whose hosts are node1 and node2."""
    spec = experiment(placement=PLACEMENT, recovery=recovery, compute={"mode": "calibrated"}, faults=[])
    path = folder / "tiny.yaml"
    path.write_text(json.dumps(spec))
    prepared = prepare(load_experiment(path))
    assert [stage.host for stage in prepared.plan.stages] == ["node1", "node2"]
    outfit = Outfit(prepared, folder)
    outfit.write_model()
    found = {
        host: {file.name for file in Path(outfit.node(host)["store"]).iterdir()} for host in ("node1", "node2", "node3")
    }
    package = Package(outfit.package)
    return found, [set(package.parcel(stage.first_op, stage.last_op).chunk_ids) for stage in prepared.plan.stages]


@pytest.mark.parametrize(
    ("recovery", "kept"),
    [
        ({"policy": "replan"}, {"node1": {0}, "node2": {1}, "node3": set()}),
        ({"policy": "standby"}, {"node1": {0}, "node2": {1}, "node3": {0, 1}}),
        ({"policy": "standby", "replicas": 2}, {"node1": {0, 1}, "node2": {0, 1}, "node3": {0, 1}}),
    ],
)
def test_prestaged_weights_are_the_stages_own_and_the_copies_of_standbys(
    tmp_path: Path, recovery: dict[str, Any], kept: dict[str, set[int]]
) -> None:
    found, stages = stores(tmp_path, recovery)
    assert stages[0].isdisjoint(stages[1])
    assert found == {host: set().union(*(stages[index] for index in indexes)) for host, indexes in kept.items()}

"""Which capabilities of the machine an experiment asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.experiment import Options, needed
from testbed.spec import load_experiment


@pytest.mark.parametrize(
    ("switching", "wanted", "other"), [("bridge", "bridge", "openvswitch"), ("ovs", "openvswitch", "bridge")]
)
def test_kind_of_switch_decides(switching: str, wanted: str, other: str, repository: Path, tmp_path: Path) -> None:
    experiment = load_experiment(repository / "topologies" / "quickstart.yaml", [f"switching={switching}"])
    names = needed(experiment, Options(tmp_path))
    assert wanted in names
    assert other not in names

"""The machine's calibration: measured, kept where it belongs, and never taken from another machine."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from runner import calibration
from runner.calibration import machine_calibration, measure
from testbed.cli.calibrate import calibrate
from testbed.spec.devices import DEVICES, reference_models


@pytest.fixture
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that take no time."""
    monkeypatch.setattr(calibration, "load_model", lambda **_: torch.nn.Flatten())


def test_the_median_of_each_model_is_taken_without_the_warm_up(small_models: None) -> None:
    now_s = 0.0
    calls = 0

    def clock() -> float:
        nonlocal now_s, calls
        calls += 1
        now_s += 10.0 if calls < 2 * calibration.WARM_UPS else 0.25
        return now_s

    found = measure(repeats=5, clock=clock)
    assert set(found.model_s) == set(reference_models())
    assert found.model_s["resnet50"] == pytest.approx(0.25)


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder that calibrations go to."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("SUDO_UID", raising=False)
    monkeypatch.delenv("SUDO_GID", raising=False)
    return tmp_path


def test_a_damaged_calibration_is_measured_again(small_models: None, cache: Path) -> None:
    kept = machine_calibration()
    (file,) = cache.rglob("*.json")
    whole = file.read_text()
    for damage in ("{", "[]", '{"cpu_model": 1}', whole.replace("resnet18", "resnet")):
        file.write_text(damage)
        assert machine_calibration().model_s.keys() == kept.model_s.keys()
        assert file.read_text() != damage


def test_another_kernel_has_another_calibration(
    small_models: None, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_calibration()
    monkeypatch.setattr(platform, "release", lambda: "another")
    assert machine_calibration().kernel == "another"
    assert len(list(cache.rglob("*.json"))) == 2


def test_the_verb_measures_once_and_prints_devices(small_models: None, cache: Path) -> None:
    first = CliRunner().invoke(calibrate, [])
    assert first.exit_code == 0, first.output
    assert all(name in first.output for name in DEVICES)
    kept = machine_calibration()
    assert CliRunner().invoke(calibrate, []).exit_code == 0
    assert machine_calibration() == kept
    assert CliRunner().invoke(calibrate, ["--afresh"]).exit_code == 0
    assert machine_calibration() != kept

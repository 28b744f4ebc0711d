"""``compare-plans`` and ``pareto`` through the command line, on a small model."""

from __future__ import annotations

import csv
import errno
from pathlib import Path

import pytest

from testbed.cli.main import main
from testbed.planning.strategies import STRATEGIES

FILE = """\
name: compare
hosts:
  dispatcher: {cpu: 1}
  slow: {cpu: 0.1, memory: 40MiB}
  fast: {cpu: 0.4, memory: 34MiB}
switches: [s1]
links:
  - {between: [dispatcher, s1], rate: 50Mbit/s}
  - {between: [slow, s1], rate: 20Mbit/s}
  - {between: [fast, s1], rate: 20Mbit/s}
model: {module: "tests.runner.tiny_model:tiny_net", input: [1, 3, 32, 32]}
workload: {kind: closed, in_flight: 4, duration: 30s}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "topo.yaml").write_text(FILE)
    return tmp_path / "topo.yaml"


def _rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_a_row_a_strategy(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare-plans", str(file), "--csv", str(tmp_path / "plans.csv")]) == 0
    rows = _rows(tmp_path / "plans.csv")
    assert [row["strategy"] for row in rows] == list(STRATEGIES)
    found = {row["strategy"]: row for row in rows}
    assert found["exact"]["gap"] == "0"
    assert float(found["min-latency"]["latency_s"]) <= min(
        float(row["latency_s"]) for row in rows if row["latency_s"] != "NA"
    )
    assert all((row["bottleneck_s"] == "NA") == (row["stages"] == "NA") for row in rows)
    assert all(row["reason"] for row in rows if row["stages"] == "NA")
    told = capsys.readouterr().out
    assert "bottleneck_s" in told
    assert f"single: {found['single']['reason']}" in told.replace("\n", " ") or found["single"]["reason"] == ""


def test_an_infeasible_strategy_is_a_row_not_a_failure(file: Path, tmp_path: Path) -> None:
    """Neither does the file's own strategy matter: none is feasible here."""
    arguments = ["compare-plans", str(file), "--strategies", "single,exact", "--csv", str(tmp_path / "plans.csv")]
    for host in ("slow", "fast"):
        arguments += ["--set", f"hosts.{host}.memory=33MiB"]
    assert main(arguments) == 0
    rows = _rows(tmp_path / "plans.csv")
    assert [row["bottleneck_s"] for row in rows] == ["NA", "NA"]
    assert all("memory" in row["reason"] for row in rows)


def test_an_unknown_strategy(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare-plans", str(file), "--strategies", "exact,k-pth"]) == 2
    assert "did you mean 'k-path'" in capsys.readouterr().err


@pytest.mark.parametrize(("verb", "option"), [("compare-plans", "--csv"), ("pareto", "--csv"), ("pareto", "--png")])
def test_a_file_without_a_folder_is_refused_before_any_work(
    verb: str, option: str, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, str(file), option, str(tmp_path / "no" / "a.csv")]) == 2
    said = capsys.readouterr().err
    assert "can't be written: there is no folder" in said
    assert "loading" not in said


def test_a_file_that_cannot_be_written(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert main(["compare-plans", str(file), "--strategies", "even", "--csv", str(tmp_path / "a.csv")]) == 2
    assert "can't be written: No space left on device" in capsys.readouterr().err


def test_the_front_as_csv_and_png(file: Path, tmp_path: Path) -> None:
    table, picture = tmp_path / "front.csv", tmp_path / "front.png"
    assert main(["pareto", str(file), "--aims", "latency,energy", "--csv", str(table), "--png", str(picture)]) == 0
    rows = _rows(table)
    latencies = [float(row["latency_s"]) for row in rows]
    energies = [float(row["energy_j"]) for row in rows]
    assert latencies == sorted(latencies)
    assert energies == sorted(energies, reverse=True)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_an_unknown_aim(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pareto", str(file), "--aims", "latency,speed"]) == 2
    assert "no aim 'speed'" in capsys.readouterr().err

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks import planning, planning_exact
from benchmarks.planning_clusters import FAMILIES, attempt, problem
from benchmarks.planning_rows import Options, Row
from benchmarks.planning_seifer import rows as seifer_rows
from testbed.planning.plan import Plan
from testbed.planning.problem import Chain


@pytest.mark.parametrize(
    ("value", "low", "high", "ok"),
    [
        (1.0, -math.inf, math.inf, True),
        (math.nan, -math.inf, math.inf, True),
        (1.0, 1.0, 1.0, True),
        (0.9, 1.0, math.inf, False),
        (1.1, -math.inf, 1.0, False),
        (math.nan, -math.inf, 1.0, False),
    ],
)
def test_a_row_is_held_against_its_bar(value: float, low: float, high: float, ok: bool) -> None:
    row = Row("s", "c", "m", value, low, high)
    assert row.ok == ok
    assert row.has_bar == (math.isfinite(low) or math.isfinite(high))


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *rows: Row) -> tuple[int, list[dict[str, str]]]:
    def given(options: Options) -> Iterator[Row]:
        assert options == Options(True, None, 7)
        yield from rows

    monkeypatch.setattr(planning, "sections", lambda: {"s": given})
    monkeypatch.setattr(planning, "PAPER", folder / "none")
    status = planning.main(["--quick", "--seed", "7", "--csv", str(folder / "made" / "rows.csv")])
    with (folder / "made" / "rows.csv").open(newline="", encoding="utf-8") as file:
        return status, list(csv.DictReader(file))


def test_the_table_and_the_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = Row("s", "here", "ratio", 1.0, high=2.0), Row("s", "there", "ratio", 3.0, high=2.0, reference=1.5)
    plain = Row("s", "anywhere", "s", math.nan, note="only told")
    status, rows = run(monkeypatch, tmp_path, good, plain)
    assert status == 0
    assert [row["ok"] for row in rows] == ["true", ""]
    assert rows[1]["value"] == "nan"
    status, rows = run(monkeypatch, tmp_path, good, bad, plain)
    assert status == 1
    assert rows[1] == {
        "section": "s",
        "case": "there",
        "measure": "ratio",
        "value": "3",
        "reference": "1.5",
        "low": "",
        "high": "2",
        "ok": "false",
        "note": "",
    }
    printed = capsys.readouterr().out
    assert "No published data" in printed
    assert "OVER" in printed
    assert "1 of 2 rows are within their bars" in printed


def test_a_paper_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        planning.main(["--paper", str(tmp_path / "none")])
    assert caught.value.code == 2


def test_sections_are_found() -> None:
    assert {"seifer", "exact"} <= set(planning.sections())


def test_seifer_without_published_data_says_so() -> None:
    (row,) = seifer_rows(Options(True, None))
    assert row.case == "not measured"
    assert row.note == "give --paper DIR"


CHAIN = Chain(
    boundary_ops=(0, 2, 3, 5, 9),
    boundary_bits=(1e6, 8e6, 4e6, 2e6, 1e4),
    weight_bytes=(1 << 20, 2 << 20, 30 << 20, 20 << 20),
    activation_bytes=(3 << 20, 2 << 20, 1 << 20, 1 << 20),
    compute_s=(0.01, 0.02, 0.03, 0.04),
)
FINE = Chain(
    boundary_ops=tuple(range(17)),
    boundary_bits=(1e6, *(float(8 - segment % 4) * 1e6 for segment in range(15)), 1e4),
    weight_bytes=(2 << 20,) * 16,
    activation_bytes=(3 << 20,) * 16,
    compute_s=(0.01, 0.02, 0.01, 0.03) * 4,
)


def test_cuts_made_first_leave_only_the_placement() -> None:
    merged = planning_exact.merged(CHAIN, (0, 2, 4))
    assert merged.boundary_ops == (0, 3, 9)
    assert merged.boundary_bits == (1e6, 4e6, 1e4)
    assert merged.weight_bytes == (3 << 20, 50 << 20)
    assert merged.activation_bytes == (3 << 20, 1 << 20)
    assert merged.compute_s == pytest.approx((0.03, 0.07))


@pytest.mark.parametrize("family", FAMILIES)
def test_no_scheme_beats_the_joint_optimum(family: str) -> None:
    posed = problem(family, 6, FINE, np.random.default_rng(1), 10.0)
    best = attempt(posed, "exact")
    assert isinstance(best, Plan)
    assert planning_exact.legal(posed, best)
    found = planning_exact.schemes(posed)
    assert found
    assert all(bottleneck_s >= best.bottleneck_s * (1 - 1e-9) for bottleneck_s in found.values())


def test_the_hard_family_is_at_the_edge_of_its_memory() -> None:
    posed = problem("htight", 4, FINE, np.random.default_rng(1), 10.0)
    assert isinstance(attempt(posed, "exact"), Plan)
    shrunk = [worker.memory_bytes for worker in posed.workers]
    assert len(set(shrunk)) == 4

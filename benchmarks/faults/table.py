"""The matrix's CSV: a row a cell, read again so that what is done isn't done twice."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults.cells import Cell
from benchmarks.faults.judgement import FAILED, Judgement

COLUMNS = (
    "kind",
    "target",
    "policy",
    "seed",
    "outcome",
    "detection_s",
    "recovery_s",
    "downtime_s",
    "answered",
    "rejected",
    "verdict",
    "took_s",
    "reason",
    "folder",
    "spec_sha256",
)


@dataclass(frozen=True, slots=True)
class Row:
    """A cell that was run.

    Attributes:
        cell: Which.
        judgement: What it came to.
        verdict: Of the emulation itself; a busy machine makes it suspect, and answers no less right.
        took_s: For all of it.
        folder: The run's folder, where it is kept; empty otherwise.
        spec_sha256: Of its experiment: a cell whose settings have changed is another one.
    """

    cell: Cell
    judgement: Judgement
    verdict: str
    took_s: float
    folder: str
    spec_sha256: str

    @property
    def failed(self) -> bool:
        """Whether the system, or the benchmark, has to be mended."""
        return self.judgement.outcome == FAILED

    def cells(self) -> tuple[str, ...]:
        """As ``COLUMNS``; what didn't happen is empty."""
        cell, found = self.cell, self.judgement

        def seconds(value_s: float) -> str:
            return "" if math.isnan(value_s) else f"{value_s:.4f}"

        return (
            *(cell.kind, cell.target, cell.policy, str(cell.seed), found.outcome),
            *map(seconds, (found.detection_s, found.recovery_s, found.downtime_s)),
            *(str(found.answered), str(found.rejected), self.verdict, f"{self.took_s:.1f}"),
            *(found.reason, self.folder, self.spec_sha256),
        )

    def line(self) -> str:
        """For people."""
        found = self.judgement

        def seconds(value_s: float) -> str:
            return "-" if math.isnan(value_s) else f"{value_s:.3f}"

        text = (
            f"{self.cell.kind:<19}{self.cell.target:<11}{self.cell.policy:<9}{self.cell.seed:>4}  {found.outcome:<12}"
            f"{seconds(found.detection_s):>11}{seconds(found.recovery_s):>11}{seconds(found.downtime_s):>11}"
            f"{found.answered:>9}{found.rejected:>9}  {found.reason}"
        ).rstrip()
        return f"{text}\n    its run: {self.folder}" if self.failed else text


HEADER = (
    f"{'kind':<19}{'target':<11}{'policy':<9}{'seed':>4}  {'outcome':<12}{'detection_s':>11}{'recovery_s':>11}"
    f"{'downtime_s':>11}{'answered':>9}{'rejected':>9}"
)


def read(path: Path) -> Mapping[Cell, Row]:
    """The rows that are there already, by cell; the last one of a cell counts."""
    if not path.exists():
        return {}

    def seconds(text: str) -> float:
        return float(text) if text else math.nan

    rows: dict[Cell, Row] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            if any(line.get(column) is None for column in COLUMNS):
                continue  # cut off when an earlier benchmark was killed
            cell = Cell(line["kind"], line["target"], line["policy"], int(line["seed"]))
            judgement = Judgement(
                line["outcome"],
                line["reason"],
                seconds(line["detection_s"]),
                seconds(line["recovery_s"]),
                seconds(line["downtime_s"]),
                int(line["answered"]),
                int(line["rejected"]),
            )
            rows[cell] = Row(
                cell, judgement, line["verdict"], float(line["took_s"]), line["folder"], line["spec_sha256"]
            )
    return rows


def write(path: Path, rows: Mapping[Cell, Row]) -> None:
    """All rows, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    with beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(row.cells() for row in rows.values())
    beside.replace(path)

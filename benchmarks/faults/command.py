"""Nothing lost, doubled or wrong: every kind of fault, on everything that it can strike, under every policy.

Each cell of the matrix is a run of its own: a dispatcher and five workers with small shares (calibrated), three of
which have a stage of a small residual network; a few seconds of requests, a fault or several, and what the checker
says of the run's tables. A cell must be in service again in the end; where what is left can't serve, it must say that
it is unavailable, and why, and reject by their deadline what it can't answer.

    sudo .venv/bin/python -m benchmarks.faults --quick
    sudo .venv/bin/python -m benchmarks.faults --only kill /dispatcher/ standby/1
    .venv/bin/python -m benchmarks.faults --list

A cell that has passed, with the same settings, isn't run again: the matrix goes on where it was stopped. ``--quick``
runs a drawn set of cells, always the same, that has every kind, and every target under every policy; ``--cells 150``
has every pair of kind, target and policy. Then come the bars of detection and recovery (:mod:`.bars`), in a CSV of
their own beside the matrix's. Ends with 1 when a cell has failed, or a figure is over its bar.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.faults import bars, table
from benchmarks.faults.bench import Bench
from benchmarks.faults.cells import Cell, all_cells, cover
from benchmarks.faults.judgement import FAILED
from benchmarks.planning import COLUMNS, cells, line
from benchmarks.planning_rows import Row
from testbed.emulation.machine import require_root

REPOSITORY = Path(__file__).resolve().parents[2]
PARTS = ("matrix", "bars")
QUICK_CELLS = 40
BAR_RUNS = 3
"""Of each experiment; each has several faults."""


def chosen(only: Sequence[str], count: int | None = None) -> tuple[Cell, ...]:
    """The cells that the command line asks for: all, or so many that stand for all, those that tell most first."""
    cells = all_cells() if count is None else cover(all_cells(), count)
    return tuple(cell for cell in cells if not only or any(word in f"{cell.name}/" for word in only))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run cells, print and write their rows; 1 if one has failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_CELLS} cells and fewer runs: at most 10 minutes")
    parser.add_argument("--cells", type=int, metavar="N", help="N cells that stand for all, those that tell most first")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--only", nargs="+", default=(), metavar="PART", help="cells whose name has one of these parts")
    parser.add_argument("--list", action="store_true", help="print the names of the cells, and run nothing")
    parser.add_argument("--csv", type=Path, default=REPOSITORY / "results" / "faults.csv", metavar="FILE")
    parser.add_argument("--results", type=Path, default=REPOSITORY / "results" / "faults", metavar="DIR",
                        help="where the runs of cells that failed stay")  # fmt: skip
    parser.add_argument("--keep", action="store_true", help="keep the runs of cells that passed too")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no cell after so long; go on next time")
    parser.add_argument("--afresh", action="store_true", help="run again what is in the CSV already")
    given = parser.parse_args(arguments)
    count = QUICK_CELLS if given.quick and given.cells is None else given.cells
    wanted = chosen(given.only, count) if "matrix" in given.parts else ()
    if "matrix" in given.parts and not wanted:
        parser.error(f"--only {' '.join(given.only)}: no cell has such a name; --list prints them")
    if given.list:
        print("\n".join(cell.name for cell in wanted))
        return 0
    require_root()
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(given.results, Path(work), lambda text: print(text, file=sys.stderr), keep=given.keep)
        failed = _matrix(bench, wanted, given) if wanted else 0
        if "bars" in given.parts:
            beside = given.csv.with_name(f"{given.csv.stem}-bars.csv")
            failed += _bars(bench, 1 if given.quick else BAR_RUNS, beside)
    return int(failed > 0)


def _matrix(bench: Bench, wanted: Sequence[Cell], given: argparse.Namespace) -> int:
    """Run what isn't done yet; returns how many cells have failed."""
    done = dict(table.read(given.csv))
    rows: list[table.Row] = []
    end_s = time.monotonic() + 60 * given.minutes
    print(table.HEADER)
    for cell in wanted:
        experiment = bench.experiment(cell)
        row = done.get(cell)
        if given.afresh or row is None or row.failed or row.spec_sha256 != experiment.sha256():
            if time.monotonic() > end_s:
                continue
            row = done[cell] = bench.run(cell, experiment)
            table.write(given.csv, done)
            print(row.line(), flush=True)
        rows.append(row)
    outcomes = Counter(row.judgement.outcome for row in rows)
    told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    print(f"{len(rows)} of {len(wanted)} cells: {told}; all rows are in {given.csv}\n")
    return outcomes[FAILED]


def _bars(bench: Bench, runs: int, path: Path) -> int:
    """Measure detection and recovery; returns how many figures are over their bars."""
    folders = {
        name: [bench.measure(f"{name}-{number}", make()) for number in range(runs)]
        for name, make in bars.EXPERIMENTS.items()
    }
    rows: list[Row] = list(bars.rows(folders))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(map(cells, rows))
    print("\n".join(map(line, rows)), flush=True)
    return sum(not row.ok for row in rows)

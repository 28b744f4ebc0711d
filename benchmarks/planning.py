"""Are our strategies those of the papers, and is ``exact`` the optimum, fast? A table, a CSV, and a bar for each claim.

Sections are the modules ``benchmarks/planning_*.py`` that have a function ``rows(options)``.

    python -m benchmarks.planning --quick
    python -m benchmarks.planning --paper ../shared/paper --sections seifer --csv rows.csv

Ends with 1 when a row is over its bar, with 2 when the command line is wrong.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import math
import pkgutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import benchmarks
from benchmarks.ending import ended
from benchmarks.planning_rows import Options, Row

REPOSITORY = Path(__file__).resolve().parents[1]
PAPER = REPOSITORY.parent / "shared" / "paper"
COLUMNS = ("section", "case", "measure", "value", "reference", "low", "high", "ok", "note")
Section = Callable[[Options], Iterator[Row]]


def sections() -> Mapping[str, Section]:
    """The functions that give rows, by section: ``planning_seifer`` is ``seifer``."""
    found: dict[str, Section] = {}
    for module in pkgutil.iter_modules(benchmarks.__path__):
        if module.name.startswith("planning_"):
            rows = getattr(importlib.import_module(f"benchmarks.{module.name}"), "rows", None)
            if rows is not None:
                found[module.name.removeprefix("planning_")] = rows
    return found


def cells(row: Row) -> tuple[str, ...]:
    """A row as ``COLUMNS``; what is not known, or no bar, is empty."""

    def number(value: float) -> str:
        return f"{value:.10g}" if math.isfinite(value) else ""

    # A value that is infinite or not a number is a finding, a bar that is infinite is none.
    value = number(row.value) or str(row.value)
    bar = (number(row.reference), number(row.low), number(row.high))
    return (row.section, row.case, row.measure, value, *bar, str(row.ok).lower() if row.has_bar else "", row.note)


def line(row: Row) -> str:
    """A row for people."""
    bar = ""
    if row.has_bar:
        low = f"{row.low:.4g} ≤ " if row.low > -math.inf else ""
        high = f" ≤ {row.high:.4g}" if row.high < math.inf else ""
        bar = f"{low}·{high}"
    reference = "" if math.isnan(row.reference) else f"{row.reference:.4g}"
    verdict = ("ok" if row.ok else "OVER") if row.has_bar else ""
    return f"{row.case:44}{row.measure:34}{row.value:>11.4g}{reference:>11}  {bar:25}{verdict:5} {row.note}".rstrip()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run sections, print and write their rows."""
    known = sections()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer instances: at most 10 minutes for all sections")
    parser.add_argument("--paper", type=Path, metavar="DIR", help=f"folder of published data (default: {PAPER.name}/ "
                        "in ../shared beside the checkout, if there)")  # fmt: skip
    parser.add_argument("--sections", nargs="+", choices=sorted(known), default=sorted(known), metavar="NAME",
                        help=f"of {', '.join(sorted(known))}; all by default")  # fmt: skip
    parser.add_argument("--csv", type=Path, default=REPOSITORY / "results" / "planning.csv", metavar="FILE")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    if given.paper is not None and not given.paper.is_dir():
        parser.error(f"--paper: {given.paper} is no folder")
    paper = given.paper or (PAPER if PAPER.is_dir() else None)
    if paper is None:
        print(f"No published data: {PAPER} is not there and no --paper was given. Sections that need it say so.\n")
    options = Options(given.quick, paper, given.seed)

    over = count = 0
    given.csv.parent.mkdir(parents=True, exist_ok=True)
    with given.csv.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for name in given.sections:
            started_s = time.monotonic()
            print(f"{name}\n{'case':44}{'measure':34}{'value':>11}{'reference':>11}  bar")
            for row in known[name](options):
                writer.writerow(cells(row))
                file.flush()
                print(line(row), flush=True)
                count += row.has_bar
                over += not row.ok
            print(f"({time.monotonic() - started_s:.0f} s)\n", flush=True)
    print(f"{count - over} of {count} rows are within their bars; all rows are in {given.csv}")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(ended(main))

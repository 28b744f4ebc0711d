"""Rows of the fidelity benchmarks, and the table and CSV that they make."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.ending import ended
from testbed.emulation.machine import require_root


@dataclass(frozen=True, slots=True)
class Row:
    """One figure against its bar; ``error`` and ``bar`` have the unit that ``unit`` names, infinite for no bar."""

    what: str
    subject: str
    expected: float
    measured: float
    error: float
    bar: float
    unit: str

    @property
    def ok(self) -> bool:
        """Whether it is within its bar."""
        return abs(self.error) <= self.bar


Parts = Mapping[str, Callable[[bool], Iterator[Row]]]
"""Parts of a benchmark by name; each is told whether to be quick."""


def measure(description: str | None, parts: Parts, quick: str, csv_name: str) -> int:
    """The command line of a fidelity benchmark.

    Args:
        description: Its docstring.
        parts: What can be measured.
        quick: What ``--quick`` means.
        csv_name: Where the CSV goes unless told.

    Returns:
        Its exit code: 1 if a row is over its bar.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--only", nargs="+", choices=list(parts), default=list(parts), metavar="PART")
    parser.add_argument("--csv", type=Path, default=Path(csv_name))
    return ended(functools.partial(_measured, parts, parser.parse_args()))


def _measured(parts: Parts, arguments: argparse.Namespace) -> int:
    require_root()
    rows: list[Row] = []
    print(f"{'what':<31}{'subject':<28}{'expected':>10}{'measured':>10}{'error':>9}{'bar':>7} unit")
    for part in arguments.only:
        for row in parts[part](arguments.quick):
            rows.append(row)
            bar = f"{row.bar:>7.3g}" if math.isfinite(row.bar) else f"{'-':>7}"
            print(
                f"{row.what:<31}{row.subject:<28}{row.expected:>10.4g}{row.measured:>10.4g}{row.error:>+9.2f}{bar} "
                f"{row.unit}{'' if row.ok else '  OVER'}",
                flush=True,
            )
    with arguments.csv.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(field.name for field in dataclasses.fields(Row)), "ok"])
        writer.writerows([*dataclasses.astuple(row), row.ok] for row in rows)
    return int(not all(row.ok for row in rows))

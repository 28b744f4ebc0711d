"""The tables of a run's folder, cell by cell, each with the line that it is on."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.left_out import Runs, from_text
from runner.results import RUN_FILE, TABLES
from testbed.errors import UsageError

NUMBERS = ("_s", "_ms", "_mib", "_mbit", "_mbit_s", "_rps", "_pct", "_share")
"""Ends of the names of columns with numbers."""
COUNTS = frozenset(
    {
        *("id", "stage", "epoch", "answers", "attempts", "replayed", "bytes_in", "bytes_out", "first_op", "last_op"),
        *("drops", "backlog_bytes", "oom_kills", "lost_requests"),
    }
)
"""Columns with whole numbers, but for those of ``MIXED``."""
MIXED = frozenset({("hosts.csv", "stage")})
"""A host may have several stages, separated by spaces."""


class DamagedFile(UsageError):  # noqa: N818 - named like its siblings in testbed.errors would be wordier
    """A file of a run's folder can't be read as what it should be."""


@dataclass(frozen=True, slots=True)
class Line:
    """A row of a table.

    Attributes:
        file: The table's name.
        number: Its first line in the file, counted from 1.
        cells: Their text.
        columns: The place of each column.
    """

    file: str
    number: int
    cells: tuple[str, ...]
    columns: Mapping[str, int]

    def text(self, column: str) -> str:
        """The cell as it is."""
        return self.cells[self.columns[column]]

    def words(self, column: str) -> tuple[str, ...]:
        """What spaces separate."""
        return tuple(self.text(column).split())

    def maybe(self, column: str) -> float | None:
        """A number; None if the cell is empty."""
        text = self.text(column)
        if not text:
            return None
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if math.isnan(number):
            raise self.damage(f"{column} is no number: {text!r}")
        return number

    def number_of(self, column: str) -> float:
        """A number."""
        number = self.maybe(column)
        if number is None:
            raise self.damage(f"{column} is empty")
        return number

    def maybe_count(self, column: str) -> int | None:
        """A whole number from 0; None if the cell is empty."""
        text = self.text(column)
        if not text:
            return None
        if not (text.isascii() and text.isdigit()):
            raise self.damage(f"{column} is no whole number: {text!r}")
        return int(text)

    def count(self, column: str) -> int:
        """A whole number from 0."""
        number = self.maybe_count(column)
        if number is None:
            raise self.damage(f"{column} is empty")
        return number

    def flag(self, column: str) -> bool:
        """``true`` or ``false``."""
        text = self.text(column)
        if text not in ("true", "false"):
            raise self.damage(f"{column} is neither true nor false: {text!r}")
        return text == "true"

    def runs(self, column: str) -> Runs:
        """Runs of operations, ``FIRST-LAST`` each."""
        text = self.text(column)
        try:
            return from_text(text)
        except ValueError:
            raise self.damage(f"{column} tells of no operations: {text!r}") from None

    def damage(self, what: str) -> DamagedFile:
        """An error that names this line."""
        return DamagedFile(f"{self.file}:{self.number}: {what}", remedy="The file was damaged, or changed by hand.")


Tables = Mapping[str, tuple[Line, ...]]


def read_folder(folder: Path) -> Tables:
    """All tables of a run.

    Raises:
        UsageError: If the folder isn't one of a run.
        DamagedFile: If a table can't be read; the message names the line.
    """
    found = {}
    for name in TABLES:
        try:
            data = (folder / name).read_bytes()
        except OSError as error:
            raise UsageError(
                f"{folder}: not the folder of a finished run: {name}: {error.strerror}",
                remedy="Name the folder that a run made, such as results/latest.",
            ) from error
        found[name] = read_table(name, data)
    return found


def read_record(folder: Path) -> dict[str, Any]:
    """The content of ``run.json``.

    Raises:
        UsageError: If there is none: the run isn't finished.
        DamagedFile: If it is no JSON object.
    """
    try:
        data = (folder / RUN_FILE).read_bytes()
    except OSError as error:
        raise UsageError(
            f"{folder}: not the folder of a finished run: {RUN_FILE}: {error.strerror}",
            remedy="Name the folder that a run made, such as results/latest.",
        ) from error
    try:
        record = json.loads(data)
    except json.JSONDecodeError as error:
        raise DamagedFile(f"{RUN_FILE}:{error.lineno}: no JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise DamagedFile(f"{RUN_FILE}:{_line_of(data, error.start)}: not UTF-8") from error
    if not isinstance(record, dict):
        raise DamagedFile(f"{RUN_FILE}:1: no JSON object")
    return record


def read_table(name: str, data: bytes) -> tuple[Line, ...]:
    """The rows of a table; cells of columns that hold numbers are known to be numbers.

    Raises:
        DamagedFile: Not UTF-8, no CSV, a column missing, a row of another length, a cell that is no number.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise DamagedFile(f"{name}:{_line_of(data, error.start)}: not UTF-8") from error
    if not text.endswith("\n"):
        # A line that was cut off in a number would still be one.
        raise DamagedFile(f"{name}:{text.count(chr(10)) + 1}: the last line is cut off")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines: list[Line] = []
    began = 1
    try:
        header = next(reader, [])
        missing = [column for column in TABLES[name][0] if column not in header]
        if missing:
            raise DamagedFile(
                f"{name}:1: the column {missing[0]} is missing",
                remedy="Was the run made by another version of the testbed? Check it with that one.",
            )
        began = reader.line_num + 1
        columns = {column: place for place, column in enumerate(header)}
        for cells in reader:
            if len(cells) != len(header):
                raise DamagedFile(f"{name}:{began}: {len(cells)} cells instead of {len(header)}")
            lines.append(Line(name, began, tuple(cells), columns))
            began = reader.line_num + 1
    except csv.Error as error:
        raise DamagedFile(f"{name}:{began}: no CSV: {error}") from error
    numbers = [column for column in header if column.endswith(NUMBERS)]
    counts = [column for column in header if column in COUNTS and (name, column) not in MIXED]
    for line in lines:
        for column in numbers:
            line.maybe(column)
        for column in counts:
            line.maybe_count(column)
    return tuple(lines)


def _line_of(data: bytes, offset: int) -> int:
    return data.count(b"\n", 0, offset) + 1

"""CSV files as RFC 4180 has them: comma, CRLF, quotes where needed.

Decimals have a ``.`` and never an exponent; what is unknown is empty.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence

Cell = str | int | float | bool | None
Row = Mapping[str, Cell]


def format_cell(value: Cell) -> str:
    """The text of a cell: floats with at most six decimals, ``true``/``false``, empty for None and NaN."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        if math.isinf(value):
            return "inf" if value > 0 else "-inf"
        text = f"{value:.6f}".rstrip("0").rstrip(".")
        return "0" if text == "-0" else text
    return str(value)


def to_csv(columns: Sequence[str], rows: Iterable[Row], *, header: bool = True) -> bytes:
    """The file's bytes, in UTF-8.

    Raises:
        ValueError: If a row has not exactly these columns.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    if header:
        writer.writerow(columns)
    for row in rows:
        if set(row) != set(columns):
            raise ValueError(f"a row has the columns {sorted(row)}, the table {sorted(columns)}")
        writer.writerow([format_cell(row[column]) for column in columns])
    return text.getvalue().encode()


def from_csv(data: bytes) -> list[dict[str, str]]:
    """The rows of a file, every cell as text.

    Raises:
        ValueError: If a row has more or fewer cells than the header.
    """
    reader = csv.reader(io.StringIO(data.decode(), newline=""), strict=True)
    try:
        header = next(reader, [])
        return [dict(zip(header, row, strict=True)) for row in reader]
    except csv.Error as error:
        raise ValueError(f"no CSV: {error}") from error

"""A table of what accuracy a model loses where, as ``placement.accuracy`` names it.

The CSV file has the columns ``host``, ``op`` and ``loss``: points of accuracy that the model loses when its operation
number ``op`` (from 0, as ``plan`` shows them) runs on ``host``. Losses of operations add up; what isn't named loses
nothing.
"""

from __future__ import annotations

import bisect
import csv
import math
from collections.abc import Sequence
from pathlib import Path

from testbed.errors import SpecError
from testbed.planning.problem import Chain

COLUMNS = ("host", "op", "loss")


def accuracy_losses(file: Path, workers: Sequence[str], chain: Chain) -> dict[str, tuple[float, ...]]:
    """What each segment of a chain loses on each host of the table.

    Raises:
        SpecError: If the file can't be read, or a row names no worker, no operation of the model, or no number.
    """
    found = {host: [0.0] * chain.segments for host in workers}
    named: set[str] = set()
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            reader = csv.DictReader(lines, strict=True)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise SpecError(
                    f"its columns are {', '.join(reader.fieldnames or ()) or 'missing'}",
                    file=file,
                    line=1,
                    remedy=f"the first line must be {','.join(COLUMNS)}",
                )
            for row in reader:
                host, op, loss = _row(row, file, reader.line_num, workers, chain)
                found[host][bisect.bisect_right(chain.boundary_ops, op) - 1] += loss
                named.add(host)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SpecError(f"the table of accuracy can't be read: {error}", file=file) from error
    return {host: tuple(losses) for host, losses in found.items() if host in named}


def _row(row: dict[str, str], file: Path, line: int, workers: Sequence[str], chain: Chain) -> tuple[str, int, float]:
    host, last = row["host"], chain.boundary_ops[-1] - 1
    if host not in workers:
        raise SpecError(f"{host!r} is no worker", file=file, line=line, remedy=f"workers: {', '.join(workers)}")
    try:
        op, loss = int(row["op"]), float(row["loss"])
    except (TypeError, ValueError):
        op, loss = -1, math.nan
    if not 0 <= op <= last or not math.isfinite(loss):
        raise SpecError(
            f"{row['op']!r}, {row['loss']!r} is no operation with its loss",
            file=file,
            line=line,
            remedy=f"op is a whole number from 0 to {last}, loss a number",
        )
    return host, op, loss

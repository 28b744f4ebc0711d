"""The timeline of an earlier run, from its ``faults.csv``."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from testbed.errors import SpecError
from testbed.spec.document import Node, parse

_REMEDY = "name the faults.csv of a run; its column entry has the timeline"


def with_timeline_of(document: Node, path: Path) -> Node:
    """The tree with the faults that a table tells of, in place of those that it has.

    Args:
        document: The tree of the experiment; it isn't changed.
        path: A ``faults.csv``.

    Raises:
        SpecError: If it can't be read, or isn't one.
    """
    option = f"--replay {path}"
    faults = Node(tuple(_entries(path)), option=option)
    values: Mapping[str, Node] = document.value if isinstance(document.value, Mapping) else {}
    others = {key: node for key, node in values.items() if key not in ("faults", "chaos")}
    return replace(document, value={**others, "faults": faults})


def _entries(path: Path) -> Iterator[Node]:
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            if reader.fieldnames is None or not {"id", "entry"} <= set(reader.fieldnames):
                raise SpecError("is no table of faults", override=f"--replay {path}", remedy=_REMEDY)
            rows = [(row["id"], row["entry"]) for row in reader]
    except OSError as error:
        raise SpecError(f"can't read it: {error.strerror}", override=f"--replay {path}", remedy=_REMEDY) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise SpecError("is no table of faults", override=f"--replay {path}", remedy=_REMEDY) from error
    for number, text in sorted(rows, key=lambda row: (len(row[0] or ""), row[0] or "")):
        yield parse(text or "", option=f"--replay {path}, fault {number}")

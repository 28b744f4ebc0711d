"""The table of mounts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

MOUNTS = Path("/proc/self/mounts")


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted file system.

    Attributes:
        target: Where it is mounted.
        kind: Its type, such as ``cgroup2``.
        options: Its options.
    """

    target: Path
    kind: str
    options: tuple[str, ...]


def read_mounts(table: Path = MOUNTS) -> tuple[Mount, ...]:
    """All mounts that this process sees, in the order in which they were made."""
    found = []
    for line in table.read_text().splitlines():
        _, target, kind, options, *_ = line.split(" ")
        # The kernel writes space, tab, newline and backslash as three octal digits.
        path = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), target))
        found.append(Mount(path, kind, tuple(options.split(","))))
    return tuple(found)

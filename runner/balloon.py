"""Uses up a host's memory until the kernel has to kill for it.

Version 1 of control groups refuses a limit below what is in use, so a squeezed host would live on until it happens to
need another page. A balloon takes that page: it joins the host's memory control group, and takes more until the kernel
has killed; that is the server, which is offered first.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STEP_BYTES = 64 << 10
CHOSEN_FIRST = "1000"
"""For ``oom_score_adj``; see proc(5)."""


def offer(pid: int) -> None:
    """Have the kernel choose this process when memory is short; does nothing if it has gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        Path(f"/proc/{pid}/oom_score_adj").write_text(CHOSEN_FIRST)


def oom_kills(group: Path) -> int:
    """How many processes the kernel has killed in a memory control group of version 1."""
    pairs = (line.split() for line in (group / "memory.oom_control").read_text().splitlines())
    return next(int(value) for name, value in pairs if name == "oom_kill")


def main(config: Mapping[str, Any], fds: list[int]) -> None:
    """Entry of the process; it ends when the kernel has killed somebody, or the limit is reached without.

    Args:
        config: ``join``: the file by which it joins the control group; ``most_bytes``: what it takes at most.
        fds: Nothing that it uses.
    """
    join = Path(config["join"])
    before = oom_kills(join.parent)
    join.write_text("0")
    held = []
    for _ in range(config["most_bytes"] // STEP_BYTES):
        if oom_kills(join.parent) > before:
            return
        step = mmap.mmap(-1, STEP_BYTES)
        held.append(step)
        step.write(b"\1" * STEP_BYTES)

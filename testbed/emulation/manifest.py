"""The journal of everything a run makes outside its own process.

One run has one directory, ``/run/testbed/<run>/``, with ``manifest.jsonl`` in it: one JSON object a line, written
*before* the thing exists. Whoever finds the directory later, also after ``kill -9``, can undo exactly what the run
did. Several processes of a run may append at the same time (one ``write`` with ``O_APPEND`` is one line).

A line is in the page cache when :meth:`RunManifest.will_create` returns, so it survives the death of any process.
It isn't synced to disk: what a crash of the whole machine would lose, the reboot has removed as well. For the same
reason the first line names the boot, and a manifest of an earlier boot proves nothing about processes and interfaces
of this one.

========== =========================================== =====================================================
kind       facts                                       made by
========== =========================================== =====================================================
run        boot_id, pid, start_time_ticks              this module, first line
process    pid, start_time_ticks, role                 nursery, cluster (a process writes itself first)
cgroup     path                                        cgroups (one line a hierarchy)
netns      name                                        named namespaces; the name contains the run's
interface  name, and ifindex or alias                  links in the machine's own namespace
mount      path                                        a mount point; the path contains the run's name
loop       image                                       the file that a loop device has; the path contains the run's name
directory  path                                        outside the run directory; contains the run's name
========== =========================================== =====================================================
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from testbed.emulation.processes import ProcessIdentity
from testbed.errors import MachineError, UsageError

RUN_ROOT = Path("/run/testbed")
MANIFEST_NAME = "manifest.jsonl"

Fact = str | int | float | bool | None
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the journal: something that was about to be made.

    Attributes:
        kind: What it is (see the table above).
        facts: What is needed to find it again and to prove that it is the run's.
    """

    kind: str
    facts: Mapping[str, Fact] = field(default_factory=dict)


def boot_id() -> str:
    """A name for the time since the kernel started, different after each reboot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class RunManifest:
    """The journal of one run.

    Attributes:
        run_name: Name of the run, unique on this machine while the run lives.
        directory: The run's own directory; ``clean`` removes it with all that is in it.
        path: The journal.
    """

    def __init__(self, directory: Path) -> None:
        """Take an existing run directory; see :meth:`create` and :meth:`load_all`."""
        self.run_name = directory.name
        self.directory = directory
        self.path = directory / MANIFEST_NAME

    @classmethod
    def create(cls, run_name: str, root: Path = RUN_ROOT) -> RunManifest:
        """Make the run's directory and the first line of its journal.

        Raises:
            UsageError: If the name can't be part of paths and of object names.
            MachineError: If the directory can't be made, or a run of this name left one behind.
        """
        if not _RUN_NAME.fullmatch(run_name):
            raise UsageError(
                f"{run_name!r} can't name a run",
                remedy="use at most 100 letters, digits, '_', '-' and '.', beginning with a letter or digit",
            )
        manifest = cls(root / run_name)
        try:
            root.mkdir(mode=0o755, parents=True, exist_ok=True)
            manifest.directory.mkdir(mode=0o755)
        except FileExistsError as error:
            raise MachineError(
                f"a run named {run_name} has left {manifest.directory} behind",
                remedy="remove what it left with: sudo python -m testbed clean",
            ) from error
        except PermissionError as error:
            raise MachineError(f"can't write in {root}: {error.strerror}", remedy="run as root: sudo …") from error
        me = ProcessIdentity.of(os.getpid())
        manifest.will_create("run", boot_id=boot_id(), pid=me.pid, start_time_ticks=me.start_time_ticks)
        return manifest

    @classmethod
    def load_all(cls, root: Path = RUN_ROOT) -> tuple[RunManifest, ...]:
        """The manifests of all runs that have a directory, live or dead, sorted by name."""
        if not root.is_dir():
            return ()
        return tuple(cls(path) for path in sorted(root.iterdir()) if path.is_dir() and not path.is_symlink())

    def will_create(self, kind: str, **facts: Fact) -> None:
        """Append a line; only after it has returned may the thing be made.

        Raises:
            MachineError: If the line can't be written in full; the thing must not be made then.
        """
        record = {"kind": kind, **facts, "written_s": round(time.monotonic(), 6)}
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                written = os.write(descriptor, line)
                if written != len(line):
                    # End the torn line, so that the next one stands alone.
                    os.write(descriptor, b"\n")
            finally:
                os.close(descriptor)
        except OSError as error:
            raise MachineError(
                f"can't write the journal {self.path}: {error.strerror}", remedy="free space in /run, then try again"
            ) from error
        if written != len(line):
            raise MachineError(f"no space left for the journal {self.path}", remedy="free space in /run")

    def entries(self) -> tuple[Entry, ...]:
        """All lines, oldest first; a torn line is left out, since its writer was told to make nothing."""
        return tuple(entry for entry in self._lines() if entry is not None)

    def of_kind(self, kind: str) -> tuple[Entry, ...]:
        """The lines of one kind, oldest first."""
        return tuple(entry for entry in self.entries() if entry.kind == kind)

    @property
    def torn_lines(self) -> int:
        """Number of lines that are no JSON object: 0 unless the disk was full."""
        return sum(entry is None for entry in self._lines())

    @property
    def of_this_boot(self) -> bool:
        """Whether the run was started since the machine was; False for a directory without a first line."""
        runs = self.of_kind("run")
        return bool(runs) and runs[0].facts.get("boot_id") == boot_id()

    def _lines(self) -> Iterator[Entry | None]:
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            # Killed between mkdir and the first line: the run had made nothing yet.
            return
        for line in lines:
            if not line:
                continue
            try:
                record = json.loads(line)
                kind = record.pop("kind")
                record.pop("written_s", None)
            except (ValueError, AttributeError, KeyError, TypeError):
                yield None
            else:
                yield Entry(kind, record)

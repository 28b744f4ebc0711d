"""What there is on the machine that a run could leave behind.

``python -m tests.emulation.snapshot NAME…`` prints it as JSON, so that it can be taken in another world (see
:mod:`tests.emulation.world`). Two snapshots of a machine on which nothing was left are equal, line by line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

Snapshot = dict[str, list[str]]
"""Kind of thing → one line for each, sorted."""

LOCK = Path("/run/testbed/lock")
"""It stays for good, by design: the lock is a lock on this file, not the file."""


def take(names: Sequence[str]) -> Snapshot:
    """A snapshot from where the calling process stands; it leaves out that process itself.

    Control groups and loop devices have no namespace that hides those of others, so only those whose path holds one of
    the names count.
    """
    mounts = _mounts()
    return {
        "network namespaces": sorted(set(_namespaces())),
        "named namespaces": _output("ip", "netns", "list"),
        "interfaces": _output("ip", "-brief", "link", "show"),
        "bridges": _output("bridge", "link", "show"),
        "addresses": _output("ip", "-brief", "address", "show"),
        "routes": _output("ip", "route", "show", "table", "all"),
        "queues": _output("tc", "qdisc", "show"),
        "rules": [line for line in _output("iptables-save") if not line.startswith("#")],
        "cgroups": sorted(path for path in _cgroups(mounts) if any(name in path for name in names)),
        "mounts": sorted(mounts),
        "loop devices": sorted(path for path in _loop_devices() if any(name in path for name in names)),
        "processes": sorted(_processes()),
        "files": sorted(_files()),
    }


def difference(before: Snapshot, after: Snapshot) -> list[str]:
    """What is in one of them only, a line each for people; empty if they are equal."""
    lines = []
    for kind in before.keys() | after.keys():
        lost, left = set(before.get(kind, ())), set(after.get(kind, ()))
        lines += [f"lost  {kind}: {line}" for line in sorted(lost - left)]
        lines += [f"left  {kind}: {line}" for line in sorted(left - lost)]
    return sorted(lines)


def _output(*argv: str) -> list[str]:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=True)
    return sorted(line.strip() for line in done.stdout.splitlines() if line.strip())


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def _namespaces() -> Iterable[str]:
    for pid in _pids():
        try:
            yield f"inode {Path(f'/proc/{pid}/ns/net').stat().st_ino}"
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended, or is a zombie


def _processes() -> Iterable[str]:
    for pid in _pids():
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, parent = stat.rpartition(")")[2].split()[:2]
        is_kernel_thread = not command and (pid == 2 or parent == "2")
        if state not in "ZX" and pid != os.getpid() and not is_kernel_thread:
            yield f"{pid} {command}"


def _mounts() -> list[str]:
    lines = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        # Without the mount's number and its parent's, which differ from one namespace to the next.
        _, _, *words = line.split()
        lines.append(" ".join(words))
    return lines


def _cgroups(mounts: Iterable[str]) -> Iterable[str]:
    for line in mounts:
        left, _, right = line.partition(" - ")
        if right.split()[0] in ("cgroup", "cgroup2"):
            for folder, folders, _ in os.walk(left.split()[2]):
                yield from (f"{folder}/{name}" for name in folders)


def _loop_devices() -> Iterable[str]:
    for place in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            yield f"{place.parts[-3]} {place.read_text().strip()}"
        except OSError:
            continue  # it was detached meanwhile


def _files() -> Iterable[str]:
    places = (Path("/run/testbed"), Path("/run/netns"), Path("/var/tmp"), Path("/dev/shm"))
    for place in places:
        if place.is_dir():
            yield from (str(path) for path in place.iterdir() if path != LOCK)


if __name__ == "__main__":
    json.dump(take(sys.argv[1:]), sys.stdout)

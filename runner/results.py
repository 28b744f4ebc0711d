"""The folder of a run, ``results/<name>-<UTC time>-<seed>/``, and the table of all runs beside it.

A run is complete when its ``run.json`` is there: it is written last, and appears whole or not at all. In the end
everything belongs to the user who called sudo. What the files hold is documented in ``results/README.md``.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runner import csvfile, epoch_table, fault_table, service_table, tables
from runner.csvfile import Row
from runner.run_record import RUN_COLUMNS, run_row
from testbed.errors import MachineError, UsageError
from testbed.serving.events import Event

EVENTS_FILE = "events.jsonl"
RUN_FILE = "run.json"
RUNS_FILE = "runs.csv"
LATEST = "latest"
LOCK_DEADLINE_S = 10.0

TABLES = {
    "requests.csv": (tables.REQUEST_COLUMNS, tables.request_rows),
    "stages.csv": (tables.STAGE_COLUMNS, tables.stage_rows),
    "plan.csv": (tables.PLAN_COLUMNS, tables.plan_rows),
    "epochs.csv": (epoch_table.EPOCH_COLUMNS, epoch_table.epoch_rows),
    "service.csv": (service_table.SERVICE_COLUMNS, service_table.service_rows),
    "faults.csv": (fault_table.FAULT_COLUMNS, fault_table.fault_rows),
    "hosts.csv": (tables.HOST_COLUMNS, tables.host_rows),
    "links.csv": (tables.LINK_COLUMNS, tables.link_rows),
    "fidelity.csv": (tables.FIDELITY_COLUMNS, tables.fidelity_rows),
}


@dataclass(frozen=True, slots=True)
class Owner:
    """Whom the files shall belong to."""

    uid: int
    gid: int

    @classmethod
    def of_caller(cls, environment: Mapping[str, str]) -> Owner | None:
        """The user who called sudo; None if nobody did.

        Raises:
            UsageError: If ``SUDO_UID`` or ``SUDO_GID`` is no number.
        """
        uid, gid = environment.get("SUDO_UID"), environment.get("SUDO_GID")
        if uid is None or gid is None:
            return None
        if not (uid.isascii() and uid.isdigit() and gid.isascii() and gid.isdigit()):
            raise UsageError(
                f"SUDO_UID={uid!r}, SUDO_GID={gid!r}: no user and group", remedy="Unset both, or use sudo."
            )
        return cls(int(uid), int(gid))


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of one run.

    Attributes:
        path: The folder.
        name, seed, started: What it is named by; ``started`` is wall-clock time in UTC.
        owner: Whom its files shall belong to in the end; None leaves them as they are.
    """

    path: Path
    name: str
    seed: int
    started: datetime
    owner: Owner | None = None

    @classmethod
    def create(
        cls, root: Path, name: str, seed: int, *, now: datetime | None = None, owner: Owner | None = None
    ) -> RunFolder:
        """Make the folder, and ``root`` above it if it is missing.

        Raises:
            MachineError: If that can't be done.
        """
        started = (now or datetime.now(UTC)).astimezone(UTC)
        safe = re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.") or "run"
        stem = f"{safe}-{started:%Y%m%dT%H%M%SZ}-{seed}"
        with clear_errors(root):
            missing = [folder for folder in (root, *root.parents) if not folder.exists()]
            root.mkdir(parents=True, exist_ok=True)
            for folder in missing:
                _give(folder, owner)
            for number in range(1, 1000):
                path = root / (stem if number == 1 else f"{stem}.{number}")
                try:
                    path.mkdir()
                except FileExistsError:
                    continue
                _give(path, owner)
                return cls(path, name, seed, started, owner)
        raise MachineError(f"{root}: a thousand runs are named {stem}", remedy="Choose another folder with --results.")

    @property
    def root(self) -> Path:
        """The folder of all runs."""
        return self.path.parent

    @property
    def events_path(self) -> Path:
        """Where the history is written as it comes."""
        return self.path / EVENTS_FILE

    def write(self, name: str, data: bytes) -> Path:
        """Write a file of the run, whole or not at all.

        Raises:
            MachineError: If it can't be written.
        """
        with clear_errors(self.path / name):
            return write_atomic(self.path / name, data)

    def write_tables(self, events: Sequence[Event], *, compute_mode: str = "real", time_scale: float = 1.0) -> None:
        """Write all CSV files of a history; every row says how computing and time were emulated.

        Args:
            events: The history, in virtual time.
            compute_mode: How computing was emulated.
            time_scale: Real seconds in a virtual one.

        Raises:
            MachineError: If one can't be written.
        """
        for name, data in table_files(events, compute_mode=compute_mode, time_scale=time_scale).items():
            self.write(name, data)

    def finish(self, record: Mapping[str, Any]) -> None:
        """Write ``run.json``, add the run to ``runs.csv``, point ``latest`` here, and give all to their owner.

        Args:
            record: What :func:`~runner.run_record.run_record` gives.

        Raises:
            MachineError: If something can't be written.
        """
        text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
        try:
            self.write(RUN_FILE, text.encode() + b"\n")
            with clear_errors(self.root / RUNS_FILE):
                append_run(self.root, run_row(self.path.name, record))
                point_latest(self.root, self.path.name)
        finally:
            self.give_to_owner()

    def give_to_owner(self) -> None:
        """Give the folder and the files beside it to their owner; links are never followed.

        Raises:
            MachineError: If that can't be done.
        """
        if self.owner is None:
            return
        with clear_errors(self.path):
            give_tree(self.path, self.owner)
            for name in (RUNS_FILE, LATEST):
                if os.path.lexists(self.root / name):
                    _give(self.root / name, self.owner)


def table_files(events: Sequence[Event], *, compute_mode: str = "real", time_scale: float = 1.0) -> dict[str, bytes]:
    """The content of all CSV files of a history, by their names; arguments as of :meth:`RunFolder.write_tables`."""
    emulation: Row = {"compute_mode": compute_mode, "time_scale": time_scale}
    files = {}
    for name, (columns, rows) in TABLES.items():
        marked: list[Row] = [{**row, **emulation} for row in rows(events)]
        files[name] = csvfile.to_csv((*columns, *emulation), marked)
    return files


def write_atomic(path: Path, data: bytes) -> Path:
    """Write, sync, rename: the file is there whole or not at all, also after a loss of power.

    Raises:
        OSError: If it can't be written; nothing is left of it then.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    return path


def append_run(root: Path, row: Row, deadline_s: float = LOCK_DEADLINE_S) -> None:
    """Add one row to ``runs.csv``, made with its header if missing; several processes may do so at once.

    A table with other columns (of another version) is kept as ``runs.<n>.csv`` and a new one begun. If the disk is full
    nothing of the row is left.

    Raises:
        OSError: If it can't be written.
        MachineError: If another process holds the table for longer than the deadline.
    """
    header = csvfile.to_csv(RUN_COLUMNS, ())
    path = root / RUNS_FILE
    with _locked(root, deadline_s):
        if path.exists():
            with path.open("rb") as file:
                if file.readline() not in (header, b""):
                    path.rename(_free_name(root))
        with path.open("ab", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            data = csvfile.to_csv(RUN_COLUMNS, [row], header=size == 0)
            try:
                written = 0
                while written < len(data):
                    written += file.write(data[written:]) or 0
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise


def point_latest(root: Path, run: str) -> None:
    """Make ``latest`` a link to the run's folder; something of that name which is no link is left alone.

    Raises:
        OSError: If the link can't be made.
    """
    link = root / LATEST
    if os.path.lexists(link) and not link.is_symlink():
        return
    draft = root / f".{LATEST}.{os.getpid()}.part"
    draft.unlink(missing_ok=True)
    draft.symlink_to(run, target_is_directory=True)
    draft.replace(link)


def give_tree(path: Path, owner: Owner) -> None:
    """Give a folder and all within to the owner; a symbolic link itself changes hands, never what it points to.

    Raises:
        OSError: If that can't be done.
    """
    for _, folders, files, fd in os.fwalk(path, follow_symlinks=False):
        for name in (*folders, *files):
            os.chown(name, owner.uid, owner.gid, dir_fd=fd, follow_symlinks=False)
    _give(path, owner)


def _give(path: Path, owner: Owner | None) -> None:
    if owner is not None:
        os.chown(path, owner.uid, owner.gid, follow_symlinks=False)


def _free_name(root: Path) -> Path:
    number = 1
    while (root / f"runs.{number}.csv").exists():
        number += 1
    return root / f"runs.{number}.csv"


@contextmanager
def _locked(folder: Path, deadline_s: float) -> Iterator[None]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        end_s = time.monotonic() + deadline_s
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # flock has no deadline of its own and tells nobody when it is free; its holder writes one row.
                if time.monotonic() > end_s:
                    raise MachineError(
                        f"{folder}: another process has held the table of runs for {deadline_s:g} s",
                        remedy="End it, or choose another folder with --results.",
                    ) from None
                time.sleep(0.005)
        yield
    finally:
        os.close(fd)


@contextmanager
def clear_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into a MachineError that names the path and says what to do."""
    try:
        yield
    except OSError as error:
        remedy = "Choose another folder with --results, or make this one writable."
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "Free some space, or choose another folder with --results."
        raise MachineError(f"{path}: can't write the results: {error.strerror}", remedy=remedy) from error

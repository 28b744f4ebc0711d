from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from runner import results
from runner.csvfile import from_csv
from runner.events import Check
from runner.provenance import cpu_model, git_state, provenance
from runner.results import Owner, RunFolder, append_run, give_tree, write_atomic
from runner.run_record import RUN_COLUMNS, run_record, run_row
from runner.summary import summarize
from runner.verdict import judge
from testbed.errors import MachineError, UsageError
from testbed.serving.events import Event
from tests.runner.story import judged

NOW = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)


def record(folder: RunFolder, events: Sequence[Event]) -> dict[str, Any]:
    return run_record(
        folder.name,
        folder.seed,
        folder.started,
        summarize(events),
        judged(events),
        judge(event for event in events if isinstance(event, Check)),
        spec={"name": folder.name},
        spec_sha256="ab" * 32,
        compute_mode="real",
        provenance=provenance(),
        capabilities={"netem": False},
    )


def test_a_run_is_written_whole(tmp_path: Path, quickstart: tuple[Event, ...]) -> None:
    folder = RunFolder.create(tmp_path / "results", "quickstart", 7, now=NOW)
    assert folder.path.name == "quickstart-20260203T040506Z-7"
    folder.write_tables(quickstart)
    folder.finish(record(folder, quickstart))
    assert {path.name for path in folder.path.iterdir()} == {*results.TABLES, "run.json"}
    read = json.loads((folder.path / "run.json").read_text())
    assert read["outcome"] == "passed"
    assert read["verdict"] == "valid"
    assert read["versions"]["torch"].startswith("2.")
    assert (tmp_path / "results" / "latest").resolve() == folder.path
    (row,) = from_csv((tmp_path / "results" / "runs.csv").read_bytes())
    assert row["run"] == folder.path.name
    assert row["ok"] == row["submitted"] == str(read["summary"]["submitted"])
    assert row["verdict"] == "valid"


def test_two_runs_in_one_second_have_two_folders(tmp_path: Path) -> None:
    paths = {RunFolder.create(tmp_path, "a/b c", 1, now=NOW).path.name for _ in range(2)}
    assert paths == {"a-b-c-20260203T040506Z-1", "a-b-c-20260203T040506Z-1.2"}


def test_latest_leaves_a_folder_of_that_name_alone(tmp_path: Path) -> None:
    (tmp_path / "latest").mkdir()
    results.point_latest(tmp_path, "x")
    assert not (tmp_path / "latest").is_symlink()


def _append(root: Path, row: dict[str, Any], count: int) -> None:
    for _ in range(count):
        append_run(root, row)


def test_processes_append_at_once_and_lose_no_row(tmp_path: Path, quickstart: tuple[Event, ...]) -> None:
    folder = RunFolder.create(tmp_path, "q", 1, now=NOW)
    row = dict(run_row("x", record(folder, quickstart)))
    context = multiprocessing.get_context("forkserver")
    workers = [context.Process(target=_append, args=(tmp_path, {**row, "run": f"w{i}"}, 20)) for i in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    rows = from_csv((tmp_path / "runs.csv").read_bytes())
    assert sorted(found["run"] for found in rows) == ["w0"] * 20 + ["w1"] * 20
    assert tuple(rows[0]) == RUN_COLUMNS


def test_a_table_of_another_version_is_kept(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_bytes(b"old,columns\r\n1,2\r\n")
    append_run(tmp_path, dict.fromkeys(RUN_COLUMNS, "x"))
    assert (tmp_path / "runs.1.csv").read_bytes() == b"old,columns\r\n1,2\r\n"
    assert len(from_csv((tmp_path / "runs.csv").read_bytes())) == 1


def test_a_held_table_is_an_error_in_time(tmp_path: Path) -> None:
    with results._locked(tmp_path, 1.0), pytest.raises(MachineError, match="another process"):
        append_run(tmp_path, dict.fromkeys(RUN_COLUMNS, "x"), deadline_s=0.02)


def test_nothing_is_left_of_a_file_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(b"before")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"after")
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]
    assert path.read_bytes() == b"before"
    with pytest.raises(OSError, match="No space"):
        append_run(tmp_path, dict.fromkeys(RUN_COLUMNS, "x"))
    assert (tmp_path / "runs.csv").read_bytes() == b""
    folder = RunFolder(tmp_path, "a", 1, NOW)
    with pytest.raises(MachineError, match="Free some space"):
        folder.write("plan.csv", b"")


def test_a_place_that_is_no_folder_is_an_error_for_people(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="can't write the results"):
        RunFolder.create(tmp_path / "file" / "results", "a", 1)


def test_ownership_goes_to_the_caller_and_never_through_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[str, int, int, bool]] = []

    def chown(path: str | Path, uid: int, gid: int, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> None:
        given.append((Path(path).name, uid, gid, follow_symlinks))

    monkeypatch.setattr(os, "chown", chown)
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    run = tmp_path / "run"
    (run / "logs").mkdir(parents=True)
    (run / "logs" / "node1.log").write_text("")
    (run / "link").symlink_to(outside)
    give_tree(run, Owner(1234, 5678))
    assert sorted(given) == [(name, 1234, 5678, False) for name in ("link", "logs", "node1.log", "run")]


def test_everything_made_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quickstart: tuple[Event, ...]
) -> None:
    given: set[str] = set()
    monkeypatch.setattr(os, "chown", lambda path, *ids, **how: given.add(Path(path).name))
    folder = RunFolder.create(tmp_path / "new" / "results", "q", 1, now=NOW, owner=Owner(1, 1))
    folder.finish(record(folder, quickstart))
    assert given == {"new", "results", folder.path.name, "run.json", "runs.csv", "latest"}


def test_the_caller_is_the_one_of_sudo() -> None:
    assert Owner.of_caller({}) is None
    assert Owner.of_caller({"SUDO_UID": "1000", "SUDO_GID": "100"}) == Owner(1000, 100)
    with pytest.raises(UsageError, match="no user"):
        Owner.of_caller({"SUDO_UID": "-1", "SUDO_GID": "100"})


def test_runs_columns_are_documented(repository: Path) -> None:
    section = (repository / "results" / "README.md").read_text().partition("\n## `runs.csv`")[2]
    assert [column for column in RUN_COLUMNS if f"| `{column}` |" not in section] == []


def test_provenance_names_the_machine(tmp_path: Path) -> None:
    found = provenance(tmp_path)
    assert found["git"] is None
    assert found["machine"]["cores"] >= 1
    assert found["versions"]["mininet"]
    assert cpu_model("processor: 0\nmodel name\t: Some CPU @ 3 GHz\n") == "Some CPU @ 3 GHz"
    assert cpu_model("")


def test_git_tells_commit_and_changes(tmp_path: Path) -> None:
    import subprocess

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *identity, "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("-c", "core.hooksPath=/dev/null", "commit", "-m", "one")
    state = git_state(tmp_path)
    assert state is not None
    assert len(state["commit"]) == 40
    assert state["dirty"] is False
    (tmp_path / "a").write_text("2")
    assert (git_state(tmp_path) or {})["dirty"] is True

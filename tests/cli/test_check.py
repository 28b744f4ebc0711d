"""``check``: a finished run's folder in, figures and findings out; without root, and without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.told import Verb, assert_told
from tests.runner.story import Story, files_of, files_with, rows_of

STORY = Story()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, data in files_of(STORY.events()).items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "run.json").write_text(json.dumps({"spec": STORY.spec, "outcome": "passed"}))
    return tmp_path


def spoil(folder: Path) -> None:
    """One answer is wrong."""
    files = files_of(STORY.events())
    rows = rows_of(files)
    rows["requests.csv"][3]["outcome"] = "wrong"
    (folder / "requests.csv").write_bytes(files_with(files, rows)["requests.csv"])


def test_a_consistent_run_is_0(verb: Verb, folder: Path) -> None:
    code, text = verb("check", folder)
    assert code == 0, text
    for words in ("24 of 24 answered right", "downtime", "detected after 49 ms", "moved 50.3 Mbit", "checked: passed"):
        assert words in text
    assert "error" not in text


def test_a_violation_is_1_with_the_line_that_shows_it(verb: Verb, folder: Path) -> None:
    spoil(folder)
    code, text = verb("check", folder)
    assert code == 1
    assert "error: wrong: request 3 was answered wrongly (requests.csv:5)" in text
    assert "checked: failed" in text


def test_json_holds_findings_and_figures(verb: Verb, folder: Path) -> None:
    spoil(folder)
    code, text = verb("check", folder, "--json")
    found = json.loads(text)
    assert code == 1
    assert found["outcome"] == "failed"
    first = next(finding for finding in found["findings"] if finding["rule"] == "wrong")
    assert (first["level"], first["file"], first["line"]) == ("error", "requests.csv", 5)
    assert found["summary"]["faults"][0]["detection_ms"] == pytest.approx(49)


def test_no_run_and_damage_are_2(verb: Verb, folder: Path) -> None:
    assert_told(verb("check", folder / "nowhere"), 2, "not the folder of a finished run", "results/latest")
    data = (folder / "stages.csv").read_bytes()
    (folder / "stages.csv").write_bytes(data[:-9])
    assert_told(verb("check", folder), 2, f"stages.csv:{len(data.splitlines())}:", "cut off")


def test_it_neither_needs_root_nor_waits_for_torch(folder: Path) -> None:
    code = (
        "import os, sys\n"
        "os.geteuid = lambda: 1000\n"
        "from testbed.cli.main import main\n"
        f"code = main(['check', {str(folder)!r}])\n"
        "print(*sorted(sys.modules), sep='\\n', file=sys.stderr)\n"
        "sys.exit(code)\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(process.stderr.splitlines())
    assert "runner.checker.check" in loaded
    assert not loaded & {"torch", "numpy", "pandas", "matplotlib", "mininet"}

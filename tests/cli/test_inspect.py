"""``inspect``: the table, the CSV, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.csvfile import from_csv
from testbed.cli.main import main
from tests.cli.told import Verb, assert_told
from tests.conftest import REPOSITORY

TINY = "tests.runner.tiny_model:tiny_net"


def test_the_table_and_the_csv_file(verb: Verb, tmp_path: Path) -> None:
    file = tmp_path / "cuts.csv"
    code, text = verb("inspect", TINY, "--input", "1,3,32,32", "--analytic", "--csv", file)
    assert code == 0, text
    assert "crossing" in text
    assert "on a nominal core" in text
    rows = from_csv(file.read_bytes())
    assert rows[0]["first_op"] == "0"
    assert [row["last_op"] for row in rows[:-1]] == [row["first_op"] for row in rows[1:]]
    assert all(row["tensors"] == "1" for row in rows)
    assert sum(float(row["compute_ms"]) for row in rows) > 0
    everything = tmp_path / "all.csv"
    assert verb("inspect", TINY, "--input", "1,3,32,32", "--analytic", "--all", "--csv", everything)[0] == 0
    every = from_csv(everything.read_bytes())
    assert [int(row["last_op"]) for row in every] == list(range(1, len(every) + 1))
    for column in ("flops", "moved_bytes"):
        assert sum(int(row[column]) for row in every) == sum(int(row[column]) for row in rows)


def test_measured_times_are_kept(verb: Verb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("SUDO_UID", raising=False)
    for said in ("timing its operations", "taking the kept times"):
        code, text = verb("inspect", TINY, "--input", "1,3,32,32")
        assert code == 0
        assert said in text
        assert "on one core of this machine" in text
    assert "timing its operations" in verb("inspect", TINY, "--input", "1,3,32,32", "--afresh")[1]


def test_an_experiments_model(verb: Verb) -> None:
    code, text = verb("inspect", REPOSITORY / "topologies" / "quickstart.yaml", "--analytic")
    assert code == 0, text
    assert "mobilenet_v2" in text
    assert "13.5MiB of weights" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("resnet5", "--analytic"), ("no model is called 'resnet5'", "resnet50")),
        (("alexnet", "--input", "1,3"), ("can't be exported", "alexnet", "shape")),
        (("alexnet", "--input", "1,x"), ("--input 1,x", "1,3,224,224")),
        (("alexnet", "--input", "a=1,3", "--input", "1,3"), ("needs its name",)),
        (("alexnet", "--input", "1,3:int64"), ("needs its name", "input_ids=1,128:int64")),
        (("alexnet", "--input", "a=1,3:int65"), ("input.a.dtype", "int65")),
        (("alexnet", "--input", "0,3"), ("input",)),
        (("alexnet", "--input", "picture=1,3,64,64"), ("no input 'picture'", "arguments: x")),
        (("a:b:c",), ("a:b:c", "package.module:factory")),
        (("absent.yaml",), ("absent.yaml", "No such file")),
        ((str(REPOSITORY / "topologies" / "quickstart.yaml"), "--input", "1,3"), ("Leave --input out",)),
    ],
)
def test_what_it_refuses(arguments: tuple[str, ...], words: tuple[str, ...], verb: Verb) -> None:
    assert_told(verb("inspect", *arguments, "--analytic"), 2, *words)


def test_a_csv_file_that_can_not_be_written(verb: Verb, tmp_path: Path) -> None:
    shown = verb("inspect", TINY, "--input", "1,3,32,32", "--analytic", "--csv", tmp_path / "absent" / "a.csv")
    assert_told(shown, 2, "a.csv", "can't be written", "no folder", str(tmp_path / "absent"))


def test_help_does_not_wait_for_torch(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--help"]) == 0
    assert "MODEL_OR_FILE" in capsys.readouterr().out


def test_what_may_be_left_out_is_shown_where_there_is_anything(verb: Verb, tmp_path: Path) -> None:
    file = tmp_path / "cuts.csv"
    code, text = verb("inspect", TINY, "--input", "1,3,32,32", "--analytic", "--csv", file)
    assert code == 0, text
    cuts = [row["last_op"] for row in from_csv(file.read_bytes()) if row["stream"]]
    assert len(cuts) == 2 + 2 * 6  # behind the stem, its activation, and both operations of each block
    assert f"may be left out (recovery: skip): {', '.join(cuts)}\n" in text
    code, text = verb("inspect", "squeezenet1_1", "--input", "1,3,64,64", "--analytic")
    assert code == 0, text
    assert "left out" not in text

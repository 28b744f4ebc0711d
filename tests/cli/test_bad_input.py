"""Every wrong input ends in one screen that says what is wrong, where, and what to do; never in a traceback.

Exit code 2: the file or what it names is wrong. Exit code 3: this machine can't do it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.cli.told import Shown, Verb, assert_told
from tests.conftest import REPOSITORY
from tests.emulation.world import World, world
from tests.runner.real_run import NAME, experiment, started
from tests.runner.tiny_model import tiny_net

QUICKSTART = REPOSITORY / "topologies" / "quickstart.yaml"


def module(*arguments: str | Path, prefix: tuple[str, ...] = (), **environment: str) -> Shown:
    """Runs the command line in a process of its own."""
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "testbed", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=150,
        cwd=REPOSITORY,
        env={**os.environ, "COLUMNS": "80", **environment},
        check=False,
    )
    return done.returncode, done.stdout


# The file -----------------------------------------------------------------------------------------------------------

FILES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "unknown key": (
        "storage",
        "storrage",
        ("yaml:{line}: hosts.node1.storrage", "did you mean 'storage'?", "legal keys"),
    ),
    "duplicate key": ("seed: 1", "seed: 1\nseed: 2", ("yaml:{next}: the key 'seed' is there twice", "line {line}")),
    "missing unit": ("delay: 2ms", "delay: 2", ("yaml:{line}: links[0].delay", "2 has no unit", "like 5ms")),
    "unknown host in a link": ("[node1, s1], rate: 20", "[nod1, s1], rate: 20", ("'nod1'", "did you mean 'node1'?")),
    "host linked to nothing": (
        "  - {between: [spare, s1], rate: 20Mbit/s, delay: 5ms}\n",
        "",
        ("hosts.spare", "linked to nothing", "add it to links"),
    ),
    "fault on an unknown target": ("kill: node2", "kill: node7", ("faults[0].kill", "'node7'", "node1")),
    "fault on an unknown link": ("[node1, s1], rate: 2M", "[node1, node2], rate: 2M", ("faults[1].throttle", "link")),
    "fault after the end": ("at: 8s", "at: 80s", ("faults[0].at", "80s", "30s")),
    "no YAML": ("switches: [s1]", "switches: [s1", ("yaml:{next}", "not legal YAML", "began in line {line}")),
}


@pytest.mark.parametrize("case", FILES)
@pytest.mark.parametrize("name", ["validate", "plan", "run"])
def test_wrong_file(name: str, case: str, verb: Verb, tmp_path: Path) -> None:
    old, new, words = FILES[case]
    text = QUICKSTART.read_text()
    assert old in text
    file = tmp_path / "wrong.yaml"
    file.write_text(text.replace(old, new, 1))
    line = text[: text.index(old)].count("\n") + 1
    assert_told(verb(name, file), 2, "wrong.yaml", *(word.format(line=line, next=line + 1) for word in words))


def test_wrong_file_in_a_process_of_its_own(tmp_path: Path) -> None:
    assert_told(module("run", QUICKSTART, "--set", "sede=1"), 2, "--set sede=1", "did you mean 'seed'?")
    assert_told(module("run", tmp_path / "absent.yaml"), 2, "absent.yaml", "No such file")


# What the file names ------------------------------------------------------------------------------------------------


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes the small experiment with other top-level keys."""

    def to_file(**changes: Any) -> Path:
        file = tmp_path / "tiny.yaml"
        file.write_text(json.dumps(experiment(**changes)))
        return file

    return to_file


def model(**changes: Any) -> dict[str, Any]:
    return {"model": {"module": "tests.runner.tiny_model:tiny_net", "input": [1, 3, 32, 32], **changes}}


def workload(images: str) -> dict[str, Any]:
    return {"workload": {"kind": "closed", "in_flight": 2, "duration": "6s", "images": images}}


def test_model_that_fits_no_set_of_hosts(verb: Verb, write: Callable[..., Path]) -> None:
    hosts = {name: {**host, "memory": "33MiB"} for name, host in experiment()["hosts"].items() if name != "dispatcher"}
    file = write(hosts={"dispatcher": {"cpu": 0.3}, **hosts})
    assert_told(verb("plan", file), 2, "memory", "node1", "MiB", "more")


def test_missing_weights_file(verb: Verb, write: Callable[..., Path]) -> None:
    assert_told(verb("plan", write(**model(weights="absent.pt"))), 2, "absent.pt", "relative to the YAML file")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_truncated_weights_file(suffix: str, verb: Verb, write: Callable[..., Path], tmp_path: Path) -> None:
    file = tmp_path / f"weights{suffix}"
    state = tiny_net().state_dict()
    if suffix == ".pt":
        torch.save(state, file)
    else:
        save_file(state, file)
    spec = write(**model(weights=file.name))
    assert verb("plan", spec)[0] == 0
    for size in (0, 100, file.stat().st_size // 2, file.stat().st_size - 1):
        os.truncate(file, size)
        assert_told(verb("plan", spec), 2, file.name, "truncated")


def test_weights_of_another_model(verb: Verb, write: Callable[..., Path], tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(3, 3).state_dict(), tmp_path / "other.pt")
    assert_told(verb("plan", write(**model(weights="other.pt"))), 2, "other.pt", "doesn't match", "body.0.weight")


def test_image_that_is_none(verb: Verb, write: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (40, 40), "teal").save(folder / "a.png")
    (folder / "b.jpg").write_text("no image")
    assert_told(verb("plan", write(**workload("images"))), 2, "b.jpg", "no readable image", "Remove the file")


def test_truncated_image(verb: Verb, write: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.effect_noise((64, 64), 50).save(folder / "a.png")
    os.truncate(folder / "a.png", 1000)
    assert_told(verb("plan", write(**workload("images"))), 2, "a.png", "no readable image", "Remove the file")


def test_folder_without_images(verb: Verb, write: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    assert_told(verb("plan", write(**workload("images"))), 2, str(tmp_path / "images"), ".png")
    assert_told(verb("plan", write(**workload("absent"))), 2, "absent", "Name an existing folder")


def test_unknown_model(verb: Verb, write: Callable[..., Path]) -> None:
    wrong = {"model": {"name": "mobilenet_v22", "input": [1, 3, 224, 224]}}
    assert_told(verb("plan", write(**wrong)), 2, "mobilenet_v22", "Did you mean 'mobilenet_v2'?")


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("tests.runner.absent:net", ("'tests.runner.absent'", "importable")),
        ("tests.runner.tiny_model:tiny_nte", ("no 'tiny_nte'", "'tiny_net'")),
        ("tests.runner.tiny_model:INPUT", ("INPUT", "callable")),
        ("os:getpid", ("int", "torch.nn.Module")),
    ],
)
def test_factory_that_gives_no_model(
    reference: str, words: tuple[str, ...], verb: Verb, write: Callable[..., Path]
) -> None:
    assert_told(verb("plan", write(**model(module=reference))), 2, *words)


def test_input_that_the_model_can_not_take(verb: Verb, write: Callable[..., Path]) -> None:
    assert_told(verb("plan", write(**model(input=[1, 4, 32, 32]))), 2, "[1, 4, 32, 32]")


def test_control_flow_that_depends_on_data(verb: Verb, write: Callable[..., Path]) -> None:
    shown = verb("plan", write(**model(module="tests.runner.tiny_model:wavering")))
    assert_told(shown, 2, "Wavering can't be exported", "tiny_model.py:", "if x.sum() > 0:", "fixed graph")


def test_inputs_by_name(verb: Verb, write: Callable[..., Path]) -> None:
    words, scale = {"shape": [1, 5], "dtype": "int64", "below": 40}, {"shape": [1, 1, 16]}

    def pair(**inputs: Any) -> Path:
        return write(**model(module="tests.runner.tiny_model:pair", input=inputs))

    code, text = verb("plan", pair(words=words, scale=scale))
    assert code == 0, text
    assert_told(verb("plan", pair(words=words, scal=scale)), 2, "Pair has no input 'scal'", "scale, words")
    assert_told(verb("plan", pair(words=words)), 2, "missing", "'scale'")
    assert_told(verb("plan", pair(words={"shape": [1, 5]}, scale=scale)), 2, "words [1, 5]", "can't take inputs")
    assert_told(verb("plan", pair(words={**words, "below": 4000}, scale=scale)), 2, "index out of range")
    assert_told(verb("validate", pair(words={**words, "dtype": "int65"})), 2, "model.input.words.dtype", "'int64'")
    assert_told(verb("validate", pair(words={**words, "dtype": "int8", "below": 300})), 2, "below 128")
    assert_told(verb("validate", pair()), 2, "model.input", "too few entries")


# The machine --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def machine() -> Iterator[World]:
    with world() as made:
        yield made


def ordinary_user() -> tuple[str, ...]:
    """Makes what follows run as nobody, who can read the interpreter wherever that is but has no other right."""
    if os.geteuid() != 0:
        return ()
    rights = "-all,+dac_read_search"
    who = ("--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "--securebits=+no_setuid_fixup")
    return ("setpriv", *who, f"--inh-caps={rights}", f"--ambient-caps={rights}")


def test_run_without_root() -> None:
    assert_told(module("run", QUICKSTART, prefix=ordinary_user()), 3, "only root", "sudo")


def test_clean_without_root() -> None:
    assert_told(module("clean", prefix=ordinary_user()), 3, "only root", "sudo python -m testbed clean")


def test_validate_and_plan_need_no_root(write: Callable[..., Path]) -> None:
    file = write()
    for name in ("validate", "plan"):
        code, text = module(name, file, prefix=ordinary_user())
        assert code == 0, text


@pytest.mark.root
def test_no_mnexec(machine: World, write: Callable[..., Path], tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("ip", "tc", "bridge", "iptables", "ethtool", "nsenter", "env", "modprobe", "bash", "sh"):
        place = shutil.which(name)
        if place is not None:
            (tools / name).symlink_to(place)
    done = machine.run("env", f"PATH={tools}", sys.executable, "-m", "testbed", "run", str(write()), check=False)
    assert_told((done.returncode, done.stdout + done.stderr), 3, "mnexec", "apt-get install mininet")
    assert not list((REPOSITORY / "results").glob(f"{NAME}-*"))


@pytest.mark.root
@pytest.mark.parametrize("obstacle", ["read-only", "below a file"])
def test_results_that_can_not_be_written(
    obstacle: str, machine: World, write: Callable[..., Path], tmp_path: Path
) -> None:
    place = tmp_path / "place"
    if obstacle == "read-only":
        place.mkdir()
        machine.run("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(place))
    else:
        place.write_text("a file")
    done = machine.testbed("run", str(write()), "--results", str(place / "results"))
    assert_told((done.returncode, done.stdout + done.stderr), 3, str(place), "Choose another folder with --results")


@pytest.mark.root
@pytest.mark.slow
def test_second_run_is_refused_and_the_first_goes_on(
    machine: World, write: Callable[..., Path], tmp_path: Path
) -> None:
    spec = experiment(workload={"kind": "closed", "in_flight": 2, "duration": "8s"}, faults=[])
    with started(machine, tmp_path / "first", spec) as first:
        first.wait_until(lambda run: any(found["event"] == "run_started" for found in run.events()))
        holder = first.pid
        for arguments in (("run", str(write()), "--results", str(tmp_path / "second")), ("clean",)):
            done = machine.testbed(*arguments)
            told = (done.returncode, done.stdout + done.stderr)
            assert_told(told, 3, "busy", f"run {NAME}", f"process {holder}", f"kill -INT {holder}")
        assert not (tmp_path / "second").exists()
        code, output = first.finish()
    assert code in (0, 4), output
    assert first.record["outcome"] == "passed", output
    assert {row["outcome"] for row in first.rows("requests.csv")} == {"ok"}

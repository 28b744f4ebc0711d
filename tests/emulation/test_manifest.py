from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.emulation.manifest import Entry, RunManifest, boot_id
from testbed.errors import MachineError, UsageError


def test_what_was_written_is_read_back_in_order(tmp_path: Path) -> None:
    manifest = RunManifest.create("demo-1", tmp_path)
    manifest.will_create("cgroup", path="/sys/fs/cgroup/cpu/testbed-demo-1/node1")
    manifest.will_create("process", pid=12, start_time_ticks=34, role="node1")

    (found,) = RunManifest.load_all(tmp_path)
    assert found.run_name == "demo-1"
    assert [entry.kind for entry in found.entries()] == ["run", "cgroup", "process"]
    assert found.of_kind("process") == (Entry("process", {"pid": 12, "start_time_ticks": 34, "role": "node1"}),)
    assert found.of_this_boot


def test_a_manifest_of_an_earlier_boot_says_so(tmp_path: Path) -> None:
    manifest = RunManifest.create("demo", tmp_path)
    manifest.path.write_text(manifest.path.read_text().replace(boot_id(), "0" * 36))
    assert not manifest.of_this_boot


def test_a_name_in_use_is_refused(tmp_path: Path) -> None:
    RunManifest.create("demo", tmp_path)
    with pytest.raises(MachineError, match="left") as caught:
        RunManifest.create("demo", tmp_path)
    assert "clean" in str(caught.value.remedy)


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "a b", "x" * 101, "-x"])
def test_a_name_that_could_escape_the_directory_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        RunManifest.create(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_torn_line_is_counted_and_the_others_stand(tmp_path: Path) -> None:
    manifest = RunManifest.create("demo", tmp_path)
    with manifest.path.open("ab") as journal:
        journal.write(b'{"kind":"proc\n')
    manifest.will_create("netns", name="demo-x")
    assert [entry.kind for entry in manifest.entries()] == ["run", "netns"]
    assert manifest.torn_lines == 1


def test_a_run_killed_before_its_first_line_is_found(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "lock").touch()
    (found,) = RunManifest.load_all(tmp_path)
    assert found.entries() == ()
    assert not found.of_this_boot


def test_no_directory_means_no_runs(tmp_path: Path) -> None:
    assert RunManifest.load_all(tmp_path / "missing") == ()


def test_a_full_disk_forbids_to_make_the_thing(tmp_path: Path) -> None:
    manifest = RunManifest.create("demo", tmp_path)
    manifest.path.unlink()
    manifest.path.symlink_to("/dev/full")
    with pytest.raises(MachineError, match="journal"):
        manifest.will_create("netns", name="demo-x")


def test_the_journal_survives_a_kill(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, pathlib\n"
        "from testbed.emulation.manifest import RunManifest\n"
        "manifest = RunManifest.create('demo', pathlib.Path(sys.argv[1]))\n"
        "manifest.will_create('netns', name='demo-x')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=30, check=False)
    assert done.returncode == -signal.SIGKILL
    (found,) = RunManifest.load_all(tmp_path)
    assert found.of_kind("netns") == (Entry("netns", {"name": "demo-x"}),)


def test_writers_in_several_processes_do_not_mix_their_lines(tmp_path: Path) -> None:
    manifest = RunManifest.create("demo", tmp_path)
    code = (
        "import sys, pathlib\n"
        "from testbed.emulation.manifest import RunManifest\n"
        "manifest = RunManifest(pathlib.Path(sys.argv[1]))\n"
        "for number in range(200): manifest.will_create('directory', path='x' * 300, number=number)\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(manifest.directory)]) for _ in range(3)]
    assert [writer.wait(timeout=30) for writer in writers] == [0, 0, 0]
    assert len(manifest.of_kind("directory")) == 600
    assert manifest.torn_lines == 0
    assert json.loads(manifest.path.read_text().splitlines()[0])["pid"] == os.getpid()

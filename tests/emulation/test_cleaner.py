from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.emulation.cgroup_tree import CgroupMounts, kill_members, remove_tree
from testbed.emulation.cgroups import CgroupManager
from testbed.emulation.cleaner import CleanReport, clean, clean_run
from testbed.emulation.lock import machine_lock
from testbed.emulation.manifest import RunManifest, boot_id
from testbed.emulation.processes import ProcessIdentity
from testbed.errors import BusyError, MachineError

WAIT_S = 20.0


@pytest.fixture
def manifest(tmp_path: Path) -> RunManifest:
    return RunManifest.create(f"test-{uuid.uuid4().hex[:8]}", tmp_path / "runs")


@pytest.fixture
def root(manifest: RunManifest) -> Path:
    return manifest.directory.parent


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def _journal(manifest: RunManifest, process: subprocess.Popen[bytes], *, ticks_off: int = 0) -> None:
    ticks = ProcessIdentity.of(process.pid).start_time_ticks + ticks_off
    manifest.will_create("process", pid=process.pid, start_time_ticks=ticks, role="node1")


def test_nothing_to_clean(tmp_path: Path) -> None:
    assert clean(tmp_path / "missing") == CleanReport((), (), (), ())
    assert not (tmp_path / "missing").exists()
    assert clean(tmp_path) == CleanReport((), (), (), ())


def test_journalled_processes_are_ended_and_the_run_directory_goes(
    manifest: RunManifest, root: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    _journal(manifest, sleeper)
    report = clean(root)
    assert sleeper.wait(timeout=WAIT_S) == -signal.SIGKILL
    assert report.runs == (manifest.run_name,)
    assert report.removed == (f"process {sleeper.pid} (node1)", f"directory {manifest.directory}")
    assert report.spared == report.failed == ()
    assert not manifest.directory.exists()
    assert clean(root) == CleanReport((), (), (), ())


def test_a_reused_pid_is_spared(manifest: RunManifest, root: Path, sleeper: subprocess.Popen[bytes]) -> None:
    _journal(manifest, sleeper, ticks_off=-1)
    assert clean(root).removed == (f"directory {manifest.directory}",)
    assert sleeper.poll() is None


def test_pids_of_an_earlier_boot_mean_nothing(
    manifest: RunManifest, root: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    _journal(manifest, sleeper)
    manifest.path.write_text(manifest.path.read_text().replace(boot_id(), "0" * 36))
    assert clean(root).removed == (f"directory {manifest.directory}",)
    assert sleeper.poll() is None


def test_the_cleaner_does_not_end_itself(manifest: RunManifest, root: Path) -> None:
    for pid in (os.getpid(), os.getppid()):
        identity = ProcessIdentity.of(pid)
        manifest.will_create("process", pid=pid, start_time_ticks=identity.start_time_ticks, role="x")
    report = clean(root)
    assert len(report.spared) == 2
    assert report.failed == ()


def test_a_live_run_is_left_alone(manifest: RunManifest, root: Path, sleeper: subprocess.Popen[bytes]) -> None:
    _journal(manifest, sleeper)
    with machine_lock("living", root), pytest.raises(BusyError, match="living"):
        clean(root)
    assert sleeper.poll() is None
    assert manifest.directory.exists()


def test_a_run_cleans_itself_under_its_own_lock(manifest: RunManifest, root: Path) -> None:
    other = RunManifest.create("other", root)
    with machine_lock(manifest.run_name, root):
        assert clean_run(manifest).runs == (manifest.run_name,)
        assert clean_run(manifest).removed == ()
    assert not manifest.directory.exists()
    assert other.directory.exists()


def test_a_run_that_cannot_be_undone_says_so(manifest: RunManifest) -> None:
    manifest.will_create("satellite", orbit=3)
    with pytest.raises(MachineError, match="satellite") as caught:
        clean_run(manifest)
    assert "clean" in str(caught.value.remedy)
    assert manifest.directory.exists()


def test_only_directories_with_the_name_of_the_run_are_removed(
    manifest: RunManifest, root: Path, tmp_path: Path
) -> None:
    ours = tmp_path / f"testbed-{manifest.run_name}" / "node1"
    foreign = tmp_path / "photos"
    link = tmp_path / manifest.run_name
    for directory in (ours, foreign):
        directory.mkdir(parents=True)
        (directory / "file").touch()
    link.symlink_to(foreign)
    for path in (ours.parent, ours, foreign, link, tmp_path / manifest.run_name / ".." / "photos"):
        manifest.will_create("directory", path=str(path))
    report = clean(root)
    assert not ours.parent.exists()
    assert (foreign / "file").exists()
    assert link.is_symlink()
    assert len(report.spared) == 3
    assert report.failed == ()


def test_what_is_unknown_keeps_the_journal(manifest: RunManifest, root: Path) -> None:
    manifest.will_create("satellite", orbit=3)
    manifest.will_create("process", role="no pid")
    report = clean(root)
    assert len(report.failed) == 2
    assert manifest.directory.exists()


def test_a_path_that_is_no_cgroup_is_spared(manifest: RunManifest, root: Path, tmp_path: Path) -> None:
    path = tmp_path / f"testbed-{manifest.run_name}"
    path.mkdir()
    manifest.will_create("cgroup", path=str(path))
    assert clean(root).spared == (f"cgroup {path}: no cgroup of run {manifest.run_name}",)
    assert path.exists()


@pytest.mark.root
def test_cgroups_and_all_in_them_go_and_a_foreign_one_stays(
    manifest: RunManifest, root: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    manager = CgroupManager.detect()
    cgroup = manager.create(manifest, "node1", None, None)
    foreign = CgroupMounts.read().v1.get("cpu", CgroupMounts.read().v2)
    assert foreign is not None
    foreign = foreign / f"foreign-{os.getpid()}"
    foreign.mkdir()
    try:
        (foreign / "cgroup.procs").write_text(str(sleeper.pid))
        manifest.will_create("cgroup", path=str(foreign))  # a wrong line must not hurt either
        code = (
            "import sys, signal, os\n"
            "for path in sys.argv[1:]: open(path, 'w').write('0')\n"
            "os.fork()\n"
            "print(flush=True); signal.pause()\n"
        )
        paths = list(map(str, cgroup.join_paths()))
        with subprocess.Popen([sys.executable, "-c", code, *paths], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.stdout.readline()
            report = clean(root)
            assert process.wait(timeout=WAIT_S) == -signal.SIGKILL
        assert "process: 2 more in the cgroups of the run" in report.removed
        assert not [path for path in manager.run_directories(manifest.run_name) if path.exists()]
        assert [line.split(":")[0] for line in report.spared] == [f"cgroup {foreign}"]
        assert sleeper.poll() is None
        assert foreign.exists()
    finally:
        kill_members([foreign], time.monotonic() + WAIT_S)
        remove_tree(foreign, time.monotonic() + WAIT_S)


@pytest.mark.root
def test_interfaces_go_by_index_or_alias_only(manifest: RunManifest, root: Path) -> None:
    # In a network namespace of its own, with its own /sys, so that the machine's interfaces are out of reach.
    code = (
        "import pathlib, subprocess, sys\n"
        "from testbed.emulation.cleaner import clean\n"
        "from testbed.emulation.manifest import RunManifest\n"
        "run = lambda *argv: subprocess.run(argv, check=True, timeout=10)\n"
        "run('mount', '-t', 'sysfs', 'sysfs', '/sys')\n"
        "manifest = RunManifest(pathlib.Path(sys.argv[1]))\n"
        "run('ip', 'link', 'add', 'a0', 'index', '101', 'type', 'bridge')\n"
        "run('ip', 'link', 'add', 'b0', 'index', '102', 'type', 'bridge')\n"
        "run('ip', 'link', 'add', 'c0', 'index', '103', 'type', 'bridge')\n"
        "run('ip', 'link', 'set', 'dev', 'c0', 'alias', 'testbed-' + manifest.run_name)\n"
        "for name, index in (('a0', 101), ('b0', 999), ('c0', None), ('gone', 5)):\n"
        "    manifest.will_create('interface', name=name, ifindex=index)\n"
        "report = clean(manifest.directory.parent)\n"
        "print(*report.removed[:2], *report.spared, *report.failed, sep=';')\n"
        "print(sorted(path.name for path in pathlib.Path('/sys/class/net').iterdir() if path.name != 'lo'))\n"
    )
    done = subprocess.run(
        ["unshare", "--net", "--mount", sys.executable, "-c", code, str(manifest.directory)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said, left = done.stdout.splitlines()
    assert said.split(";") == [
        "interface c0",
        "interface a0",
        "interface b0: neither its index nor its alias is the run's",
    ]
    # A fallback tunnel may come with each namespace, by the kernel's own settings.
    assert "'b0'" in left
    assert "'a0'" not in left
    assert "'c0'" not in left


@pytest.mark.root
def test_mounts_and_named_namespaces_go(manifest: RunManifest, root: Path, tmp_path: Path) -> None:
    mount = manifest.directory / "disk"
    mount.mkdir()
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    name = f"{manifest.run_name}-ns"
    manifest.will_create("mount", path=str(mount))
    manifest.will_create("netns", name=name)
    manifest.will_create("netns", name="foreign-without-the-name")
    subprocess.run(["mount", "--bind", str(kept), str(mount)], check=True, timeout=10)
    subprocess.run(["ip", "netns", "add", name], check=True, timeout=10)
    report = clean(root)
    assert f"mount {mount}" in report.removed
    assert f"netns {name}" in report.removed
    assert report.failed == ()
    assert (kept / "file").exists()
    assert not (Path("/run/netns") / name).exists()
    assert not manifest.directory.exists()


@pytest.mark.root
def test_what_is_mounted_unknown_to_the_journal_is_not_emptied(
    manifest: RunManifest, root: Path, tmp_path: Path
) -> None:
    mount = manifest.directory / "disk"
    mount.mkdir()
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    subprocess.run(["mount", "--bind", str(kept), str(mount)], check=True, timeout=10)
    try:
        report = clean(root)
        assert "still mounted" in report.failed[0]
        assert (kept / "file").exists()
        assert manifest.directory.exists()
    finally:
        subprocess.run(["umount", str(mount)], check=True, timeout=10)
    assert clean(root).failed == ()


@pytest.mark.root
def test_after_a_killed_run_nothing_is_left(root: Path) -> None:
    code = (
        "import pathlib, signal, subprocess, sys\n"
        "from testbed.emulation.cgroups import CgroupManager\n"
        "from testbed.emulation.lock import machine_lock\n"
        "from testbed.emulation.manifest import RunManifest\n"
        "from testbed.emulation.nursery import Nursery, SpawnRequest\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "name = sys.argv[3]\n"
        "with machine_lock(name, root):\n"
        "    manifest = RunManifest.create(name, root)\n"
        "    cgroup = CgroupManager.detect().create(manifest, 'node1', None, None)\n"
        "    with Nursery(['nursery_entries'], root, manifest) as nursery:\n"
        "        nursery.spawn(SpawnRequest('node1', 'nursery_entries:announce', {}, root / 'log',\n"
        "                                   cgroup_paths=cgroup.join_paths(), fds=[1]))\n"
        "        signal.pause()\n"
    )
    name = f"test-{uuid.uuid4().hex[:8]}"
    argv = [sys.executable, "-c", code, str(root), str(Path(__file__).parent), name]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as runner:
        assert runner.stdout is not None
        assert runner.stdout.readline() == b"node1 is up\n"
        with pytest.raises(BusyError, match=name):
            clean(root)
        runner.kill()
        runner.wait(timeout=WAIT_S)
    identities = [
        ProcessIdentity(int(str(entry.facts["pid"])), int(str(entry.facts["start_time_ticks"])))
        for entry in RunManifest(root / name).of_kind("process")
    ]
    assert len(identities) == 2
    report = clean(root)
    assert report.failed == report.spared == ()
    assert not any(identity.alive for identity in identities)
    assert not [path for path in CgroupManager.detect().run_directories(name) if path.exists()]
    assert not (root / name).exists()

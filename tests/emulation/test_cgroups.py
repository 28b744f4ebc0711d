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

from testbed.emulation.cgroup_tree import CgroupMounts, kill_members, members, remove_tree
from testbed.emulation.cgroups import Cgroup, CgroupManager, CpuLimit
from testbed.emulation.manifest import RunManifest
from testbed.errors import MachineError

MIB = 2**20
JOIN = "import sys\nfor path in sys.argv[1:]:\n    open(path, 'w').write('0')\n"


# Pure logic, no root


def test_quota_of_a_share() -> None:
    limit = CpuLimit(share=0.05, period_s=0.02)
    assert (limit.quota_us, limit.period_us) == (1000, 20000)


@pytest.mark.parametrize(
    ("share", "period_s", "remedy"),
    [(0.01, 0.02, "100ms"), (0.0005, 0.02, "0.1%"), (0.5, 2.0, "1ms and 1s"), (0.5, 0.0005, "1ms and 1s")],
)
def test_a_share_the_kernel_cannot_hold_is_refused(share: float, period_s: float, remedy: str) -> None:
    with pytest.raises(MachineError) as caught:
        CpuLimit(share, period_s)
    assert remedy in str(caught.value.remedy)


def test_controllers_together_and_apart(tmp_path: Path) -> None:
    table = tmp_path / "mounts"
    table.write_text(
        "tmpfs /sys/fs/cgroup tmpfs rw,mode=755 0 0\n"
        "cgroup /cg/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0\n"
        "cgroup /cg/with\\040space cgroup rw,memory 0 0\n"
        "cgroup /cg/freezer cgroup rw,freezer 0 0\n"
        "cgroup2 /cg/unified cgroup2 rw 0 0\n"
    )
    mounts = CgroupMounts.read(table)
    assert mounts.v1["cpu"] == mounts.v1["cpuacct"] == Path("/cg/cpu,cpuacct")
    assert mounts.v1["memory"] == Path("/cg/with space")
    assert mounts.v2 == Path("/cg/unified")
    assert mounts.hold(Path("/cg/freezer/testbed-x"))
    assert not mounts.hold(Path("/cg/freezer"))
    assert not mounts.hold(Path("/cg/freezer/../../etc"))
    manager = CgroupManager.detect(table)
    assert manager.version == 1
    assert manager.run_directories("x") == (
        Path("/cg/with space/testbed-x"),
        Path("/cg/freezer/testbed-x"),
        Path("/cg/cpu,cpuacct/testbed-x"),
    )


def test_a_machine_without_controllers_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "mounts"
    table.write_text("cgroup /cg/freezer cgroup rw,freezer 0 0\n")
    with pytest.raises(MachineError, match="cpu, cpuacct, memory") as caught:
        CgroupManager.detect(table)
    assert caught.value.remedy


# Version 2 against a tree of plain files


@pytest.fixture
def v2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[CgroupManager, Path]:
    """A fake cgroup2 tree: mkdir of a cgroup brings its control files, as the kernel does."""
    root = tmp_path / "cg"
    root.mkdir()
    table = tmp_path / "mounts"
    table.write_text(f"cgroup2 {root} cgroup2 rw 0 0\n")
    (root / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    (root / "cgroup.subtree_control").write_text("memory\n")
    real = Path.mkdir

    def mkdir(self: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        real(self, mode, parents, exist_ok)
        if root in self.parents:
            for name, text in {
                "cgroup.controllers": "cpu memory pids\n",
                "cgroup.subtree_control": "",
                "cgroup.procs": "",
                "cgroup.freeze": "0\n",
                "cpu.max": "max 100000\n",
                "cpu.stat": "usage_usec 1500000\nuser_usec 1\nnr_periods 7\nnr_throttled 3\nthrottled_usec 250000\n",
                "memory.max": "max\n",
                "memory.swap.max": "max\n",
                "memory.stat": "anon 4096\nfile 8192\n",
                "memory.events": "low 0\noom 1\noom_kill 2\n",
                "memory.peak": "12345\n",
                "io.max": "",
            }.items():
                (self / name).write_text(text)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    return CgroupManager.detect(table), root


def test_v2_limits_and_stats(v2: tuple[CgroupManager, Path], tmp_path: Path) -> None:
    manager, root = v2
    manifest = RunManifest.create("r", tmp_path / "run")
    # The fake files keep the tail of what was there before, unlike the kernel's: begin with empty ones.
    cgroup = manager.create(manifest, "node1", None, None)
    leaf = root / "testbed-r" / "node1"
    for name in ("cpu.max", "memory.max", "memory.swap.max"):
        (leaf / name).write_text("")
    cgroup.set_cpu(CpuLimit(0.25, 0.02))
    cgroup.set_memory(64 * MIB + 1)

    assert manager.version == 2
    assert cgroup.join_paths() == [leaf / "cgroup.procs"]
    assert (leaf / "cpu.max").read_text() == "5000 20000"
    assert (leaf / "memory.max").read_text() == str(64 * MIB)
    assert (leaf / "memory.swap.max").read_text() == "0"
    stats = cgroup.stats()
    assert (stats.cpu_usage_s, stats.nr_periods, stats.nr_throttled, stats.throttled_s) == (1.5, 7, 3, 0.25)
    assert (stats.memory_rss_bytes, stats.memory_peak_bytes, stats.oom_kills) == (4096, 12345, 2)
    assert [entry.facts["path"] for entry in manifest.of_kind("cgroup")] == [str(root / "testbed-r")]


def test_v2_adds_only_the_controllers_that_are_not_handed_on_yet(
    v2: tuple[CgroupManager, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, root = v2
    written: list[tuple[Path, str]] = []
    monkeypatch.setattr(
        "testbed.emulation.cgroup_v2.write_value", lambda path, value, remedy: written.append((path, value))
    )
    manifest = RunManifest.create("r", tmp_path / "run")
    manager.create(manifest, "node1", None, None)
    manager.create(manifest, "node2", None, None)
    assert written == [
        (root / "cgroup.subtree_control", "+cpu"),
        (root / "cgroup.subtree_control", "+io"),
        (root / "cgroup.subtree_control", "+pids"),
        (root / "testbed-r" / "cgroup.subtree_control", "+cpu"),
        (root / "testbed-r" / "cgroup.subtree_control", "+memory"),
        (root / "testbed-r" / "cgroup.subtree_control", "+pids"),
    ]


def test_v2_rates_of_disks(v2: tuple[CgroupManager, Path], tmp_path: Path) -> None:
    manager, root = v2
    cgroup = manager.create(RunManifest.create("r", tmp_path / "run"), "node1", None, None)
    path = root / "testbed-r" / "node1" / "io.max"
    assert cgroup.limits_disks
    cgroup.set_disk_rate("7:3", 1000)
    assert path.read_text() == "7:3 rbps=1000 wbps=1000"
    path.write_text("")
    cgroup.set_disk_rate("7:3", None)
    assert path.read_text() == "7:3 rbps=max wbps=max"
    path.unlink()
    path.symlink_to("/dev/null")
    with pytest.raises(MachineError, match="reads"):
        cgroup.set_disk_rate("7:3", 1000)
    path.unlink()
    assert not cgroup.limits_disks


def test_v2_a_limit_that_does_not_stick_is_refused(v2: tuple[CgroupManager, Path], tmp_path: Path) -> None:
    manager, root = v2
    cgroup = manager.create(RunManifest.create("r", tmp_path / "run"), "node1", None, None)
    leaf = root / "testbed-r" / "node1"
    (leaf / "cpu.max").unlink()
    (leaf / "cpu.max").symlink_to("/dev/null")
    with pytest.raises(MachineError, match="reads"):
        cgroup.set_cpu(CpuLimit(0.25, 0.02))


def test_v2_a_controller_that_is_missing_is_named(v2: tuple[CgroupManager, Path], tmp_path: Path) -> None:
    manager, root = v2
    (root / "cgroup.controllers").write_text("cpu pids\n")
    with pytest.raises(MachineError, match="memory") as caught:
        manager.create(RunManifest.create("r", tmp_path / "run"), "node1", None, None)
    assert "cgroup_enable=memory" in str(caught.value.remedy)


# The real kernel


@pytest.fixture
def manifest(tmp_path: Path) -> Iterator[RunManifest]:
    made = RunManifest.create(f"test-{uuid.uuid4().hex[:8]}", tmp_path)
    yield made
    manager = CgroupManager.detect()
    kill_members(manager.run_directories(made.run_name), time.monotonic() + 10)
    manager.remove_run(made.run_name)
    assert not [path for path in manager.run_directories(made.run_name) if path.exists()]


def _start(cgroup: Cgroup, code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", JOIN + code, *map(str, cgroup.join_paths())], stdout=subprocess.PIPE)


@pytest.mark.root
def test_limits_are_set_changed_and_lifted(manifest: RunManifest) -> None:
    cgroup = CgroupManager.detect().create(manifest, "node1", CpuLimit(0.1, 0.02), 32 * MIB)
    cgroup.set_cpu(CpuLimit(0.5, 0.01))
    cgroup.set_cpu(CpuLimit(0.05, 0.1))
    cgroup.set_memory(64 * MIB)
    cgroup.set_memory(16 * MIB)
    cgroup.set_memory(None)
    cgroup.set_cpu(None)
    assert cgroup.stats().oom_kills == 0
    assert cgroup.processes() == frozenset()
    with pytest.raises(MachineError, match="there already"):
        CgroupManager.detect().create(manifest, "node1", None, None)


@pytest.mark.root
def test_the_quota_holds(manifest: RunManifest) -> None:
    cgroup = CgroupManager.detect().create(manifest, "node1", CpuLimit(0.2, 0.02), None)
    # The hog measures its own wall time, so the bound is on a ratio and not on this machine's speed. It may get
    # less than its share on a busy machine, never more (but for the quota of the periods at both ends).
    code = (
        "import time\n"
        "start = time.monotonic(); cpu = time.process_time()\n"
        "while time.process_time() - cpu < 0.2: pass\n"
        "print(time.monotonic() - start, time.process_time() - cpu)\n"
    )
    with _start(cgroup, code) as hog:
        out, _ = hog.communicate(timeout=60)
    wall_s, cpu_s = map(float, out.split())
    assert cpu_s / wall_s < 0.2 * 1.15
    stats = cgroup.stats()
    assert stats.nr_throttled > 0
    assert stats.throttled_s > 0
    assert stats.cpu_usage_s >= 0.19


@pytest.mark.root
def test_a_memory_hog_is_killed_and_counted(manifest: RunManifest) -> None:
    cgroup = CgroupManager.detect().create(manifest, "node1", None, 32 * MIB)
    code = "import sys; held = bytearray(8 * 2**20); print('held', flush=True); more = bytearray(b'x') * 2**26\n"
    with _start(cgroup, code) as hog:
        out, _ = hog.communicate(timeout=60)
    assert hog.returncode == -signal.SIGKILL
    assert out == b"held\n"
    stats = cgroup.stats()
    assert stats.oom_kills >= 1
    assert stats.memory_peak_bytes is not None
    assert stats.memory_peak_bytes <= 32 * MIB


@pytest.mark.root
def test_rss_counts_what_a_process_holds(manifest: RunManifest) -> None:
    cgroup = CgroupManager.detect().create(manifest, "node1", None, None)
    with _start(
        cgroup, "held = bytearray(b'x') * (20 * 2**20); import signal; print(flush=True); signal.pause()"
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert cgroup.stats().memory_rss_bytes >= 20 * MIB
        process.kill()


@pytest.mark.root
@pytest.mark.alone
def test_kill_all_ends_processes_that_fork_and_ignore_signals(manifest: RunManifest) -> None:
    cgroup = CgroupManager.detect().create(manifest, "node1", None, None)
    code = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "for _ in range(3): os.fork()\n"
        "print('up', flush=True)\n"
        "while True:\n"
        "    if os.fork() == 0: os._exit(0)\n"
        "    os.wait()\n"
    )
    foreign = subprocess.Popen(["sleep", "60"])
    with _start(cgroup, code) as process:
        assert process.stdout is not None
        for _ in range(8):
            process.stdout.readline()
        assert cgroup.kill_all(time.monotonic() + 10) >= 8
        assert cgroup.processes() == frozenset()
        cgroup.remove()
        cgroup.remove()
    assert not any(directory.exists() for directory in cgroup.directories)
    assert foreign.poll() is None
    foreign.kill()
    foreign.wait(timeout=10)


@pytest.mark.root
def test_a_busy_cgroup_is_not_removed(manifest: RunManifest) -> None:
    cgroup = CgroupManager.detect().create(manifest, "node1", None, None)
    with _start(cgroup, "import signal; print(flush=True); signal.pause()") as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(MachineError, match="busy"):
            cgroup.remove(time.monotonic() + 0.02)
        assert process.pid in cgroup.processes()
        process.kill()


@pytest.mark.root
def test_a_tree_of_version_2_is_emptied_and_removed() -> None:
    root = CgroupMounts.read().v2
    if root is None:
        pytest.skip("this kernel has no cgroup2 tree")
    top = root / f"testbed-test-{os.getpid()}"
    leaf = top / "node1"
    leaf.mkdir(parents=True)
    try:
        with subprocess.Popen(
            [
                sys.executable,
                "-c",
                JOIN + "import signal; print(flush=True); signal.pause()",
                str(leaf / "cgroup.procs"),
            ],
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            assert members([top]) == {process.pid}
            assert kill_members([top], time.monotonic() + 10) == 1
    finally:
        assert remove_tree(top, time.monotonic() + 10)
    assert not top.exists()
    assert not remove_tree(top, time.monotonic())


@pytest.mark.root
def test_a_run_outweighs_whatever_else_the_machine_does(manifest: RunManifest) -> None:
    manager = CgroupManager.detect()
    manager.create(manifest, "node1", CpuLimit(0.1, 0.02), None)
    weights = [
        (directory / name).read_text().strip()
        for directory in manager.run_directories(manifest.run_name)
        for name in ("cpu.shares", "cpu.weight")
        if (directory / name).exists()
    ]
    assert weights in (["262144"], ["10000"])

from __future__ import annotations

import json
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed.emulation.cgroups import CgroupManager, CpuLimit
from testbed.emulation.manifest import RunManifest
from testbed.emulation.nursery import Nursery, ServerProcess, SpawnRequest
from testbed.emulation.processes import ProcessIdentity, wait_pidfds
from testbed.errors import MachineError

HERE = Path(__file__).parent
WAIT_S = 20.0


@pytest.fixture
def manifest(tmp_path: Path) -> RunManifest:
    return RunManifest.create(f"test-{os.getpid()}", tmp_path / "run")


@pytest.fixture
def nursery(manifest: RunManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nursery]:
    monkeypatch.syspath_prepend(str(HERE))
    with Nursery(["json", "nursery_entries"], tmp_path, manifest) as made:
        made.ready(WAIT_S)
        yield made


def _request(tmp_path: Path, function: str, name: str = "node1", **more: Any) -> SpawnRequest:
    config = more.pop("config", {"name": name})
    return SpawnRequest(name, f"nursery_entries:{function}", config, tmp_path / f"{name}.log", **more)


def _report(nursery: Nursery, tmp_path: Path, **more: Any) -> tuple[dict[str, Any], ServerProcess]:
    """The report of a child, which has ended when this returns."""
    mine, its = socket.socketpair()
    with mine:
        mine.settimeout(WAIT_S)
        with its:
            server = nursery.spawn(_request(tmp_path, "report", fds=[its.fileno()], **more))
        with mine.makefile() as lines:
            found: dict[str, Any] = json.loads(lines.readline())
    assert server.wait(WAIT_S) == 0, (tmp_path / "node1.log").read_text()
    return found, server


def _has_gone(pid: int, pidfd: int) -> bool:
    assert wait_pidfds([pidfd], time.monotonic() + WAIT_S) == set(), f"process {pid} lives"
    return True


def test_a_child_is_what_was_ordered(nursery: Nursery, manifest: RunManifest, tmp_path: Path) -> None:
    found, server = _report(nursery, tmp_path, config={"name": "ä", "big": "x" * 1_000_000})
    assert found["config"] == {"name": "ä", "big": "x" * 1_000_000}
    assert found["pid"] == server.pid
    assert found["sid"] == server.pid
    assert found["comm"] == "node1"
    assert found["threads"] == 1
    assert found["preloaded"]
    assert found["omp"] == "1"
    assert found["sigint"]
    assert (tmp_path / "node1.log").read_text() == "hello from ä\n"
    # 0, 1, 2, what was passed, the pipe for failures, and the listing's own.
    assert set(found["passed"]) <= set(found["fds"])
    assert len(found["fds"]) == 3 + 1 + 1 + 1
    journal = [(entry.facts["pid"], entry.facts["role"]) for entry in manifest.of_kind("process")]
    assert journal == [(nursery.pid, "nursery"), (server.pid, "node1")]


@pytest.mark.parametrize(("config", "status"), [({}, 0), ({"status": 3}, 3), ({"status": "no"}, 1)])
def test_exit_status(nursery: Nursery, tmp_path: Path, config: dict[str, Any], status: int) -> None:
    assert nursery.spawn(_request(tmp_path, "finish", config=config)).wait(WAIT_S) == status


def test_a_failing_entry_tells_why(nursery: Nursery, tmp_path: Path) -> None:
    server = nursery.spawn(_request(tmp_path, "fail"))
    assert server.wait(WAIT_S) == 70
    assert server.detail == "ValueError: the disk is upside down"
    assert "Traceback" in (tmp_path / "node1.log").read_text()


@pytest.mark.parametrize("entry", ["nursery_entries:missing", "no_such_module:main", "nursery_entries:WRONG:x"])
def test_an_unknown_entry(nursery: Nursery, tmp_path: Path, entry: str) -> None:
    server = nursery.spawn(SpawnRequest("node1", entry, {}, tmp_path / "node1.log"))
    assert server.wait(WAIT_S) == 70
    assert server.detail


def test_a_cgroup_that_cannot_be_joined(nursery: Nursery, tmp_path: Path) -> None:
    server = nursery.spawn(_request(tmp_path, "finish", cgroup_paths=[tmp_path / "missing" / "cgroup.procs"]))
    assert server.wait(WAIT_S) == 71
    assert "missing" in server.detail


def test_ends_are_told_at_once_with_their_time(nursery: Nursery, tmp_path: Path) -> None:
    ends: queue.Queue[tuple[str, int, int, float]] = queue.Queue()
    nursery.on_exit(lambda *end: ends.put(end))
    server = nursery.spawn(_request(tmp_path, "wait"))
    with pytest.raises(TimeoutError):
        server.wait(0.01)
    assert server.status is None
    before_s = time.monotonic()
    assert server.kill()
    name, pid, status, t_s = ends.get(timeout=WAIT_S)
    assert (name, pid, status) == ("node1", server.pid, -signal.SIGKILL)
    assert before_s <= t_s <= time.monotonic()
    assert server.wait(WAIT_S) == -signal.SIGKILL
    assert not server.kill()
    assert not server.terminate()


def test_terminate_ends_by_sigterm(nursery: Nursery, tmp_path: Path) -> None:
    server = nursery.spawn(_request(tmp_path, "wait"))
    assert server.terminate()
    assert server.wait(WAIT_S) == -signal.SIGTERM


def test_close_ends_every_child(manifest: RunManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    deaths: list[int] = []
    with Nursery(["nursery_entries"], tmp_path, manifest) as nursery:
        nursery.on_nursery_death(lambda status, t_s: deaths.append(status))
        servers = [nursery.spawn(_request(tmp_path, "wait", f"node{number}")) for number in range(5)]
    assert [server.status for server in servers] == [-signal.SIGKILL] * 5
    assert not any(server.identity.alive for server in servers)
    assert deaths == []
    nursery.close()
    with pytest.raises(MachineError, match="ended"):
        nursery.spawn(_request(tmp_path, "wait"))


def test_a_killed_nursery_is_noticed_and_its_children_die(nursery: Nursery, tmp_path: Path) -> None:
    told: queue.Queue[Any] = queue.Queue()
    nursery.on_nursery_death(lambda status, t_s: told.put(status))
    nursery.on_exit(lambda name, pid, status, t_s: told.put((name, status)))
    server = nursery.spawn(_request(tmp_path, "wait"))
    os.kill(nursery.pid, signal.SIGKILL)
    assert told.get(timeout=WAIT_S) == -signal.SIGKILL
    assert told.get(timeout=WAIT_S) == ("node1", -signal.SIGKILL)
    assert not server.identity.alive
    with pytest.raises(MachineError, match="ended"):
        nursery.spawn(_request(tmp_path, "wait"))


def test_a_killed_runner_leaves_no_process(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys, signal\n"
        "from testbed.emulation.manifest import RunManifest\n"
        "from testbed.emulation.nursery import Nursery, SpawnRequest\n"
        "here = pathlib.Path(sys.argv[1])\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "with Nursery(['nursery_entries'], here, RunManifest.create('demo', here)) as nursery:\n"
        "    pids = [nursery.spawn(SpawnRequest(f'n{i}', 'nursery_entries:wait', {}, here / 'log')).pid\n"
        "            for i in range(3)]\n"
        "    print(nursery.pid, *pids, flush=True)\n"
        "    signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(HERE)], stdout=subprocess.PIPE) as runner:
        assert runner.stdout is not None
        pids = [int(word) for word in runner.stdout.readline().split()]
        assert len(pids) == 4
        pidfds = {pid: os.pidfd_open(pid) for pid in pids}
        runner.kill()
        runner.wait(timeout=WAIT_S)
        for pid, pidfd in pidfds.items():
            assert _has_gone(pid, pidfd)
            os.close(pidfd)


def test_a_killed_runner_leaves_no_nursery_that_still_imports(tmp_path: Path) -> None:
    (tmp_path / "slow_import.py").write_text("import signal\nsignal.pause()\n")
    code = (
        "import pathlib, sys, signal\n"
        "from testbed.emulation.manifest import RunManifest\n"
        "from testbed.emulation.nursery import Nursery\n"
        "here = pathlib.Path(sys.argv[1])\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "with Nursery(['slow_import'], here, RunManifest.create('demo', here)) as nursery:\n"
        "    print(nursery.pid, flush=True)\n"
        "    signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as runner:
        assert runner.stdout is not None
        pid = int(runner.stdout.readline())
        pidfd = os.pidfd_open(pid)
        runner.kill()
        runner.wait(timeout=WAIT_S)
        assert _has_gone(pid, pidfd)
        os.close(pidfd)


def test_a_module_that_cannot_be_imported(manifest: RunManifest, tmp_path: Path) -> None:
    with Nursery(["no_such_module"], tmp_path, manifest) as nursery:
        with pytest.raises(MachineError, match="no_such_module"):
            nursery.ready(WAIT_S)
        with pytest.raises(MachineError, match="no_such_module"):
            nursery.spawn(_request(tmp_path, "wait"))


def test_a_module_that_starts_a_thread_is_refused(
    manifest: RunManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "threaded.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with Nursery(["threaded"], tmp_path, manifest) as nursery, pytest.raises(MachineError, match="threads"):
        nursery.ready(WAIT_S)


def test_the_journal_cannot_be_written(nursery: Nursery, manifest: RunManifest, tmp_path: Path) -> None:
    manifest.path.unlink()
    manifest.path.symlink_to("/dev/full")
    server = nursery.spawn(_request(tmp_path, "wait"))
    assert server.wait(WAIT_S) == 71
    assert "journal" in server.detail


def test_a_log_that_is_a_link_is_refused(nursery: Nursery, tmp_path: Path) -> None:
    (tmp_path / "node1.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MachineError, match="log"):
        nursery.spawn(_request(tmp_path, "wait"))
    assert not (tmp_path / "elsewhere").exists()


def test_an_exception_in_a_callback_comes_out_of_close(
    manifest: RunManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    nursery = Nursery(["nursery_entries"], tmp_path, manifest)
    nursery.start()

    def refuse(name: str, pid: int, status: int, t_s: float) -> None:
        raise LookupError(name)

    nursery.on_exit(refuse)
    assert nursery.spawn(_request(tmp_path, "finish")).wait(WAIT_S) == 0
    assert nursery.spawn(_request(tmp_path, "finish")).wait(WAIT_S) == 0
    with pytest.raises(LookupError, match="node1"):
        nursery.close()


def test_an_orphan_of_a_child_is_buried_by_the_nursery(nursery: Nursery, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    nursery.spawn(_request(tmp_path, "orphan", fds=[writer])).wait(WAIT_S)
    os.close(writer)
    pid = int(os.read(reader, 100))
    os.close(reader)
    pidfd = os.pidfd_open(pid)
    assert f"\nPPid:\t{nursery.pid}\n" in Path(f"/proc/{pid}/status").read_text()
    os.kill(pid, signal.SIGKILL)
    assert _has_gone(pid, pidfd)
    os.close(pidfd)
    assert nursery.spawn(_request(tmp_path, "finish")).wait(WAIT_S) == 0


def test_the_machines_own_network_is_refused(nursery: Nursery, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="machine's own network"):
        nursery.spawn(_request(tmp_path, "wait", netns_pid=os.getpid()))
    with pytest.raises(MachineError, match="namespace of node1"):
        nursery.spawn(_request(tmp_path, "wait", netns_pid=2**22 + 1))


@pytest.mark.root
def test_a_child_enters_namespace_and_cgroup(nursery: Nursery, manifest: RunManifest, tmp_path: Path) -> None:
    manager = CgroupManager.detect()
    with subprocess.Popen(["unshare", "--net", "sleep", "60"]) as host:
        try:
            own = Path("/proc/self/ns/net").stat().st_ino
            inode = Path(f"/proc/{host.pid}/ns/net")
            deadline_s = time.monotonic() + WAIT_S
            while inode.stat().st_ino == own:  # unshare tells nobody when it has done so
                assert time.monotonic() < deadline_s
                select.select([], [], [], 0.001)
            cgroup = manager.create(manifest, "node1", CpuLimit(0.5, 0.02), 64 * 2**20)
            found, _ = _report(nursery, tmp_path, netns_pid=host.pid, cgroup_paths=cgroup.join_paths())
            assert found["netns"] == inode.stat().st_ino
            assert found["cgroup"].count(f"/testbed-{manifest.run_name}/node1") == len(cgroup.directories)
            assert cgroup.stats().memory_rss_bytes < 16 * 2**20
        finally:
            host.kill()
            manager.remove_run(manifest.run_name)


@pytest.mark.root
def test_a_child_over_its_memory_is_killed_by_the_kernel(
    nursery: Nursery, manifest: RunManifest, tmp_path: Path
) -> None:
    manager = CgroupManager.detect()
    cgroup = manager.create(manifest, "node1", None, 16 * 2**20)
    try:
        request = SpawnRequest(
            "node1",
            "nursery_entries:hold",
            {"size_bytes": 64 * 2**20},
            tmp_path / "node1.log",
            cgroup_paths=cgroup.join_paths(),
        )
        assert nursery.spawn(request).wait(WAIT_S) == -signal.SIGKILL
        assert cgroup.stats().oom_kills == 1
    finally:
        manager.remove_run(manifest.run_name)


def test_identity_of_the_nursery(nursery: Nursery, manifest: RunManifest) -> None:
    first = manifest.of_kind("process")[0].facts
    assert ProcessIdentity.of(nursery.pid).start_time_ticks == first["start_time_ticks"]

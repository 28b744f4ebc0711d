from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testbed.emulation.processes import (
    ProcessIdentity,
    is_pending,
    kill_all,
    pids_of_cgroup,
    thread_states,
    wait_pidfds,
)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def test_identity_of_a_name_with_spaces_and_parentheses() -> None:
    code = "import sys; open('/proc/self/comm', 'w').write('a) R (b'); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        identity = ProcessIdentity.of(process.pid)
        assert identity.start_time_ticks > 0
        assert identity.alive


def test_a_zombie_is_not_alive(sleeper: subprocess.Popen[bytes]) -> None:
    identity = ProcessIdentity.of(sleeper.pid)
    assert identity.alive
    pidfd = os.pidfd_open(sleeper.pid)
    assert identity.send(signal.SIGKILL)
    assert wait_pidfds([pidfd], time.monotonic() + 10) == set()
    os.close(pidfd)
    assert not identity.alive  # not reaped yet
    sleeper.wait(timeout=10)
    assert not identity.alive
    assert not identity.send(signal.SIGKILL)


def test_another_process_with_the_same_number_is_spared(sleeper: subprocess.Popen[bytes]) -> None:
    real = ProcessIdentity.of(sleeper.pid)
    stale = ProcessIdentity(real.pid, real.start_time_ticks - 1)
    assert not stale.alive
    assert not stale.send(signal.SIGKILL)
    assert kill_all([stale], time.monotonic() + 1) == {}
    assert real.alive


def test_kill_all_waits_for_the_end(sleeper: subprocess.Popen[bytes]) -> None:
    identity = ProcessIdentity.of(sleeper.pid)
    assert kill_all([identity], time.monotonic() + 10) == {identity: True}
    assert not identity.alive


def test_a_wait_ends_at_its_deadline(sleeper: subprocess.Popen[bytes]) -> None:
    pidfd = os.pidfd_open(sleeper.pid)
    assert wait_pidfds([pidfd], time.monotonic() + 0.02) == {pidfd}
    os.close(pidfd)


def test_no_such_process() -> None:
    with pytest.raises(ProcessLookupError):
        ProcessIdentity.of(2**22 + 1)


def test_pids_of_a_cgroup(tmp_path: Path) -> None:
    (tmp_path / "cgroup.procs").write_text("12\n0\n34\n")
    assert pids_of_cgroup(tmp_path / "cgroup.procs") == (12, 34)
    assert pids_of_cgroup(tmp_path / "gone") == ()


def test_all_threads_of_a_stopped_process_are_stopped_and_its_signals_wait() -> None:
    code = (
        "import signal, threading, time\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('asked', flush=True))\n"
        "print('up', flush=True)\n"
        "while True: time.sleep(0.05)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            identity = ProcessIdentity.of(process.pid)
            assert len(thread_states(identity)) == 2
            assert "T" not in thread_states(identity)
            identity.send(signal.SIGSTOP)
            assert within(lambda: thread_states(identity) == ("T", "T"))
            identity.send(signal.SIGTERM)
            assert is_pending(identity, signal.SIGTERM)
            assert not is_pending(identity, signal.SIGHUP)
            identity.send(signal.SIGCONT)
            assert process.stdout.readline() == b"asked\n"
            assert not is_pending(identity, signal.SIGTERM)
            assert "T" not in thread_states(identity)
        finally:
            process.kill()
    assert thread_states(identity) == ()
    assert not is_pending(identity, signal.SIGTERM)


def within(condition: Callable[[], bool], deadline_s: float = 20.0) -> bool:
    until_s = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > until_s:
            return False
        time.sleep(0.005)
    return True

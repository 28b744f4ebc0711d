from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.emulation.lock import LOCK_NAME, holder, machine_lock
from testbed.errors import BusyError

HOLD = (
    "import sys, pathlib\n"
    "from testbed.emulation.lock import machine_lock\n"
    "with machine_lock('other-run', pathlib.Path(sys.argv[1])):\n"
    "    {inside}\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.read()\n"
)


def _hold(root: Path, inside: str = "pass") -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(inside=inside), str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_the_second_is_refused_and_told_by_whom(tmp_path: Path) -> None:
    with _hold(tmp_path) as other:
        with pytest.raises(BusyError) as caught, machine_lock("mine", tmp_path):
            pass
        assert "other-run" in caught.value.message
        assert str(other.pid) in caught.value.message
        assert caught.value.exit_code == 3
        assert f"kill -INT {other.pid}" in str(caught.value.remedy)
        found = holder(tmp_path)
        assert found is not None
        assert found.run_name == "other-run"
    with machine_lock("mine", tmp_path) as lock:
        assert (lock.run_name, lock.root) == ("mine", tmp_path)
    assert holder(tmp_path) is None


def test_a_killed_holder_holds_nothing_even_if_its_child_lives(tmp_path: Path) -> None:
    inside = "import subprocess; print(subprocess.Popen(['sleep', '60']).pid, file=sys.stderr, flush=True)"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(inside=inside), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with other:
        assert other.stdout is not None
        assert other.stderr is not None
        other.stdout.readline()
        child = int(other.stderr.readline())
        try:
            other.kill()
            other.wait(timeout=10)
            with machine_lock("mine", tmp_path):
                found = holder(tmp_path)
                assert found is not None
                assert found.pid == os.getpid()
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_holder_that_has_not_written_its_name_yet(tmp_path: Path) -> None:
    with _hold(tmp_path) as other:
        (tmp_path / LOCK_NAME).write_text("")
        with pytest.raises(BusyError, match="just begun"), machine_lock("mine", tmp_path):
            pass
        assert other.stdin is not None


def test_two_in_one_process_exclude_each_other(tmp_path: Path) -> None:
    with machine_lock("first", tmp_path), pytest.raises(BusyError, match="first"), machine_lock("second", tmp_path):
        pass

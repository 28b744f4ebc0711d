"""A memory limit below what a host holds: the kernel kills, whichever version its control groups are of."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.balloon import offer
from testbed.emulation.cgroups import Cgroup, CgroupManager
from testbed.emulation.manifest import RunManifest
from testbed.errors import MachineError

pytestmark = pytest.mark.root

MIB = 2**20
HOLD = """
import signal, sys
for path in sys.argv[1:]:
    open(path, "w").write("0")
held = bytearray(b"x") * (24 << 20)
print("held", flush=True)
signal.pause()
"""


@pytest.fixture
def cgroup(tmp_path: Path) -> Iterator[Cgroup]:
    manager, name = CgroupManager.detect(), f"test-{uuid.uuid4().hex[:8]}"
    made = manager.create(RunManifest.create(name, tmp_path), "node1", None, 64 * MIB)
    yield made
    manager.remove_run(name)


def balloon(join: Path, most_bytes: int) -> subprocess.CompletedProcess[bytes]:
    program = f"import runner.balloon as b; b.main({{'join': {str(join)!r}, 'most_bytes': {most_bytes}}}, [])"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)


def test_an_idle_process_is_killed_when_its_memory_is_squeezed(cgroup: Cgroup) -> None:
    paths = [str(path) for path in cgroup.join_paths()]
    with subprocess.Popen([sys.executable, "-c", HOLD, *paths], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            join = cgroup.squeeze_memory(8 * MIB)
            if join is not None:  # version 1
                offer(holder.pid)
                done = balloon(join, 64 * MIB)
                assert done.returncode == 0, done.stderr
            assert holder.wait(20) == -signal.SIGKILL
        finally:
            holder.kill()
    assert cgroup.stats().oom_kills == 1
    cgroup.set_memory(8 * MIB)


def test_a_limit_above_what_is_held_is_set_and_nobody_is_killed(cgroup: Cgroup) -> None:
    paths = [str(path) for path in cgroup.join_paths()]
    with subprocess.Popen([sys.executable, "-c", HOLD, *paths], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            assert cgroup.squeeze_memory(48 * MIB) is None
            assert holder.poll() is None
        finally:
            holder.kill()
    assert cgroup.stats().oom_kills == 0


def test_an_impossible_limit_is_refused(cgroup: Cgroup) -> None:
    with pytest.raises(MachineError, match="below one page"):
        cgroup.squeeze_memory(os.sysconf("SC_PAGE_SIZE") - 1)

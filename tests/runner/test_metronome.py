"""Quotas are enforced in slices of a millisecond where the metronome beats."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runner import metronome
from testbed.emulation.cgroups import CgroupManager, CpuLimit
from testbed.emulation.manifest import RunManifest

PERIODS = 100
LIMIT = CpuLimit(0.05, 0.02)
PAUSE_S = 5e-3
"""Shorter than the pause that a quota makes, longer than what a wake-up of another process takes."""


def pauses_under_a_quota(join: list[str]) -> int:
    """How often a busy process was held back in so many periods."""
    for path in join:
        Path(path).write_text("0")
    ended_s = time.monotonic() + PERIODS * LIMIT.period_s
    count, last_s = 0, time.monotonic()
    while last_s < ended_s:
        now_s = time.monotonic()
        count += now_s - last_s > PAUSE_S
        last_s = now_s
    return count


@contextmanager
def beating() -> Iterator[None]:
    pids = []
    for cpu in metronome.cpus():
        pid = os.fork()
        if pid == 0:
            try:
                metronome.main({"cpu": cpu}, [])
            finally:
                os._exit(1)
        pids.append(pid)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@pytest.mark.root
@pytest.mark.alone
def test_a_busy_host_gets_a_slice_in_most_periods(tmp_path: Path) -> None:
    """Without the metronome it gets a tick's worth (4 ms at 250 Hz) of its 1 ms, and pauses for four periods."""
    manager = CgroupManager.detect()
    manifest = RunManifest.create(f"metronome-{os.getpid()}", tmp_path / "run")
    try:
        paths = [str(path) for path in manager.create(manifest, "busy", LIMIT, None).join_paths()]
        with beating(), multiprocessing.get_context("fork").Pool(1) as pool:
            pauses = pool.apply_async(pauses_under_a_quota, (paths,)).get(60)
    finally:
        manager.remove_run(manifest.run_name)
    assert pauses > 0.6 * PERIODS

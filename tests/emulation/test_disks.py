"""Disks of hosts: real file systems, and what befalls them."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.emulation import ext4, loop, syscalls
from testbed.emulation.cgroups import Cgroup, CgroupManager
from testbed.emulation.cleaner import clean
from testbed.emulation.disk import HostDisk
from testbed.emulation.disks import Condition, Disks
from testbed.emulation.manifest import RunManifest
from testbed.emulation.mounts import read_mounts
from testbed.errors import MachineError
from tests.emulation.snapshot import difference
from tests.emulation.world import world

MIB = 2**20
FINE, FULL, READONLY, GONE = Condition(), Condition(full=True), Condition(readonly=True), Condition(gone=True)
SLOW = Condition(rate_bytes_s=600_000)


@pytest.mark.parametrize("total", [1, MIB, 64 * MIB, 511 * MIB, 512 * MIB, 4096 * MIB, 10**12])
def test_there_is_room_for_tables_beside_what_is_declared(total: int) -> None:
    found = ext4.Geometry.for_files(total)
    assert found.image_bytes % found.block_bytes == 0
    assert found.image_bytes >= total + found.inodes * 256
    assert found.image_bytes <= total * 1.08 + 5 * MIB


def test_a_copy_has_the_bytes_and_the_holes(tmp_path: Path) -> None:
    template = tmp_path / "template"
    with template.open("wb") as file:
        file.truncate(64 * MIB)
        file.seek(10 * MIB)
        file.write(os.urandom(2 * MIB + 5))
    ext4.copy(template, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == template.read_bytes()
    assert (tmp_path / "copy").stat().st_blocks * 512 < 4 * MIB


@pytest.fixture
def manifest(tmp_path: Path) -> Iterator[RunManifest]:
    made = RunManifest.create(f"disks-{uuid.uuid4().hex[:8]}", tmp_path / "runs")
    yield made
    clean(made.directory.parent)


@pytest.fixture
def work(manifest: RunManifest, tmp_path: Path) -> Path:
    made = tmp_path / f"testbed-{manifest.run_name}"
    made.mkdir()
    manifest.will_create("directory", path=str(made))
    return made


@pytest.fixture
def disk(manifest: RunManifest, work: Path) -> Iterator[HostDisk]:
    """With three files of 200 kB in a folder."""
    with Disks({"node1": 8 * MIB}, work / "storage", work / "disks", manifest) as disks:
        (disks["node1"].folder / "weights").mkdir()
        for name in "abc":
            (disks["node1"].folder / "weights" / name).write_bytes(os.urandom(200_000))
        yield disks["node1"]


@pytest.fixture
def cgroup(manifest: RunManifest) -> Iterator[Cgroup]:
    manager = CgroupManager.detect()
    made = manager.create(manifest, "node1", None, None)
    if not made.limits_disks:
        manager.remove_run(manifest.run_name)
        pytest.skip("control groups of this machine can't limit disks")
    yield made
    manager.remove_run(manifest.run_name)


@contextlib.contextmanager
def fails_with(number: int) -> Iterator[None]:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number says which
        yield
    assert caught.value.errno == number


def sync(disk: HostDisk) -> None:
    descriptor = os.open(disk.folder, os.O_RDONLY)
    try:
        syscalls.sync_filesystem(descriptor)
    finally:
        os.close(descriptor)


def attached_devices(work: Path) -> list[str]:
    return [device for image in (work / "disks").glob("*") for device in loop.devices_of(image)]


@pytest.mark.root
def test_each_host_has_what_it_declares_and_nothing_stays(manifest: RunManifest, work: Path) -> None:
    sizes = {"node1": 8 * MIB, "node2": 8 * MIB, "node3": MIB, "node4": None}
    disks = Disks(sizes, work / "storage", work / "disks", manifest)
    with disks:
        assert len(attached_devices(work)) == 4
        for host, size in sizes.items():
            disk = disks[host]
            assert disk.free_bytes >= (size or 2**32)
            (mounted,) = (mount for mount in read_mounts() if mount.target == disk.folder)
            assert mounted.kind == "ext4"
            assert {"rw", "nosuid", "nodev", "noexec"} <= set(mounted.options)
        with fails_with(errno.ENOSPC):
            (disks["node1"].folder / "large").write_bytes(bytes(12 * MIB))
        assert disks["node2"].free_bytes >= 8 * MIB
        # Journalled before it was there: what a killed run leaves can be found.
        assert {entry.facts["path"] for entry in manifest.of_kind("mount")} == {
            str(disks[host].folder) for host in sizes
        }
        assert "node5" not in disks
        with pytest.raises(MachineError, match="node5 has no disk"):
            disks["node5"]
    disks.stop()
    assert not [mount for mount in read_mounts() if work in mount.target.parents]


KILLED = """
import os
from pathlib import Path
from testbed.emulation.disks import Condition, Disks
from testbed.emulation.manifest import RunManifest
manifest, work = RunManifest.create("disks-of-test"), Path("/var/tmp/testbed-disks-of-test")
manifest.will_create("directory", path=str(work))
work.mkdir()
disks = Disks({"node1": 1 << 20, "node2": 1 << 20}, work / "storage", work / "disks", manifest)
disks.start()
disks["node2"].become(Condition(gone=True))
disks["node1"].become(Condition(gone=True))
disks["node1"].become(Condition(readonly=True))
os.kill(os.getpid(), 9)
"""


@pytest.mark.root
def test_what_a_killed_run_leaves_is_cleaned() -> None:
    # In a world of its own: whoever makes a mount namespace copies the mounts of the one it comes from, and a copy
    # keeps the device until it ends.
    with world() as machine:
        machine.testbed("clean")
        before = machine.snapshot("testbed-disks-of-test")
        machine.run(sys.executable, "-c", KILLED, check=False)
        left = difference(before, machine.snapshot("testbed-disks-of-test"))
        assert sum("loop devices" in line for line in left) == 3  # one that came back, and what had failed beneath it
        cleaned = machine.testbed("clean")
        assert cleaned.returncode == 0, cleaned.stderr
        assert difference(before, machine.snapshot("testbed-disks-of-test")) == []


@pytest.mark.root
def test_a_device_that_nobody_mounts_detaches_itself(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(MIB))
    with loop.attached(image) as device:
        assert loop.devices_of(image) == (device,)
    assert loop.devices_of(image) == ()
    loop.detach(device)  # once more does no harm


@pytest.mark.root
def test_full(disk: HostDisk) -> None:
    file = disk.folder / "weights" / "new"
    assert disk.become(FULL) == "0 bytes free"
    with fails_with(errno.ENOSPC):
        file.write_bytes(bytes(10_000))
    assert len((disk.folder / "weights" / "a").read_bytes()) == 200_000
    (disk.folder / "weights" / "b").unlink()
    file.write_bytes(bytes(100_000))  # what the host itself deletes makes room
    assert disk.become(FINE) == "works"
    file.write_bytes(bytes(4 * MIB))


@pytest.mark.root
def test_readonly_even_while_the_host_writes(disk: HostDisk) -> None:
    writing = "import sys, time\nfile = open(sys.argv[1], 'wb')\nprint('open', flush=True)\ntime.sleep(0.3)\n"
    argv = [sys.executable, "-c", writing, str(disk.folder / "weights" / "new")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        assert disk.become(READONLY) == "read-only"
    with fails_with(errno.EROFS):
        (disk.folder / "weights" / "a").write_bytes(b"")
    with fails_with(errno.EROFS):
        (disk.folder / "weights" / "a").unlink()
    assert len((disk.folder / "weights" / "a").read_bytes()) == 200_000
    assert disk.become(FINE) == "works"
    (disk.folder / "weights" / "a").unlink()


@pytest.mark.root
def test_gone_and_back_with_what_was_on_it(disk: HostDisk) -> None:
    before = (disk.folder / "weights" / "a").read_bytes()
    sync(disk)
    assert disk.become(GONE) == "input/output errors"
    for attempt in (
        lambda: (disk.folder / "weights" / "a").read_bytes(),
        lambda: (disk.folder / "weights" / "a").write_bytes(b"x"),
        lambda: (disk.folder / "weights" / "new").touch(),
    ):
        with fails_with(errno.EIO):
            attempt()
    assert "nothing" in disk.corrupt("weights", "seed")
    assert disk.become(FINE) == "works"
    assert (disk.folder / "weights" / "a").read_bytes() == before
    (disk.folder / "weights" / "new").write_bytes(bytes(100_000))


def sectors_written(device: str) -> int:
    return int((loop.BLOCK_DEVICES / device / "stat").read_text().split()[6])


@pytest.mark.root
def test_what_failed_has_nothing_left_to_write_over_what_was_mended(disk: HostDisk, work: Path) -> None:
    (failed,) = attached_devices(work)
    disk.become(GONE)
    disk.become(FINE)
    before = sectors_written(failed)
    # Not by loop.write_back: were that to write nothing, nothing would show.
    descriptor = os.open(f"/dev/{failed}", os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    assert sectors_written(failed) == before


@pytest.mark.root
def test_corrupt_is_on_the_device_and_shows_by_nothing_but_the_bytes(disk: HostDisk) -> None:
    files = [disk.folder / "weights" / name for name in "abc"]
    before = [(file.read_bytes(), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    assert disk.corrupt("weights", "seed") == "a bit of each of 3 files flipped"
    disk.become(GONE)  # and so not in memory only
    disk.become(FINE)
    for file, (data, size, mtime_ns) in zip(files, before, strict=True):
        differing = [(old ^ new).bit_count() for old, new in zip(data, file.read_bytes(), strict=True) if old != new]
        assert differing == [1]
        assert (file.stat().st_size, file.stat().st_mtime_ns) == (size, mtime_ns)
    assert disk.corrupt("journal", "seed") == "no file to damage"


@pytest.mark.root
def test_faults_compose_and_each_heals_alone(disk: HostDisk) -> None:
    sync(disk)
    disk.become(FULL)
    assert disk.become(Condition(full=True, readonly=True)) == "read-only, 0 bytes free"
    assert disk.corrupt("weights", "") == "a bit of each of 3 files flipped"
    with fails_with(errno.EROFS):
        (disk.folder / "weights" / "a").unlink()
    disk.become(Condition(full=True, readonly=True, gone=True))
    assert disk.become(Condition(readonly=True, gone=True)) == "input/output errors"
    assert disk.become(READONLY) == "read-only"
    assert disk.free_bytes > 4 * MIB
    assert disk.become(FINE) == "works"


TIMED = """
import sys, time
folder, *joins = sys.argv[1:]
for path in joins:
    open(path, "w").write("0")
start_s = time.monotonic()
size = sum(len(open(f"{folder}/{name}", "rb").read()) for name in "abc")
read_s = time.monotonic()
open(f"{folder}/new", "wb").write(bytes(size))
print(read_s - start_s, time.monotonic() - read_s)
"""


def seconds(disk: HostDisk, cgroup: Cgroup) -> tuple[float, float]:
    """What a process of the host takes to read 600 kB, and to write as many."""
    argv = [sys.executable, "-c", TIMED, str(disk.folder / "weights"), *map(str, cgroup.join_paths())]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    read_s, write_s = map(float, done.stdout.split())
    return read_s, write_s


@pytest.mark.root
def test_slow_for_the_host_alone(disk: HostDisk, cgroup: Cgroup) -> None:
    assert disk.become(SLOW, cgroup) == "600000 bytes a second"
    read_s, write_s = seconds(disk, cgroup)
    # The kernel lets a tenth of a second's worth through at once. A busy machine can only be slower.
    assert read_s > 0.8
    assert write_s > 0.8
    start_s = time.monotonic()
    (disk.folder / "weights" / "other").write_bytes(bytes(2_400_000))
    assert time.monotonic() - start_s < 3.5  # 4 s at the host's rate
    # It survives what befalls the disk besides, and comes back with it.
    disk.become(GONE)
    assert disk.become(SLOW) == "600000 bytes a second"
    assert seconds(disk, cgroup)[1] > 0.8
    assert disk.become(FINE) == "works"
    read_s, write_s = seconds(disk, cgroup)
    assert max(read_s, write_s) < 0.8


@pytest.mark.root
def test_what_the_host_is_writing_slowly_holds_nothing_up(disk: HostDisk, cgroup: Cgroup) -> None:
    disk.become(Condition(rate_bytes_s=10_000), cgroup)
    writing = (
        "import sys\nfolder, *joins = sys.argv[1:]\nfor path in joins:\n    open(path, 'w').write('0')\n"
        "file = open(f'{folder}/new', 'wb', buffering=0)\nprint('open', flush=True)\nfile.write(bytes(2_000_000))\n"
    )
    argv = [sys.executable, "-c", writing, str(disk.folder / "weights"), *map(str, cgroup.join_paths())]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        # 200 s of writing, were it not let through.
        assert disk.become(Condition(rate_bytes_s=10_000, readonly=True)) == "read-only, 10000 bytes a second"
        assert process.wait(10) == 0
    disk.become(FINE)

"""The disk of one emulated host, and what can befall it.

It is a real file system on a real block device, so each fault is the kernel's own: a full disk is full of blocks, a
lost one gives input/output errors, a slow one is throttled by the block layer. Faults compose, and healing one leaves
the others in force.

- *Full*: a file takes all that is free. What the host itself deletes makes room again, as it would.
- *Read-only*: mounted so.
- *Slow*: the block layer lets the host's control group through at a rate in bytes a second, reading and writing each.
  Control groups of version 1 know the writer only of what is written at once, not of what the kernel writes back
  later; so the file system is mounted synchronous meanwhile, on either version: whoever writes waits. The cache is
  dropped, so that whoever reads waits as well; what was read once is in memory then, as on any machine.
- *Gone*: the file system is shut down, as the kernel does when a device fails under it. What wasn't written to the
  device by then is lost. It comes back checked and mended, as after a restart.
- *Corrupt*: a bit of each file is flipped where it is stored; size and times stay, and nobody is told.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from testbed.emulation import ext4, loop, syscalls
from testbed.emulation.cgroups import Cgroup
from testbed.emulation.manifest import RunManifest
from testbed.errors import MachineError

BUSY_S = 5.0
HEALTHY = "works"
"""What is read back of a disk that nothing is wrong with."""

_RETRY_S = 0.002
BALLAST = "ballast"
"""A file in a disk's root: empty, unless the disk is to be full. It also shows whether the disk works."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What is wrong with a disk; the default is nothing.

    Attributes:
        full: No block is free.
        readonly: Nothing can be written.
        rate_bytes_s: How much can be read, and how much written, a second; None for as much as the machine can.
        gone: Nothing works.
    """

    full: bool = False
    readonly: bool = False
    rate_bytes_s: int | None = None
    gone: bool = False


class HostDisk:
    """A file system of a host's own.

    Args:
        host: Its name.
        image: The file that holds it, made already.
        folder: Where it is mounted; exists.
        manifest: Journal of the run.
    """

    def __init__(self, host: str, image: Path, folder: Path, manifest: RunManifest) -> None:
        self.host = host
        self.folder = folder
        self._image = image
        self._manifest = manifest
        self._devices: list[str] = []
        self._condition = Condition()
        self._cgroup: Cgroup | None = None
        self._limited: tuple[Cgroup, str] | None = None

    @property
    def condition(self) -> Condition:
        """What is wrong with it."""
        return self._condition

    @property
    def _ballast(self) -> Path:
        return self.folder / BALLAST

    @property
    def free_bytes(self) -> int:
        """Bytes that can still be written."""
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def mount(self, *, check: bool = False) -> None:
        """Mount it, on top of what is mounted there.

        Args:
            check: Whether it has to be mended first.

        Raises:
            MachineError: If the machine can't.
        """
        self._manifest.will_create("loop", image=str(self._image))
        self._manifest.will_create("mount", path=str(self.folder))
        with self._explained("mount"):
            with loop.attached(self._image) as device:
                if check:
                    ext4.check(device)
                ext4.mount(device, self.folder)
            self._devices.append(device)
            os.close(os.open(self._ballast, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def unmount(self) -> None:
        """Unmount it, which detaches its devices; does nothing when it isn't mounted.

        Raises:
            MachineError: If a file of it stays open.
        """
        self._full_speed()
        with self._explained("unmount"):
            while self._devices:
                _when_idle(lambda: syscalls.unmount(str(self.folder)))
                self._devices.pop()

    def become(self, wanted: Condition, cgroup: Cgroup | None = None) -> str:
        """Bring it into a condition.

        Args:
            wanted: The condition.
            cgroup: Whose reading and writing a rate limits, from now on; that of the last time unless given.

        Returns:
            What was read back, for people.

        Raises:
            MachineError: If the kernel refuses, or holds something else afterwards.
        """
        self._cgroup = cgroup or self._cgroup
        with self._explained("change"), self._unthrottled():
            self._settle(wanted)
            self._condition = wanted
        return self._read_back()

    def corrupt(self, folder: str, seed: str) -> str:
        """Flip a bit of every file in a folder, by the device and not only in the cache.

        Args:
            folder: Its name, in the disk's root.
            seed: Which bits.

        Returns:
            How much was damaged, for people.

        Raises:
            MachineError: If the disk refuses.
        """
        if self._condition.gone:
            return "the disk is gone: nothing on it can be damaged"
        rng = random.Random(f"{seed}/{self.host}")  # noqa: S311 - which bits is no secret
        count = 0
        with self._explained("damage"), self._unthrottled(), self._writable():
            for path in sorted((self.folder / folder).glob("*")):
                with contextlib.suppress(FileNotFoundError):  # the host has just deleted it
                    count += _flip_a_bit(path, rng)
        return f"a bit of each of {count} files flipped" if count else "no file to damage"

    # How it is done --------------------------------------------------------------------------------------------------

    def _settle(self, wanted: Condition) -> None:
        if wanted.gone:
            if not self._condition.gone:
                ext4.fail(self.folder)
            return  # all else comes when the disk does
        if self._condition.gone:
            self._restore()
        if wanted.full or self._ballast.stat().st_size:
            with self._writable():
                self._fill() if wanted.full else os.truncate(self._ballast, 0)
        slow = wanted.rate_bytes_s is not None
        if slow and not os.statvfs(self.folder).f_flag & os.ST_SYNCHRONOUS:
            self._drop_cache()
        self._remount(wanted.readonly, slow)

    def _restore(self) -> None:
        """Mount it anew on top of what failed, so that at no instant the host sees an empty folder in its place."""
        # What failed writes nothing any more, once what memory still holds for its device is written.
        loop.write_back(self._devices[-1])
        self.mount(check=True)

    def _fill(self) -> None:
        """Take every free block, until the kernel hasn't a single one."""
        descriptor = os.open(self._ballast, os.O_WRONLY | os.O_CLOEXEC)
        try:
            block = os.fstatvfs(descriptor).f_frsize
            step = max(block, self.free_bytes)
            end = os.fstat(descriptor).st_size
            while step >= block:
                try:
                    os.posix_fallocate(descriptor, end, step)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    step //= 2
                end = max(end, os.fstat(descriptor).st_size)
        finally:
            os.close(descriptor)

    def _drop_cache(self) -> None:
        """Let go of what memory holds of its files."""
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            syscalls.sync_filesystem(descriptor)
        finally:
            os.close(descriptor)
        for path in self.folder.rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and path != self._ballast:
                    _forget(path)

    def _full_speed(self) -> None:
        if self._limited is not None:
            cgroup, number = self._limited
            cgroup.set_disk_rate(number, None)
            self._limited = None

    @contextlib.contextmanager
    def _unthrottled(self) -> Iterator[None]:
        """As fast as the machine, so that what the host has begun to write ends: it holds up every change."""
        self._full_speed()
        try:
            yield
        finally:
            rate_bytes_s = self._condition.rate_bytes_s
            if rate_bytes_s is not None and self._cgroup is not None and not self._condition.gone:
                number = loop.device_number(self._devices[-1])
                self._cgroup.set_disk_rate(number, rate_bytes_s)
                self._limited = self._cgroup, number

    def _remount(self, readonly: bool, synchronous: bool) -> None:
        flags = os.statvfs(self.folder).f_flag
        if (bool(flags & os.ST_RDONLY), bool(flags & os.ST_SYNCHRONOUS)) != (readonly, synchronous):
            _when_idle(lambda: ext4.remount(self.folder, readonly=readonly, synchronous=synchronous))

    @contextlib.contextmanager
    def _writable(self) -> Iterator[None]:
        """Writable for the experimenter's own changes, whatever is in force."""
        flags = os.statvfs(self.folder).f_flag
        readonly, synchronous = bool(flags & os.ST_RDONLY), bool(flags & os.ST_SYNCHRONOUS)
        self._remount(readonly=False, synchronous=synchronous)
        try:
            yield
        finally:
            self._remount(readonly=readonly, synchronous=synchronous)

    def _read_back(self) -> str:
        """What the kernel says of its state.

        Raises:
            MachineError: If that isn't what was asked for.
        """
        wanted, told = self._condition, []
        works = _works(self._ballast)
        if wanted.gone:
            if works:
                raise self._otherwise("the disk was taken away, and yet it works")
            return "input/output errors"
        if not works:
            raise self._otherwise("the disk was given back, and yet it doesn't work")
        found = os.statvfs(self.folder)
        if bool(found.f_flag & os.ST_RDONLY) != wanted.readonly:
            raise self._otherwise(f"read-only is {not wanted.readonly}")
        told += ["read-only"] if wanted.readonly else []
        # The host may have deleted something meanwhile.
        told += [f"{self.free_bytes} bytes free"] if wanted.full else []
        if wanted.rate_bytes_s is not None:
            if not found.f_flag & os.ST_SYNCHRONOUS:
                raise self._otherwise("who writes doesn't wait")
            told.append(f"{wanted.rate_bytes_s} bytes a second")
        return ", ".join(told) or HEALTHY

    def _otherwise(self, what: str) -> MachineError:
        return MachineError(f"the disk of {self.host} isn't as it was set: {what}")

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise MachineError(
                f"can't {what} the disk of {self.host}: {error.strerror or error}",
                remedy=f"{loop.REMEDY}; {ext4.REMEDY}",
            ) from error


def _works(file: Path) -> bool:
    """Whether a file can be opened; of a file system that was shut down none can, whatever memory holds of it."""
    try:
        os.close(os.open(file, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return False
    return True


def _flip_a_bit(path: Path, rng: random.Random) -> int:
    """Flip one bit of a file and see that the device has it; returns 1, or 0 for what has no bits."""
    if path.is_symlink() or not path.is_file():
        return 0
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        before = os.fstat(descriptor)
        if not before.st_size:
            return 0
        place, bit = rng.randrange(before.st_size), 1 << rng.randrange(8)
        damaged = bytes([os.pread(descriptor, 1, place)[0] ^ bit])
        os.pwrite(descriptor, damaged, place)
        os.utime(descriptor, ns=(before.st_atime_ns, before.st_mtime_ns))
    finally:
        os.close(descriptor)
    _forget(path)
    if path.read_bytes()[place : place + 1] != damaged:
        raise MachineError(f"{path}: the damage isn't there")
    return 1


def _forget(path: Path) -> None:
    """Write a file to its device and let go of what memory holds of it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _when_idle(change: Callable[[], None]) -> None:
    """Change something that is refused while a file is open; the kernel tells nobody when that ends."""
    end_s = time.monotonic() + BUSY_S
    while True:
        try:
            change()
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > end_s:
                raise
            time.sleep(_RETRY_S)
        else:
            return

"""Small ext4 file systems in sparse files: made, copied, mounted, checked, failed."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from testbed.emulation import syscalls
from testbed.errors import MachineError

REMEDY = "apt-get install e2fsprogs; the kernel needs CONFIG_EXT4_FS"
TOOL_TIMEOUT_S = 60.0

_MOUNT_FLAGS = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC | syscalls.MS_NOATIME
# Nothing in the background, and no flushes of the machine's own disk: what a host has synced is in its image, which
# outlives every process of the host. `errors=continue`, so that a damaged file is that and no more.
_MOUNT_OPTIONS = "noinit_itable,nobarrier,errors=continue"
_SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN of linux/fs.h
_WITHOUT_FLUSH = 2  # EXT4_GOING_FLAGS_NOLOGFLUSH
_COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a file system is laid out.

    Attributes:
        image_bytes: Size of the sparse file.
        block_bytes: Size of a block; a file takes whole ones.
        inodes: Most files.
    """

    image_bytes: int
    block_bytes: int
    inodes: int

    @classmethod
    def for_files(cls, total_bytes: int) -> Geometry:
        """One in which files of so many bytes in all find room.

        What the file system keeps for itself comes on top: its table of files, a fiftieth that the kernel holds back,
        and the rounding of each file to whole blocks.
        """
        block_bytes = 1024 if total_bytes < 512 << 20 else 4096
        inodes = max(4096, total_bytes >> 16)
        overhead_bytes = inodes * (256 + block_bytes // 2) + total_bytes // 32 + (1 << 20)
        whole = -(-(total_bytes + overhead_bytes) // 4096) * 4096
        return cls(whole, block_bytes, inodes)


def make(image: Path | int, geometry: Geometry) -> None:
    """Make a file system in a new or empty file; only a few kilobytes of it are written.

    It has no journal, which would take room and a thread of the kernel: :func:`check` is what mends it.

    Args:
        image: The file, or an open descriptor of it.
        geometry: Its layout.

    Raises:
        MachineError: If the tool is missing or fails.
        OSError: If the file can't be written.
    """
    descriptor = os.open(image, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) if isinstance(image, Path) else image
    try:
        os.ftruncate(descriptor, geometry.image_bytes)
        argv = ["mkfs.ext4", "-q", "-F", "-b", str(geometry.block_bytes), "-N", str(geometry.inodes), "-m", "0"]
        argv += [
            "-O",
            "^has_journal,^resize_inode",
            "-E",
            "lazy_itable_init=1,nodiscard",
            f"/proc/self/fd/{descriptor}",
        ]
        _tool(argv, (descriptor,), {0})
    finally:
        if isinstance(image, Path):
            os.close(descriptor)


def copy(template: Path, image: Path) -> None:
    """Copy a sparse file with its holes; of a new file system that is next to nothing.

    Raises:
        OSError: If it can't be read or written.
    """
    with template.open("rb", buffering=0) as source, image.open("xb", buffering=0) as target:
        image.chmod(0o600)
        end = os.fstat(source.fileno()).st_size
        target.truncate(end)
        position = 0
        while position < end:
            try:
                start = os.lseek(source.fileno(), position, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return  # only a hole is left
                raise
            position = os.lseek(source.fileno(), start, os.SEEK_HOLE)
            for offset in range(start, position, _COPY_BYTES):
                piece = os.pread(source.fileno(), min(_COPY_BYTES, position - offset), offset)
                os.pwrite(target.fileno(), piece, offset)


def mount(device: str, folder: Path) -> None:
    """Mount a device such as ``loop3``; nothing on it can be executed, be a device, or lend its owner's rights.

    Raises:
        OSError: If the kernel refuses.
    """
    syscalls.mount(f"/dev/{device}", str(folder), "ext4", _MOUNT_FLAGS, _MOUNT_OPTIONS)


def remount(folder: Path, *, readonly: bool, synchronous: bool) -> None:
    """Change how a file system is mounted.

    Args:
        folder: Where it is.
        readonly: Whether it refuses all writing.
        synchronous: Whether whoever writes waits until it is written.

    Raises:
        OSError: If the kernel refuses; EBUSY while a file is open for writing that is to become read-only.
    """
    flags = _MOUNT_FLAGS | syscalls.MS_REMOUNT
    flags |= syscalls.MS_RDONLY if readonly else 0
    flags |= syscalls.MS_SYNCHRONOUS if synchronous else 0
    syscalls.mount("none", str(folder), None, flags, _MOUNT_OPTIONS)


def fail(folder: Path) -> None:
    """Take a mounted file system's device away: from now on every access fails with an input/output error.

    What had not been written to the device is lost. Only unmounting ends it.

    Raises:
        OSError: If the kernel refuses.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("=I", _WITHOUT_FLUSH))
    finally:
        os.close(descriptor)


def check(device: str) -> None:
    """Mend a file system that wasn't unmounted properly, as a machine does at its start.

    Args:
        device: A device that isn't mounted, such as ``loop3``.

    Raises:
        MachineError: If the tool is missing, or can't mend it.
    """
    # 1: something was mended.
    _tool(["e2fsck", "-f", "-y", f"/dev/{device}"], (), {0, 1})


def _tool(argv: list[str], descriptors: tuple[int, ...], good: set[int]) -> None:
    # Debian keeps these in sbin, which isn't in everybody's path.
    environment = {**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            timeout=TOOL_TIMEOUT_S,
            check=False,
            pass_fds=descriptors,
            env=environment,
        )
    except FileNotFoundError as error:
        raise MachineError(f"the command {argv[0]} is missing", remedy=REMEDY) from error
    except subprocess.TimeoutExpired as error:
        raise MachineError(f"{argv[0]} takes more than {TOOL_TIMEOUT_S:.0f} s", remedy="try again") from error
    if done.returncode not in good:
        told = " ".join((done.stderr or done.stdout).split())
        raise MachineError(f"{argv[0]} ended with status {done.returncode}: {told[:500]}", remedy=REMEDY)

"""Loop devices: a file as a block device.

Every device here clears itself: the kernel detaches it when its last user is gone, whoever that is and however it
ends. So a device that was attached and never mounted ends with the process that attached it, and a mounted one with
its mount; there is nothing that a ``kill -9`` could leave behind but the mount.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from testbed.errors import MachineError

BLOCK_DEVICES = Path("/sys/block")
REMEDY = "modprobe loop (CONFIG_BLK_DEV_LOOP, Linux 5.8 or newer); a container needs --privileged and the host's /dev"

_CONTROL = "/dev/loop-control"
_GET_FREE = 0x4C82
_CLEAR = 0x4C01
_CONFIGURE = 0x4C0A
_AUTOCLEAR = 4
# struct loop_config of linux/loop.h: descriptor, block size, then struct loop_info64 (five numbers of 64 bit, of
# which all are 0 here; number, two of a former encryption, flags; names and key; two more), and a reserve.
_CONFIG = struct.Struct("=II 40x III I 64s 96x 16x 64x")
_ATTEMPTS = 100


@contextlib.contextmanager
def attached(image: Path | int) -> Iterator[str]:
    """Attach a file to a free device, whose name such as ``loop3`` this gives.

    It is detached again at the end of the block unless something, such as a mount, uses it then; and when that ends.

    Args:
        image: The file, or an open descriptor of it.

    Raises:
        MachineError: If this machine has no loop devices, or no free one.
        OSError: If the file can't be opened.
    """
    with contextlib.ExitStack() as stack:
        backing = image
        if isinstance(backing, Path):
            backing = os.open(backing, os.O_RDWR | os.O_CLOEXEC)
            stack.callback(os.close, backing)
        name, device = _attach(backing)
        stack.callback(os.close, device)
        yield name


def device_number(name: str) -> str:
    """The number of a device as control groups know it, such as ``7:3``."""
    return (BLOCK_DEVICES / name / "dev").read_text().strip()


def devices_of(image: Path) -> tuple[str, ...]:
    """Names of the devices that a file is attached to."""
    found = []
    for place in BLOCK_DEVICES.glob("loop*/loop/backing_file"):
        try:
            backing = place.read_text().rstrip("\n")
        except OSError:
            continue  # it was detached meanwhile
        if backing.removesuffix(" (deleted)") == str(image):
            found.append(place.parts[-3])
    return tuple(sorted(found))


def write_back(name: str) -> None:
    """Write what memory holds for a device to its file.

    Not by BLKFLSBUF: Linux 6.18, for one, leaves that to the file system which is mounted there, and one that was shut
    down does nothing. What stays in memory is written half a minute later, over whatever is in the file by then.

    Raises:
        OSError: If the file can't be written.
    """
    descriptor = os.open(f"/dev/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def detach(name: str) -> None:
    """Detach a device; one that is still in use is detached when that ends.

    Raises:
        OSError: If the kernel refuses.
    """
    descriptor = os.open(f"/dev/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _CLEAR)
    except OSError as error:
        if error.errno != errno.ENXIO:  # it has just been
            raise
    finally:
        os.close(descriptor)


def _attach(backing: int) -> tuple[str, int]:
    config = _CONFIG.pack(backing, 0, 0, 0, 0, _AUTOCLEAR, b"testbed")
    try:
        control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise MachineError(f"{_CONTROL}: {error.strerror}", remedy=REMEDY) from error
    try:
        for _ in range(_ATTEMPTS):
            name = f"loop{fcntl.ioctl(control, _GET_FREE)}"
            device = os.open(f"/dev/{name}", os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, _CONFIGURE, config)
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:  # another program was quicker: take the next
                    raise
            else:
                return name, device
    except OSError as error:
        raise MachineError(f"can't attach a loop device: {error.strerror}", remedy=REMEDY) from error
    finally:
        os.close(control)
    raise MachineError("other programs take every free loop device", remedy="see who does: losetup --list")

"""The few Linux calls that Python 3.11 doesn't have, through the C library."""

from __future__ import annotations

import ctypes
import os

CLONE_NEWNET = 0x40000000
CLONE_NEWNS = 0x00020000
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_SYNCHRONOUS = 16
MS_REMOUNT = 32
MS_NOATIME = 1024
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def setns(descriptor: int, kind: int) -> None:
    """Move the calling thread to the namespace of an open ``/proc/<pid>/ns`` file.

    Raises:
        OSError: If the kernel refuses (no privilege, wrong kind).
    """
    _check(_libc.setns(descriptor, kind), "setns")


def unshare(kind: int) -> None:
    """Move the calling thread to a new namespace.

    Raises:
        OSError: If the kernel refuses (no privilege, no such kind of namespace).
    """
    _check(_libc.unshare(kind), "unshare")


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """Mount a file system, or change how one is mounted.

    Raises:
        OSError: If the kernel refuses (no such device or file system, or it is busy).
    """
    names = [None if name is None else os.fsencode(name) for name in (source, target, kind)]
    _check(_libc.mount(*names, ctypes.c_ulong(flags), os.fsencode(options)), f"mount {target}")


def sync_filesystem(descriptor: int) -> None:
    """Write all that is dirty in the file system of an open file to its device.

    Raises:
        OSError: If the device fails.
    """
    _check(_libc.syncfs(descriptor), "syncfs")


def unmount(path: str, flags: int = 0) -> None:
    """Undo a mount.

    Raises:
        OSError: If it is busy or no mount point.
    """
    _check(_libc.umount2(os.fsencode(path), flags), f"unmount {path}")


def signal_on_parent_death(signal_number: int) -> None:
    """Have the kernel send this process a signal when the *thread* that started it ends; exec keeps it, fork not."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")


def become_subreaper() -> None:
    """Become the parent of orphaned descendants."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl(PR_SET_CHILD_SUBREAPER)")


def set_process_name(name: str) -> None:
    """Set the name that ``ps`` and ``top`` show (the kernel keeps 15 bytes)."""
    _check(_libc.prctl(_PR_SET_NAME, os.fsencode(name), 0, 0, 0), "prctl(PR_SET_NAME)")

"""Network namespaces: be in one for the length of a ``with``.

A namespace belongs to a *thread*, so entering one moves the calling thread alone: the sockets and children that it
makes inside stay there, other threads notice nothing. ``/sys/class/net`` shows the mount's namespace, not the
thread's, and ``/proc/net`` the main thread's: use ``/proc/thread-self/net``, ``/proc/sys/net`` and netlink inside.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from testbed.emulation.syscalls import CLONE_NEWNET, setns
from testbed.errors import MachineError

_COMMAND_DEADLINE_S = 30.0


def network_identity(pid: int | str) -> int:
    """Inode number of a process's network namespace (``"self"`` for our own); equal numbers, same namespace.

    Raises:
        ProcessLookupError: If there is no such process.
    """
    try:
        return Path(f"/proc/{pid}/ns/net").stat().st_ino
    except FileNotFoundError as error:
        raise ProcessLookupError(f"no process {pid}") from error


@contextlib.contextmanager
def entered(pid: int) -> Iterator[None]:
    """Move the calling thread into the network namespace of a process, and back at the end.

    Raises:
        MachineError: If the process has gone, or we aren't root.
    """
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            there = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                setns(there, CLONE_NEWNET)
            finally:
                os.close(there)
        except OSError as error:
            raise MachineError(
                f"can't enter the network namespace of process {pid}: {error.strerror}",
                remedy="run as root; if this is root, the emulated host has died: see its log",
            ) from error
        try:
            yield
        finally:
            setns(home, CLONE_NEWNET)
    finally:
        os.close(home)


def run(pid: int, argv: Sequence[str], *, stdin: str | None = None) -> str:
    """Standard output of a command run in the network namespace of a process.

    Raises:
        MachineError: If the command is missing, fails, or takes more than 30 s.
    """
    with entered(pid):
        try:
            done = subprocess.run(
                argv,
                input=stdin,
                capture_output=True,
                text=True,
                timeout=_COMMAND_DEADLINE_S,
                check=False,
                process_group=0,  # Ctrl-C is for the runner, which may be healing by this very command
            )
        except FileNotFoundError as error:
            raise MachineError(
                f"the command {argv[0]} is missing", remedy="python -m testbed doctor says which package has it"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise MachineError(f"{' '.join(argv)} hung for {_COMMAND_DEADLINE_S:.0f} s") from error
    if done.returncode != 0:
        wrong = done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}"
        raise MachineError(f"{' '.join(argv)}: {wrong}")
    return done.stdout


def run_batch(pid: int, tool: str, commands: Iterable[Sequence[str]]) -> None:
    """Run many ``ip``, ``tc`` or ``bridge`` commands, each an argv that begins with the tool, in one process.

    Raises:
        MachineError: With the command that failed; those before it have taken effect.
    """
    lines = list(commands)
    if not lines:
        return
    for line in lines:
        # The batch format splits words at blanks; a word that holds one would silently become two.
        if line[0] != tool or any(
            not word or any(mark.isspace() or mark in "\"'#\\" for mark in word) for word in line
        ):
            raise ValueError(f"no {tool} command: {line!r}")
    text = "".join(f"{' '.join(line[1:])}\n" for line in lines)
    try:
        run(pid, [tool, "-batch", "-"], stdin=text)
    except MachineError as error:
        _, _, number = error.message.rpartition("-:")
        blamed = f" at «{' '.join(lines[int(number) - 1])}»" if number.isdecimal() else ""
        raise MachineError(f"{error.message}{blamed}", remedy=error.remedy) from error


def set_sysctls(pid: int, values: Mapping[str, str]) -> None:
    """Write values under ``/proc/sys/net`` (paths relative to it) in the namespace of a process, and read them back.

    Raises:
        MachineError: If the kernel has no such setting, or keeps another value.
    """
    with entered(pid):
        for name, value in values.items():
            path = Path("/proc/sys/net") / name
            if name.startswith("ipv6/") and not Path("/proc/sys/net/ipv6").exists():
                continue  # a kernel without IPv6 has none to turn off
            try:
                path.write_text(value)
                found = path.read_text().strip()
            except OSError as error:
                raise MachineError(
                    f"can't set net.{name.replace('/', '.')} to {value}: {error.strerror}",
                    remedy="modprobe br_netfilter" if name.startswith("bridge/") else None,
                ) from error
            if found != value:
                raise MachineError(f"net.{name.replace('/', '.')} is {found} after it was set to {value}")

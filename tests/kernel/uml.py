"""User-Mode Linux: a Linux kernel as a program, here to run one command in, with this machine's files and as root.

Debian's package ``user-mode-linux`` has the program and its modules, among them those that the kernels of containers
and small virtual machines lack: netem and the datapath of Open vSwitch. The guest sees all files of this machine but
changes none; it has one CPU, its own processes, network, cgroups and clock ticks. It needs no root outside.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PROGRAM = "linux.uml"
MEMORY_BYTES = 2 << 30
OUT = Path("/out")
"""Where the guest sees the launcher's folder."""

_NEEDED = (PROGRAM, "insmod", "modprobe", "ovs-vsctl")
_INIT = Path(__file__).with_name("guest_init.sh")
_CONSOLE_TAIL = 4000


@dataclass(frozen=True, slots=True)
class Guest:
    """What came of a boot.

    Attributes:
        status: Exit status of the command; None when it didn't end: the deadline passed, or the kernel died.
        log: Output of the command.
        console: Output of the kernel, its end.
        seconds: From the start of the program to the end of the command.
    """

    status: int | None
    log: str
    console: str
    seconds: float

    def __str__(self) -> str:
        """For people: how it ended, and both outputs."""
        ended = "didn't end" if self.status is None else f"ended with status {self.status}"
        return f"the guest's command {ended} within {self.seconds:.0f} s\n{self.log}\n--- console\n{self.console}"


def missing() -> str | None:
    """Why no guest can be started, with the remedy; None if one can."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"  # a user's own lacks the folders of root's programs
    absent = [name for name in _NEEDED if shutil.which(name, path=path) is None]
    return f"not installed: {', '.join(absent)}; get them with scripts/setup.sh --kernel" if absent else None


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder to exchange files with the guest, removed at the end; its path has no blanks, as kernel options must."""
    path = Path(tempfile.mkdtemp(prefix="testbed-uml-", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextlib.contextmanager
def booted(argv: Sequence[str], out: Path, deadline_s: float) -> Iterator[Callable[[], Guest]]:
    """Run a command in a new guest, as its root; the guest is killed at the end of the block.

    Args:
        argv: The command.
        out: The folder that is /out inside, see :func:`folder`.
        deadline_s: Seconds until the guest is waited for no longer.

    Yields:
        What waits for the end of the command, and tells what came of it.
    """
    (out / "argv").write_bytes(b"".join(word.encode() + b"\0" for word in argv))
    shutil.copy(_INIT, out / "init")
    console = out / "console"
    began_s = time.monotonic()
    with console.open("wb") as output:
        process = subprocess.Popen(
            _command(out),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(_memory_folder(out))},
            start_new_session=True,
        )

    def end() -> None:
        # Its processes outside are all of one session; none may stay behind, whatever ended it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def guest() -> Guest:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, began_s + deadline_s - time.monotonic()))
        end()
        status = _text(out / "status").strip()
        return Guest(
            int(status) if status else None,
            _text(out / "log"),
            _text(console)[-_CONSOLE_TAIL:],
            # By the files' times: it may have ended long before it was waited for.
            (out / "status").stat().st_mtime - (out / "argv").stat().st_mtime if status else deadline_s,
        )

    try:
        yield guest
    finally:
        end()


def _command(out: Path) -> list[str]:
    return [
        *_priority(),
        # The guest dies with us, also if we are killed.
        *("setpriv", "--pdeathsig", "KILL", PROGRAM),
        f"mem={MEMORY_BYTES}",
        *("root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "quiet"),
        *(f"init={out / 'init'}", f"testbed_out={out}"),
        # The socket of its management console: nothing may be left in the home, and guests may run side by side.
        *(f"uml_dir={out}/", "umid=guest"),
        *("con=null", "con0=null,fd:2", "con1=fd:0,fd:1"),
    ]


def _priority() -> list[str]:
    """Before everything else on one CPU, where that is allowed, as it is to root.

    Whenever other work makes the guest stand still, its links show it. On one CPU, because each system call inside is
    two switches between processes outside, which take longer from CPU to CPU.
    """
    argv = ["taskset", "--cpu-list", str(max(os.sched_getaffinity(0))), "chrt", "--rr", "1"]
    allowed = subprocess.run([*argv, "true"], capture_output=True, timeout=10).returncode == 0
    return argv if allowed else []


def _memory_folder(otherwise: Path) -> Path:
    """Where the file lies that is the guest's memory: in memory if there is room, as there isn't in most containers."""
    shared = Path("/dev/shm")
    with contextlib.suppress(OSError):
        if os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > MEMORY_BYTES:
            return shared
    return otherwise


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""

"""A machine of a test's own: process numbers, mounts and a root network namespace that nobody else uses.

Snapshots of it are exact, whatever else the real machine does meanwhile, and its lock is its own. A program in it
notices nothing: it is root, and its network namespace is the one that it finds the machine in. Control groups are the
real machine's; those of the testbed bear the names of its runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import REPOSITORY
from tests.emulation.snapshot import Snapshot

INIT = """
import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_DFL)
print("ready", flush=True)
while True:  # what an init is for: bury orphans
    signal.sigwait({signal.SIGCHLD})
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
"""
PRIVATE = ("/run", "/var/tmp", "/dev/shm")
UNSHARE = ("unshare", "--pid", "--fork", "--kill-child", "--mount", "--net", "--ipc", "--mount-proc")


@dataclass(frozen=True)
class World:
    """A running world.

    Attributes:
        init_pid: Its first process, by its number on the real machine.
        root: Its files as seen from the real machine.
    """

    init_pid: int

    @property
    def root(self) -> Path:
        return Path(f"/proc/{self.init_pid}/root")

    @property
    def runs(self) -> Path:
        """The journals of its runs."""
        return self.root / "run/testbed"

    @property
    def doctors(self) -> str:
        """How the names of cgroups begin that runs in it make to see what the machine can do."""
        return f"testbed-doctor-{Path(f'/proc/{self.init_pid}/ns/pid').stat().st_ino}-"

    def argv(self, *argv: str) -> list[str]:
        """A command line that runs a command in this world."""
        # Temporary files go where nobody else's are, and matplotlib is given no place of its own. To enter a mount
        # namespace is to leave the working directory, so this repository's code is named.
        environment = ["env", "-u", "MPLCONFIGDIR", "TMPDIR=/var/tmp", f"PYTHONPATH={REPOSITORY}"]
        return [
            *("nsenter", f"--target={self.init_pid}", "--pid", "--mount", "--net", "--ipc", "--"),
            *(*environment, *argv),
        ]

    def run(self, *argv: str, check: bool = True, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.argv(*argv), capture_output=True, text=True, timeout=timeout_s, check=False, cwd=REPOSITORY
        )
        if check:
            assert done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def testbed(self, *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run ``python -m testbed`` to its end."""
        return self.run(sys.executable, "-m", "testbed", *arguments, check=False, timeout_s=timeout_s)

    def start(self, *arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start ``python -m testbed``, its output and errors on one pipe."""
        return subprocess.Popen(
            # A group of its own, which has a number in the world.
            self.argv("setsid", sys.executable, "-m", "testbed", *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, **(environment or {})},
        )

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Send a signal to a process by its number in this world, as journals have it; to a group if negative."""
        # Not by kill(1), which takes the number of a group for that of a signal.
        self.run(sys.executable, "-S", "-c", f"import os; os.kill({pid}, {number.value})")

    def snapshot(self, *names: str) -> Snapshot:
        """What there is in it now; of control groups only those with one of the names in their path, or a doctor's."""
        found: Snapshot = json.loads(
            self.run(sys.executable, "-m", "tests.emulation.snapshot", self.doctors, *names).stdout
        )
        return found


@contextlib.contextmanager
def world() -> Iterator[World]:
    """A new world; everything in it dies at the end of the block."""
    init = subprocess.Popen(
        [*UNSHARE, sys.executable, "-c", INIT], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=REPOSITORY
    )
    try:
        assert init.stdout is not None
        ready, _, _ = select.select([init.stdout], [], [], 20)
        assert ready, "the world's first process doesn't start"
        assert init.stdout.readline() == b"ready\n"
        children = Path(f"/proc/{init.pid}/task/{init.pid}/children").read_text().split()
        made = World(int(children[0]))
        for target in made.run("findmnt", "--noheadings", "--raw", "--output", "TARGET").stdout.splitlines():
            if "/testbed-" in target:  # a copy of the disk of a host in a run elsewhere, which would vanish with that
                made.run("umount", "--lazy", target, check=False)
        for folder in PRIVATE:
            made.run("mount", "-t", "tmpfs", "tmpfs", folder)
        made.run("mkdir", "-p", "/run/testbed", "/run/netns")
        made.run("ip", "link", "set", "lo", "up")
        try:
            yield made
        finally:
            # Control groups are the real machine's, and the journals that name them end with the world.
            made.testbed("clean")
    finally:
        # Its child, the world's first process, is killed with it, and with that all others.
        init.kill()
        init.wait(20)
        if init.stdout is not None:
            init.stdout.close()

"""Entries for the nursery's tests; the children import this module by its name."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any


def report(config: dict[str, Any], fds: list[int]) -> None:
    """Say everything that a test may want to know, then wait for the other side to close."""
    with socket.socket(fileno=fds[0]) as connection:
        found = {
            "config": config,
            "pid": os.getpid(),
            "sid": os.getsid(0),
            "fds": sorted(int(path.name) for path in Path("/proc/self/fd").iterdir()),
            "passed": fds,
            "netns": Path("/proc/self/ns/net").stat().st_ino,
            "cgroup": Path("/proc/self/cgroup").read_text(),
            "comm": Path("/proc/self/comm").read_text().strip(),
            "threads": len(list(Path("/proc/self/task").iterdir())),
            "preloaded": "json" in sys.modules,
            "omp": os.environ.get("OMP_NUM_THREADS"),
            "sigint": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
        }
        sys.stdout.write(f"hello from {config.get('name')}\n")
        connection.sendall(json.dumps(found).encode() + b"\n")
        connection.recv(1)


def wait(config: dict[str, Any], fds: list[int]) -> None:
    """Live until killed."""
    signal.pause()


def announce(config: dict[str, Any], fds: list[int]) -> None:
    """Say that the set-up is over, then live until killed."""
    os.write(fds[0], b"node1 is up\n")
    signal.pause()


def finish(config: dict[str, Any], fds: list[int]) -> None:
    """End at once."""
    if "status" in config:
        sys.exit(config["status"])


def fail(config: dict[str, Any], fds: list[int]) -> None:
    """Raise."""
    raise ValueError("the disk is upside down")


def orphan(config: dict[str, Any], fds: list[int]) -> None:
    """Leave a process behind."""
    process = subprocess.Popen(["sleep", "60"])
    os.write(fds[0], f"{process.pid}\n".encode())
    os._exit(0)


def hold(config: dict[str, Any], fds: list[int]) -> None:
    """Fill memory."""
    held = bytearray(b"x") * config["size_bytes"]
    del held

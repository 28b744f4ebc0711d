"""Where a result comes from: versions of the software, and the machine beneath it."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("edge-inference-testbed", "torch", "torchvision", "numpy", "mininet", "safetensors", "pydantic")
GIT_DEADLINE_S = 5.0


def provenance(checkout: Path | None = None, proc: Path = Path("/proc")) -> dict[str, Any]:
    """Plain JSON-able facts: ``versions``, ``git`` (None outside a checkout), ``kernel``, ``machine``.

    Args:
        checkout: Where the source lies; the folder above this package unless given.
        proc: The kernel's process file system.
    """
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "git": git_state(checkout or Path(__file__).parent.parent),
        "kernel": {"release": platform.release(), "version": platform.version(), "machine": platform.machine()},
        "machine": {
            "cpu_model": cpu_model(_read(proc / "cpuinfo")),
            "cores": os.cpu_count(),
            "usable_cores": len(os.sched_getaffinity(0)),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        },
    }


def git_state(checkout: Path) -> dict[str, Any] | None:
    """``{"commit": …, "dirty": …}`` of a checkout; None if the folder is none, or git is missing."""
    if not (checkout / ".git").exists():
        return None
    commit = _git(checkout, ["rev-parse", "HEAD"])
    if commit is None:
        return None
    status = _git(checkout, ["status", "--porcelain", "--untracked-files=no"])
    return {"commit": commit.strip(), "dirty": None if status is None else bool(status.strip())}


def cpu_model(cpuinfo: str) -> str:
    """The processor's name in ``/proc/cpuinfo``, whose key differs by architecture; else that of uname."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "Processor", "cpu model", "uarch"):
            return value.strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _git(checkout: Path, arguments: Sequence[str]) -> str | None:
    # Under sudo the checkout belongs to another user: git wants to be told that it is trusted, which it is, because we
    # run code from it. No monitor that its configuration names may run.
    trust = ["-c", f"safe.directory={checkout.resolve()}", "-c", "core.fsmonitor=false"]
    try:
        done = subprocess.run(
            ["git", *trust, "-C", str(checkout), "--no-optional-locks", *arguments],
            check=True,
            capture_output=True,
            text=True,
            timeout=GIT_DEADLINE_S,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout

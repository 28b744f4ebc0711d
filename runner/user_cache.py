"""What is measured once and kept for the next time, in the user's cache folder.

The folder is ``$XDG_CACHE_HOME/edge-inference-testbed``, ``~/.cache`` unless set; under sudo the caller's. A kept file
that is damaged counts as none. What a measurement depends on stands in the file's name as a fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from runner.provenance import cpu_model
from runner.results import Owner, give_tree, write_atomic
from testbed.errors import MachineError

FOLDER = "edge-inference-testbed"
CPUINFO = Path("/proc/cpuinfo")


def machine_fingerprint() -> dict[str, str]:
    """What every measured time depends on: the processor, the kernel and PyTorch."""
    return {
        "cpu_model": cpu_model(CPUINFO.read_text()),
        "kernel": platform.release(),
        "torch_version": torch.__version__,
    }


@dataclass(frozen=True, slots=True)
class UserCache:
    """The folder, and whom its files shall belong to.

    Attributes:
        folder: May not exist yet.
        owner: The user who called sudo, if somebody did.
    """

    folder: Path
    owner: Owner | None

    @classmethod
    def of_caller(cls, environment: Mapping[str, str] = os.environ) -> UserCache:
        """The cache of the user whom this process works for.

        Raises:
            UsageError: If ``SUDO_UID`` or ``SUDO_GID`` is no number.
        """
        owner = Owner.of_caller(environment)
        configured = environment.get("XDG_CACHE_HOME", "")
        if configured.startswith("/"):
            base = Path(configured)
        else:
            home = environment.get("HOME", "/") if owner is None else pwd.getpwuid(owner.uid).pw_dir
            base = Path(home) / ".cache"
        return cls(base / FOLDER, owner)

    def path(self, kind: str, fingerprint: Mapping[str, Any]) -> Path:
        """Where a measurement of some kind is kept."""
        digest = hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{kind}-{digest[:16]}.json"

    def load(self, path: Path) -> Any:
        """What is kept there; None if nothing is, or it is no JSON."""
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError):
            return None

    def save(self, path: Path, plain: Any, what: str) -> None:
        """Keep a measurement, and give what had to be made for it to its owner.

        Args:
            path: As from `path`.
            plain: JSON-able.
            what: For the error, such as ``the calibration``.

        Raises:
            MachineError: If it can't be written.
        """
        missing = [folder for folder in path.parents if not folder.exists()]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, json.dumps(plain, indent=2).encode() + b"\n")
            if self.owner is not None:
                give_tree(missing[-1] if missing else path.parent, self.owner)
        except OSError as error:
            raise MachineError(
                f"{path}: can't keep {what}: {error.strerror}",
                remedy="Set XDG_CACHE_HOME to a folder that can be written.",
            ) from error

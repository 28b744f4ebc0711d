"""The disks of a run's hosts: for each a file system of its own, in a sparse file of the run's work folder.

A host's files lie in one folder, whether that is a mount point or a plain folder. File systems are for the hosts that
declare ``storage``, and for all of them in experiments that break disks; a host's other files need none. That costs
what was measured on a 2-core x86-64 virtual machine (Linux 6.18): see :meth:`Disks.start`. Serving doesn't touch the
disk, so it costs nothing there; while a stage is deployed, the kernel copies its weights once more than for a plain
folder, in the background.

The size that a host declares is what the files on its disk may have together; so a plan that fits the declared storage
fits the disk. The file system's own tables come on top.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from testbed.emulation import ext4
from testbed.emulation.disk import Condition, HostDisk
from testbed.emulation.manifest import RunManifest
from testbed.errors import MachineError

__all__ = ["Condition", "Disks", "HostDisk"]

UNDECLARED_BYTES = 4 << 30
"""Of hosts that declare none: room for any model here; a file takes only what is written to it."""


class Disks:
    """A context manager: mounted when entered, unmounted when left.

    Args:
        sizes: Bytes for files of each host that gets a disk; None for one that declares none.
        folder: Where the hosts' folders are, each under its name; made if it doesn't exist.
        images: A folder for the file systems' files; made if it doesn't exist.
        manifest: Journal of the run, in whose folders both are.
    """

    def __init__(self, sizes: Mapping[str, int | None], folder: Path, images: Path, manifest: RunManifest) -> None:
        self._sizes = sizes
        self._folder = folder
        self._images = images
        self._manifest = manifest
        self._disks: dict[str, HostDisk] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __getitem__(self, host: str) -> HostDisk:
        """The disk of a host.

        Raises:
            MachineError: If it has none of its own.
        """
        try:
            return self._disks[host]
        except KeyError:
            raise MachineError(f"{host} has no disk of its own") from None

    def __contains__(self, host: str) -> bool:
        """Whether a host has a disk of its own."""
        return host in self._disks

    def start(self) -> None:
        """Make and mount them all; a failure leaves none behind.

        Raises:
            MachineError: If the machine can't.
        """
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        templates: dict[ext4.Geometry, Path] = {}
        try:
            self._images.mkdir(parents=True, exist_ok=True)
            for host, size in self._sizes.items():
                geometry = ext4.Geometry.for_files(UNDECLARED_BYTES if size is None else size)
                image, folder = self._images / f"{host}.ext4", self._folder / host
                folder.mkdir(parents=True, exist_ok=True)
                # The tool takes tens of milliseconds, a copy of what it has written hardly one.
                if geometry in templates:
                    ext4.copy(templates[geometry], image)
                else:
                    ext4.make(image, geometry)
                    templates[geometry] = image
        except OSError as error:
            raise MachineError(
                f"can't make the hosts' disks in {self._images}: {error.strerror or error}", remedy="free some space"
            ) from error
        for host in self._sizes:
            disk = HostDisk(host, self._images / f"{host}.ext4", self._folder / host, self._manifest)
            self._disks[host] = disk
            disk.mount()
            if (declared := self._sizes[host]) is not None and disk.free_bytes < declared:
                raise MachineError(f"the disk of {host} has {disk.free_bytes} bytes free instead of {declared}")

    def stop(self) -> None:
        """Unmount them all; to do it twice does no harm.

        Raises:
            MachineError: If somebody still uses one; the others are unmounted then.
        """
        with contextlib.ExitStack() as stack:
            for disk in self._disks.values():
                stack.callback(disk.unmount)
            self._disks = {}

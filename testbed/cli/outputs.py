"""Files that a user names for a verb to write: refused at once where they can't be, not after the work is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from testbed.errors import UsageError

REMEDY = "Name a file in a folder that exists and that you may write to."


class OutputFile(click.Path):
    """The type of an option that names a file to write."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path.

        Raises:
            UsageError: If there is no folder for it.
        """
        file: Path = super().convert(value, param, ctx)  # type: ignore[assignment]
        if not file.parent.is_dir():
            raise UsageError(f"{file} can't be written: there is no folder {file.parent}", remedy=REMEDY)
        return file


def write(file: Path, data: bytes) -> None:
    """Write a file that the user named.

    Raises:
        UsageError: If it can't be written.
    """
    try:
        file.write_bytes(data)
    except OSError as error:
        raise UsageError(f"{file} can't be written: {error.strerror}", remedy=REMEDY) from error

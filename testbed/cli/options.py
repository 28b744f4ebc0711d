"""Arguments that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def experiment_argument(command: Command) -> Command:
    """FILE, --set and --seed; the command gets ``file: Path``, ``overrides: tuple[str, ...]``, ``seed: int | None``."""
    decorators = (
        click.argument("file", type=click.Path(path_type=Path)),
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="KEY.PATH=VALUE",
            help="Set a value in place of the file's, such as links.0.rate=5Mbit/s; may be repeated.",
        ),
        click.option("--seed", type=int, help="Set the seed in place of the file's."),
    )
    for decorator in reversed(decorators):
        command = decorator(command)
    return command


afresh_option = click.option(
    "--afresh", is_flag=True, help="Measure the model's times again, even if some are kept for this machine."
)

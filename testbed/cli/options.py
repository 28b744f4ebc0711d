"""Arguments that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from testbed.spec import Experiment
from testbed.spec.faults.entries import entry
from testbed.spec.faults.timeline import timeline

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


replay_option = click.option(
    "--replay",
    type=click.Path(path_type=Path),
    metavar="FAULTS.CSV",
    help="Take the timeline of an earlier run in place of the file's faults and chaos.",
)
afresh_option = click.option(
    "--afresh", is_flag=True, help="Measure the model's times again, even if some are kept for this machine."
)


def timeline_lines(experiment: Experiment) -> list[str]:
    """The flat timeline, an entry a line in the order of time; a line that says so if there is none."""
    entries = sorted(timeline(experiment), key=lambda fault: fault.at_s)
    if not entries:
        return ["no faults"]
    return ["faults:", *(f"  - {entry(fault, experiment.source.parent)}" for fault in entries)]

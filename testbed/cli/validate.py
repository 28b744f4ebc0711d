"""``validate``: check an experiment file; needs neither root nor Mininet."""

from __future__ import annotations

from pathlib import Path

import click

from testbed.cli.options import experiment_argument
from testbed.spec import load_experiment


@click.command()
@experiment_argument
def validate(file: Path, overrides: tuple[str, ...], seed: int | None) -> None:
    """Check the experiment in FILE without running it."""
    experiment = load_experiment(file, overrides, seed)
    facts = (
        _count(len(experiment.hosts), "host"),
        _count(len(experiment.links), "link"),
        f"model {experiment.model.name or experiment.model.module}",
        f"strategy {experiment.placement.strategy}",
        _count(len(experiment.faults), "fault"),
    )
    click.echo(f"{experiment.name}: {', '.join(facts)}: valid")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"

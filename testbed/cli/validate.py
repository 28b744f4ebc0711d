"""``validate``: check an experiment file; needs neither root nor Mininet."""

from __future__ import annotations

from pathlib import Path

import click

from testbed.cli.options import experiment_argument, replay_option, timeline_lines
from testbed.spec import load_experiment


@click.command()
@experiment_argument
@replay_option
def validate(file: Path, overrides: tuple[str, ...], seed: int | None, replay: Path | None) -> None:
    """Check the experiment in FILE without running it, and print its timeline of faults."""
    experiment = load_experiment(file, overrides, seed, replay)
    flat = timeline_lines(experiment)
    facts = (
        _count(len(experiment.hosts), "host"),
        _count(len(experiment.links), "link"),
        f"model {experiment.model.name or experiment.model.module}",
        f"strategy {experiment.placement.strategy}",
        _count(len(flat) - 1, "fault"),
    )
    click.echo(f"{experiment.name}: {', '.join(facts)}: valid")
    if len(flat) > 1:
        click.echo("\n".join(flat))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"

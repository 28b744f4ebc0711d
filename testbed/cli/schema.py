"""``schema``: print the JSON Schema of the experiment file."""

from __future__ import annotations

import json

import click

from testbed.spec import experiment_schema


@click.command()
def schema() -> None:
    """Print the JSON Schema of the experiment file."""
    click.echo(json.dumps(experiment_schema(), indent=2))

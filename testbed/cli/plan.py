"""``plan``: how a model would be split over the hosts; needs neither root nor Mininet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from testbed.cli.options import afresh_option, experiment_argument, timeline_lines
from testbed.cli.tables import new_table, print_table
from testbed.spec import load_experiment

if TYPE_CHECKING:
    from testbed.planning.plan import Plan


@click.command()
@experiment_argument
@afresh_option
@click.option("--analytic", is_flag=True, help="Run nothing: as --set placement.costs=analytic.")
def plan(file: Path, overrides: tuple[str, ...], seed: int | None, afresh: bool, analytic: bool) -> None:
    """Print the plan of the experiment in FILE, with the throughput and latency to expect, and its timeline."""
    experiment = load_experiment(file, (*overrides, *(["placement.costs=analytic"] if analytic else [])), seed)
    # A wrong file must not wait for torch.
    from runner.preparation import prepare

    prepared = prepare(experiment, lambda text: click.echo(f"{text} …", err=True), answers=False, afresh=afresh)
    show(prepared.plan)
    if experiment.recovery.policy == "skip":
        from testbed.planning.table import residual_stages

        click.echo(f"  may be left out: {residual_stages(prepared.plan, prepared.problem.chain)}")
    click.echo("\n".join(timeline_lines(experiment)))


def show(found: Plan) -> None:
    """Print a plan as a table, and what it promises below."""
    from testbed.planning.table import plan_table

    words = plan_table(found)
    table = new_table(words.columns, texts=("host",))
    for index, row in enumerate(words.rows):
        table.add_row(*row, style="bold" if index == words.marked else "")
    console = print_table(table)
    for what, figure in words.summary:
        console.print(f"  {what}: {figure}", soft_wrap=True)

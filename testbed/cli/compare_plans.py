"""``compare-plans``: every strategy on one experiment, a row each; with ``--run`` also on the emulated cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from testbed.cli.options import experiment_argument
from testbed.cli.outputs import OutputFile, write
from testbed.cli.tables import new_table, print_table
from testbed.emulation.machine import require_root
from testbed.spec import load_experiment
from testbed.spec.inference import STRATEGY_NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner.csvfile import Row


@click.command("compare-plans")
@experiment_argument
@click.option(
    "--strategies",
    default="all",
    show_default=True,
    metavar="all|A,B",
    help=f"Which to compare, out of {', '.join(STRATEGY_NAMES)}.",
)
@click.option("--csv", "csv_file", type=OutputFile(), help="Write the table here as CSV.")
@click.option("--run", "on_cluster", is_flag=True, help="Run each plan on the emulated cluster too (needs root).")
@click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("results"),
    show_default=True,
    help="With --run: folder for the runs' own folders and for runs.csv.",
)
def compare_plans(
    file: Path,
    overrides: tuple[str, ...],
    seed: int | None,
    strategies: str,
    csv_file: Path | None,
    on_cluster: bool,
    results: Path,
) -> None:
    """Print what each strategy plans for the experiment in FILE, against the proven bound on the bottleneck.

    The gap is how far a bottleneck is above that bound, relative: 0 is proven optimal. NA stands where there is no
    plan; the reason is told below the table. Energy is a model.
    """
    experiment = load_experiment(file, overrides, seed)
    if on_cluster:
        require_root()
    # A wrong file, or a wrong name of a strategy, must not wait for torch.
    from testbed.planning.comparison import named

    names = named(strategies)

    from runner.comparison import MEASURED, PLANNED, compare_all, comparison_rows, measure
    from runner.csvfile import to_csv
    from runner.experiment import Options
    from runner.preparation import model_of

    def progress(text: str) -> None:
        click.echo(f"{text} …", err=True)

    modelled = model_of(experiment, progress, answers=False)
    progress("planning")
    contenders = compare_all(modelled, names)
    measured = measure(experiment, contenders, Options(results, progress=progress)) if on_cluster else None
    rows = comparison_rows(contenders, measured)
    columns = (*PLANNED, *MEASURED) if on_cluster else PLANNED
    show(PLANNED, rows, "reason")
    if on_cluster:
        show(("strategy", *MEASURED), rows)
    if csv_file is not None:
        write(csv_file, to_csv(columns, rows))


def show(columns: Sequence[str], rows: Sequence[Row], remark: str | None = None) -> None:
    """Print rows as a table, and below what the column ``remark`` says of each (named by the first column)."""
    shown = [column for column in columns if column != remark]
    table = new_table(shown, texts=("strategy", "cuts", "outcome", "verdict", "results"), folding="hosts")
    for row in rows:
        table.add_row(*(_cell(row[column]) for column in shown))
    console = print_table(table)
    if remark is not None:
        for row in rows:
            if row[remark]:
                console.print(f"  {row[columns[0]]}: {row[remark]}", soft_wrap=True)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

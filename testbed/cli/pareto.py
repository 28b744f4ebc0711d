"""``pareto``: the plans of an experiment that no other plan beats, as a table, as CSV, as a picture."""

from __future__ import annotations

from pathlib import Path

import click

from testbed.cli.compare_plans import show
from testbed.cli.options import experiment_argument
from testbed.cli.outputs import OutputFile, write
from testbed.spec import load_experiment


@click.command()
@experiment_argument
@click.option(
    "--aims", metavar="A,B", help="What plans are weighed by, such as latency,energy; all when absent. The first is x."
)
@click.option("--csv", "csv_file", type=OutputFile(), help="Write the front here as CSV.")
@click.option("--png", "png_file", type=OutputFile(), help="Draw the front here as PNG.")
def pareto(
    file: Path,
    overrides: tuple[str, ...],
    seed: int | None,
    aims: str | None,
    csv_file: Path | None,
    png_file: Path | None,
) -> None:
    """Print the Pareto front of the experiment in FILE.

    Aims: latency, throughput (by the bottleneck), energy (a model), traffic, memory, and accuracy where the file names
    a table. To run one of the plans, give placement the strategy pareto and weights.
    """
    experiment = load_experiment(file, overrides, seed)
    # A wrong file must not wait for torch.
    from runner.csvfile import to_csv
    from runner.preparation import model_of
    from testbed.planning.pareto import check_aims, front

    names = None if aims is None else check_aims(name.strip() for name in aims.split(","))

    from runner.comparison import FRONT, front_rows
    from runner.front_plot import front_figure
    from runner.plots import to_png

    def progress(text: str) -> None:
        click.echo(f"{text} …", err=True)

    problem = model_of(experiment, progress, answers=False).problem()
    progress("looking for plans that no other beats")
    found = front(problem, names)
    rows = front_rows(problem, found)
    show([column for column in FRONT if column != "accuracy_loss" or problem.accuracy_loss], rows)
    kind = "all of them" if found.complete else "found by NSGA-II, perhaps not all"
    plans = "1 plan" if len(rows) == 1 else f"{len(rows)} plans"
    click.echo(f"{plans} that no other beats in {', '.join(found.aims)}: {kind}", err=True)
    if csv_file is not None:
        write(csv_file, to_csv(FRONT, rows))
    if png_file is not None:
        write(png_file, to_png(front_figure(found, experiment.name)))

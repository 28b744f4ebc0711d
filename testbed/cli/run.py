"""``run``: an experiment on an emulated cluster; needs root."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from testbed.cli.options import afresh_option, experiment_argument, replay_option, timeline_lines
from testbed.emulation.machine import require_root
from testbed.spec import load_experiment


@click.command()
@experiment_argument
@click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Folder for the run's own folder and for runs.csv.",
)
@click.option(
    "--delay-backend",
    type=click.Choice(["auto", "netem", "delayline"]),
    default="auto",
    show_default=True,
    help="Who delays packets: the kernel's netem, or the testbed's delay line.",
)
@replay_option
@afresh_option
@click.option("--quiet", is_flag=True, help="Print errors and the outcome only.")
def run(
    file: Path,
    overrides: tuple[str, ...],
    seed: int | None,
    results: Path,
    delay_backend: str,
    replay: Path | None,
    afresh: bool,
    quiet: bool,
) -> int:
    """Run the experiment in FILE and write its results.

    Ctrl-C (SIGTERM and SIGHUP too) ends it in good order: during the workload with results and exit code 1, before it
    with exit code 130 and without results.
    """
    experiment = load_experiment(file, overrides, seed, replay)
    require_root()
    if not quiet:
        click.echo("\n".join(timeline_lines(experiment)))
    # A wrong file, or a user without rights, must not wait for torch.
    from runner.console import Console
    from runner.experiment import Options
    from runner.experiment import run as run_experiment
    from runner.preparation import prepare

    with Console(quiet=quiet) as console:
        options = Options(
            results,
            delay_backend,
            progress=console.progress,
            observe=console.observe,
            prepare=partial(prepare, afresh=afresh),
        )
        result = run_experiment(experiment, options)
    console.conclude(result)
    return result.exit_code

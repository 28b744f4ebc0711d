"""``clean``: remove what killed runs left on this machine, and nothing else."""

from __future__ import annotations

import os

import click

from testbed.emulation.cleaner import CleanReport
from testbed.emulation.cleaner import clean as clean_machine
from testbed.errors import EXIT_MACHINE, EXIT_PASSED, MachineError


@click.command()
def clean() -> int:
    """Remove what killed runs left on this machine: exactly what their journals name.

    Refused while a run is alive. Ends with exit code 3 if something couldn't be removed.
    """
    if os.geteuid() != 0:
        raise MachineError("only root can remove what a run left", remedy="sudo python -m testbed clean")
    report = clean_machine()
    _show(report)
    return EXIT_MACHINE if report.failed else EXIT_PASSED


def _show(report: CleanReport) -> None:
    for line in report.removed:
        click.echo(f"removed {line}")
    for line in report.spared:
        click.echo(f"left alone: {line}")
    for line in report.failed:
        click.echo(f"couldn't remove {line}", err=True)
    if not report.runs:
        click.echo("nothing to clean")

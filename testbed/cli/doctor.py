"""``doctor``: what this machine can do, what is missing, and how to get it."""

from __future__ import annotations

import json

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from testbed.emulation.machine import Capabilities, Check, capabilities
from testbed.errors import EXIT_MACHINE, EXIT_PASSED
from testbed.units import format_size


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def doctor(as_json: bool) -> int:
    """Tell what this machine can do, what is missing, and how to get it.

    Ends with exit code 3 if something is missing that the quickstart needs.
    """
    found = capabilities()
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        _show(found)
    return EXIT_MACHINE if found.missing else EXIT_PASSED


def _show(found: Capabilities) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "check", "for", "found, and what to do"):
        table.add_column(column, overflow="fold")
    for check in found.checks:
        told = check.detail if check.ok else f"{check.detail}\n→ {check.remedy}"
        table.add_row(_mark(check), check.name, check.needed_for, Text(told))
    console = Console(highlight=False)
    cores = f"{found.cores} core{'' if found.cores == 1 else 's'}"
    console.print(f"Linux {found.kernel}, {cores}, {format_size(found.memory_bytes)} of memory available")
    console.print(table)
    if found.missing:
        console.print("Missing for the quickstart: " + ", ".join(check.name for check in found.missing))
    else:
        console.print("This machine can run the quickstart.")


def _mark(check: Check) -> Text:
    if check.ok:
        return Text("ok", style="green")
    return Text("missing", style="bold red") if check.required else Text("absent", style="yellow")

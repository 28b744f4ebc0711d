"""``check``: decide from the tables of a finished run whether the system under test did its job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from testbed.errors import EXIT_FAILED, EXIT_PASSED

if TYPE_CHECKING:
    from runner.checker.check import Checked


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print findings and figures as JSON.")
def check(folder: Path, as_json: bool) -> int:
    """Check the finished run in FOLDER, such as results/latest; reads nothing but its tables and run.json.

    Ends with exit code 0 if it is consistent and every request had its right answer once, 1 if not, 2 if FOLDER isn't
    one of a finished run or a file is damaged.
    """
    from runner.checker.check import check_run

    checked = check_run(folder)
    if as_json:
        content = {
            "folder": str(folder),
            "outcome": checked.ruling.outcome,
            **checked.ruling.to_dict(),
            "summary": checked.summary.to_dict(),
        }
        click.echo(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        _show(checked)
    return EXIT_FAILED if checked.ruling.errors else EXIT_PASSED


def _show(checked: Checked) -> None:
    from rich.console import Console
    from rich.text import Text

    from runner.console import summary_table

    console = Console(highlight=False)
    console.print(summary_table(checked.summary))
    tones = {"error": "bold red", "warning": "yellow", "info": "dim"}
    findings = checked.ruling.written_out
    for finding in findings:
        place = f" ({finding.place})" if finding.place else ""
        line = Text.assemble((f"{finding.level}: ", tones[finding.level]), f"{finding.rule}: {finding.text}{place}")
        console.print(line, soft_wrap=True)
    if len(findings) < len(checked.ruling.findings):
        console.print(f"… and {len(checked.ruling.findings) - len(findings)} more like these")
    outcome = checked.ruling.outcome
    console.print(Text.assemble("checked: ", (outcome, "bold green" if outcome == "passed" else "bold red")))

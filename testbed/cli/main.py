"""The front door: finds the verb, runs it, and turns every expected failure into a message and an exit code.

A verb lives in the module of its name and is imported only when it is called, so that ``--help`` and ``validate`` never
wait for torch. A verb ends with its exit code as its return value (None is 0), or raises.
"""

from __future__ import annotations

import difflib
import importlib
import os
import select
import sys
import traceback
from collections.abc import Mapping, Sequence

import click

from testbed.errors import EXIT_PASSED, TestbedError

EXIT_INTERRUPTED = 128 + 2  # as a shell tells of a process that SIGINT ended
EXIT_BROKEN_PIPE = 128 + 13  # … and of one that SIGPIPE ended

VERBS: Mapping[str, str] = {
    "run": "Run an experiment on an emulated cluster (needs root).",
    "check": "Decide from a finished run's tables whether every request was answered right, once, and in time.",
    "validate": "Check an experiment file.",
    "plan": "Print how a model would be split over the hosts, and what to expect of it.",
    "compare-plans": "Print what every strategy plans, side by side; with --run also what its plan gives.",
    "pareto": "Print, list or draw the plans that no other plan beats.",
    "inspect": "Print where a model can be cut, what would cross there, and what lies between.",
    "schema": "Print the JSON Schema of an experiment file.",
    "doctor": "Tell what this machine can do, what is missing, and how to get it.",
    "calibrate": "Time this machine, and print the share of a core that each known device is.",
    "clean": "Remove what killed runs left on this machine (needs root).",
}


class VerbGroup(click.Group):
    """A group whose commands are named in `VERBS` and imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all verbs, in the order in which a user meets them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the verb ``cmd_name``; None if there is none of that name."""
        if cmd_name not in VERBS:
            return None
        word = cmd_name.replace("-", "_")
        command = getattr(importlib.import_module(f"testbed.cli.{word}"), word)
        if not isinstance(command, click.Command):
            raise TypeError(f"testbed.cli.{word}.{word} is no click command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb that ``args`` begin with.

        Raises:
            click.UsageError: There is no such verb; names the nearest.
        """
        name = args[0]
        if name not in VERBS and not name.startswith("-"):
            near = difflib.get_close_matches(name, VERBS, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(VERBS)}."
            raise click.UsageError(f"No such command {name!r}. {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one line for each verb, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group("testbed", cls=VerbGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="edge-inference-testbed", prog_name="testbed")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Emulated edge clusters for distributed DNN inference.

    Exit codes: 0 passed and valid, 1 the experiment failed, 2 the file or the command line is wrong, 3 this machine
    can't do it, 4 it ran but the emulation is invalid.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows the program's name; by default the process's own.

    Returns:
        The exit code. Errors that are no `TestbedError` are bugs and are raised.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    debug = False
    try:
        # click's own main() would call every BrokenPipeError, even a worker's, a closed standard output.
        with cli.make_context("testbed", list(arguments)) as context:
            debug = context.params["debug"]
            outcome = cli.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as exit_request:
        return exit_request.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return EXIT_INTERRUPTED
    except TestbedError as error:
        if debug:
            traceback.print_exc()
        _show(error)
        return error.exit_code
    except BrokenPipeError:
        if not _reader_is_gone(sys.stdout.fileno()):
            raise
        # What is still buffered goes nowhere, instead of failing once more as the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    return outcome if isinstance(outcome, int) else EXIT_PASSED


def _show(error: TestbedError) -> None:
    click.echo(f"{click.style('error:', fg='red', bold=True)} {error.message}", err=True)
    if error.remedy is not None:
        click.echo(error.remedy, err=True)


def _reader_is_gone(descriptor: int) -> bool:
    poller = select.poll()
    poller.register(descriptor, 0)
    return any(events & select.POLLERR for _, events in poller.poll(0))

"""How a benchmark's program ends: with an exit code, and with a sentence where it couldn't be run."""

from __future__ import annotations

import sys
from collections.abc import Callable

from testbed.cli.main import EXIT_INTERRUPTED
from testbed.errors import TestbedError


def ended(program: Callable[[], int]) -> int:
    """Run a program; its exit code.

    What can't be run is told as ``python -m testbed`` tells it, and so is Ctrl-C. Errors that are no `TestbedError` are
    bugs and are raised.
    """
    try:
        return program()
    except TestbedError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED

"""Every error that the testbed raises on purpose.

::

    TestbedError                 anything below; ``exit_code`` says how the command line ends
    ├── SpecError            2   the YAML file (or an override of it) is wrong; carries file, line and path
    ├── UsageError           2   a command-line argument is wrong
    ├── ModelError           2   the model, its weights or its input images can't be used
    ├── InfeasibleError      2   no plan satisfies the constraints; says which one binds and by how much
    ├── MachineError         3   this machine can't do what the experiment asks; says what is missing
    │   └── BusyError        3   another run holds this machine
    ├── ProtocolError        1   a peer sent bytes that are no legal frame
    └── ExperimentError      1   the experiment itself failed (requests lost or wrong, no recovery)

A message says what is wrong and where; ``remedy`` says what would be legal or how to get it.
"""

from __future__ import annotations

from pathlib import Path

EXIT_PASSED = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_MACHINE = 3
EXIT_INVALID = 4


class TestbedError(Exception):
    """Root of the tree.

    Args:
        message: What is wrong and where, in one or a few short lines.
        remedy: What would be legal, or how to mend it; printed below the message.
    """

    __test__ = False  # its name looks like a test class to pytest
    exit_code: int = EXIT_FAILED

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return self.message if self.remedy is None else f"{self.message}\n{self.remedy}"


class SpecError(TestbedError):
    """The experiment file is wrong.

    Args:
        message: What is wrong.
        file: The YAML file, if there is one.
        line: Its line, counted from 1.
        path: The key's path in the file, such as ``links[2].rate``.
        override: The command-line option, such as ``--set links[2].rate=5``, that set the value in place of the file.
        remedy: Legal values, nearest legal word.
    """

    exit_code = EXIT_USAGE

    def __init__(
        self,
        message: str,
        *,
        file: Path | None = None,
        line: int | None = None,
        path: str = "",
        override: str | None = None,
        remedy: str | None = None,
    ) -> None:
        place = override or ":".join(str(part) for part in (file, line) if part is not None)
        super().__init__(": ".join(part for part in (place, path, message) if part), remedy=remedy)
        self.reason = message
        self.file = file
        self.line = line
        self.path = path
        self.override = override


class UsageError(TestbedError):
    """A command-line argument is wrong."""

    exit_code = EXIT_USAGE


class ModelError(TestbedError):
    """The model, its weights file or its input images can't be used."""

    exit_code = EXIT_USAGE


class InfeasibleError(TestbedError):
    """No plan satisfies the constraints."""

    exit_code = EXIT_USAGE


class MachineError(TestbedError):
    """This machine lacks something that the experiment needs."""

    exit_code = EXIT_MACHINE


class BusyError(MachineError):
    """Another run holds this machine."""


class ProtocolError(TestbedError):
    """A peer sent bytes that are no legal frame."""


class ExperimentError(TestbedError):
    """The experiment failed: requests lost or wrong, or no recovery."""

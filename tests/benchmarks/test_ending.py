"""How the programs of benchmarks end."""

from __future__ import annotations

import pytest

from benchmarks.ending import ended
from testbed.cli.main import EXIT_INTERRUPTED
from testbed.errors import EXIT_MACHINE, MachineError


def test_the_exit_code_is_the_programs_own() -> None:
    assert ended(lambda: 1) == 1


def test_what_can_not_be_run_is_told_with_its_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    def program() -> int:
        raise MachineError("no root", remedy="use sudo")

    assert ended(program) == EXIT_MACHINE
    assert capsys.readouterr().err == "error: no root\nuse sudo\n"


def test_an_interruption_is_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def program() -> int:
        raise KeyboardInterrupt

    assert ended(program) == EXIT_INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"


def test_a_bug_is_raised() -> None:
    def program() -> int:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        ended(program)

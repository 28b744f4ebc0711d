"""The command line, called in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.cli.main import main
from tests.cli.told import Shown, Verb


@pytest.fixture
def verb(capfd: pytest.CaptureFixture[str]) -> Verb:
    """Runs the command line in this process, which has imported torch already."""

    def call(*arguments: str | Path) -> Shown:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return code, captured.out + captured.err

    return call

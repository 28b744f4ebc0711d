"""The verbs that need neither root nor Mininet."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from testbed.cli.schema import schema
from testbed.cli.validate import validate
from testbed.errors import SpecError

QUICKSTART = Path(__file__).parents[2] / "topologies" / "quickstart.yaml"


def test_validate_says_what_it_read() -> None:
    result = CliRunner().invoke(validate, [str(QUICKSTART), "--set", "faults=[]", "--seed", "7"])
    assert result.exit_code == 0
    assert result.output == "quickstart: 4 hosts, 4 links, model mobilenet_v2, strategy exact, 0 faults: valid\n"


def test_validate_leaves_errors_to_the_group() -> None:
    result = CliRunner().invoke(validate, [str(QUICKSTART), "--set", "sede=1"])
    assert isinstance(result.exception, SpecError)
    assert "did you mean 'seed'?" in str(result.exception)


def test_schema_prints_json() -> None:
    result = CliRunner().invoke(schema, [])
    assert result.exit_code == 0
    assert json.loads(result.output)["title"] == "Experiment"

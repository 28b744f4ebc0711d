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


def test_validate_prints_the_timeline_that_a_replay_takes(tmp_path: Path) -> None:
    listed = "faults=[{at: 9s, kill: {random: 1 of workers}, every: 10s}, {at: 2s, kill: [node1, spare]}]"
    result = CliRunner().invoke(validate, [str(QUICKSTART), "--set", listed, "--seed", "7"])
    assert result.exit_code == 0
    first, head, *entries = result.output.splitlines()
    assert "4 faults: valid" in first
    assert (head, entries[0]) == ("faults:", "  - {at: 2s, kill: [node1, spare]}")
    assert [line.partition(", ")[0] for line in entries] == [f"  - {{at: {at_s}s" for at_s in (2, 9, 19, 29)]
    rows = "".join(f'{number},"{line[4:]}"\n' for number, line in enumerate(entries))
    (tmp_path / "faults.csv").write_text(f"id,entry\n{rows}")
    again = CliRunner().invoke(validate, [str(QUICKSTART), "--replay", str(tmp_path / "faults.csv")])
    assert again.output.splitlines()[1:] == result.output.splitlines()[1:]


def test_validate_leaves_errors_to_the_group() -> None:
    result = CliRunner().invoke(validate, [str(QUICKSTART), "--set", "sede=1"])
    assert isinstance(result.exception, SpecError)
    assert "did you mean 'seed'?" in str(result.exception)


def test_schema_prints_json() -> None:
    result = CliRunner().invoke(schema, [])
    assert result.exit_code == 0
    assert json.loads(result.output)["title"] == "Experiment"

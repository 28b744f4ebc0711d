"""``plan``: what it tells of a plan whose stages may be left out."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.told import Verb
from tests.runner.real_run import experiment


def test_stages_that_may_be_left_out_are_told_where_they_would_be(verb: Verb, tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    placement = {"strategy": "even", "costs": "analytic"}
    file.write_text(json.dumps(experiment(placement=placement, recovery={"policy": "skip"})))
    code, text = verb("plan", file)
    assert code == 0, text
    assert "stage 1 (node2)" in text.partition("may be left out:")[2].splitlines()[0]
    code, text = verb("plan", file, "--set", "recovery.policy=replan")
    assert code == 0, text
    assert "left out" not in text

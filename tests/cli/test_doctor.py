from __future__ import annotations

import json

import pytest

from testbed.cli import doctor as module
from testbed.cli.main import main
from testbed.emulation.machine import Capabilities, Check


def _install(monkeypatch: pytest.MonkeyPatch, *, required: bool) -> None:
    checks = (
        Check("root", True, "yes", "", "everything", True),
        Check("netem", False, "no [bold]sch_netem", "modprobe sch_netem", "delay", required),
    )
    monkeypatch.setattr(module, "capabilities", lambda: Capabilities("6.1", 2, 2**31, 2, checks))


def test_what_is_missing_is_shown_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _install(monkeypatch, required=True)
    assert main(["doctor"]) == 3
    out = capsys.readouterr().out
    assert "no [bold]sch_netem" in out
    assert "→ modprobe sch_netem" in out
    assert "Missing for the quickstart: netem" in out


def test_what_is_only_useful_may_be_absent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _install(monkeypatch, required=False)
    assert main(["doctor"]) == 0
    assert "can run the quickstart" in capsys.readouterr().out


def test_json_for_programs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _install(monkeypatch, required=True)
    assert main(["doctor", "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert found["cgroup_version"] == 2
    assert found["checks"][1]["remedy"] == "modprobe sch_netem"

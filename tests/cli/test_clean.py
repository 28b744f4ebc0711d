from __future__ import annotations

import os

import pytest

from testbed.cli import clean as module
from testbed.cli.main import main
from testbed.emulation.cleaner import CleanReport
from testbed.errors import BusyError


def _install(monkeypatch: pytest.MonkeyPatch, report: CleanReport) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(module, "clean_machine", lambda: report)


def test_only_root_may_clean(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(module, "clean_machine", lambda: pytest.fail("nothing may be touched"))
    assert main(["clean"]) == 3
    assert "sudo" in capsys.readouterr().err


def test_nothing_to_clean(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _install(monkeypatch, CleanReport((), (), (), ()))
    assert main(["clean"]) == 0
    assert capsys.readouterr().out == "nothing to clean\n"


def test_every_line_of_the_report_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _install(monkeypatch, CleanReport(("demo",), ("process 5 (x)",), ("netns y: not ours",), ("mount /z: busy",)))
    assert main(["clean"]) == 3
    captured = capsys.readouterr()
    assert captured.out == "removed process 5 (x)\nleft alone: netns y: not ours\n"
    assert captured.err == "couldn't remove mount /z: busy\n"


def test_a_live_run_refuses(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> CleanReport:
        raise BusyError("this machine is busy: run demo", remedy="wait")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(module, "clean_machine", refuse)
    assert main(["clean"]) == 3
    assert "run demo" in capsys.readouterr().err

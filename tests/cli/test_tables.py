"""Tables lose nothing, however narrow the terminal is."""

from __future__ import annotations

import pytest

from testbed.cli.tables import new_table, print_table


@pytest.mark.parametrize("columns", [10, 30, 80])
def test_no_figure_is_cut(columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    table = new_table(("strategy", "hosts", "bottleneck_s"), texts=("strategy",), folding="hosts")
    table.add_row("joint-greedy", "node1 node2 another-host", "0.0002293")
    table.add_row("k-path", "NA", "NA")
    console = print_table(table)
    shown = capsys.readouterr().out
    for word in ("joint-greedy", "node1", "node2", "another-host", "0.0002293", "bottleneck_s"):
        assert word in shown
    assert "…" not in shown
    assert console.width == max(columns, len("joint-greedy") + len("another-host") + len("bottleneck_s") + 3 * 2)


def test_a_file_has_long_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    table = new_table(("strategy", "hosts"), folding="hosts")
    table.add_row("exact", " ".join(f"node{number}" for number in range(15)))
    print_table(table)
    assert len(capsys.readouterr().out.splitlines()) == 2

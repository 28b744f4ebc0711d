from __future__ import annotations

import dataclasses
import io
import os
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console as RichConsole

from runner import fidelity_checks
from runner.console import MOST_REASONS, Console, dashboard
from runner.events import Check
from runner.history import History
from runner.live_view import MOST_ALIKE, LiveView
from runner.summary import summarize
from runner.verdict import judge
from testbed.serving.events import Event, Note, RequestCompleted
from tests.runner.story import judged

PREPARED = SimpleNamespace(
    experiment=SimpleNamespace(
        name="quickstart",
        compute=SimpleNamespace(time_scale=1.0),
        hosts=dict.fromkeys(("dispatcher", "node1", "node2", "spare")),
    )
)


def result(events: tuple[Event, ...]) -> SimpleNamespace:
    checks = [event for event in events if isinstance(event, Check)]
    return SimpleNamespace(
        folder=Path("results/x"), summary=summarize(events), ruling=judged(events), verdict=judge(checks)
    )


def show(events: tuple[Event, ...], *, quiet: bool = False, terminal: bool = False) -> str:
    out = io.StringIO()
    rich = RichConsole(file=out, force_terminal=terminal, width=120, highlight=False, color_system=None)
    history = History()
    with Console(quiet=quiet, console=rich) as console:
        console.progress("loading the model")
        console.observe(PREPARED, history)
        for event in events:
            history.append(event)
    console.conclude(result(events))
    return out.getvalue()


def test_plain_lines_tell_the_story_in_order(quickstart: tuple[Event, ...]) -> None:
    text = show(quickstart)
    story = [
        "loading the model",
        "plan 1 (start): node1 → node2",
        "0.00 s  the workload starts (30 s)",
        "5.02 s  6.0 answers/s",
        "8.00 s  fault: kill node2",
        "8.05 s  node2 is lost (connection: reset by peer)",
        "8.08 s  plan 2 (node2 was lost): node1 → spare",
        "stage 1 is on spare (50.3 Mbit in 3.46 s)",
        "12.00 s  first answer of plan 2",
        "20.01 s  fault: throttle node1-s1 to 2Mbit/s",
        "25.00 s  healed: throttle node1-s1 to 2Mbit/s",
        "129 of 129 answered right",
        "outcome: passed  verdict: valid  results: results/x",
    ]
    places = [text.find(words) for words in story]
    assert -1 not in places, story[places.index(-1)]
    assert places == sorted(places)
    assert "\x1b" not in text
    assert len(re.findall(r"answers/s, .*in flight", text)) == 6


def test_quiet_says_one_line(quickstart: tuple[Event, ...]) -> None:
    assert show(quickstart, quiet=True) == "outcome: passed  verdict: valid  results: results/x\n"


def test_a_failure_says_why(quickstart: tuple[Event, ...]) -> None:
    answers = [event for event in quickstart if isinstance(event, RequestCompleted)]
    events = [dataclasses.replace(e, outcome="wrong") if e is answers[4] else e for e in quickstart]
    text = show(tuple(events))
    assert "was answered wrongly" in text
    assert f"failed because: request {answers[4].id} was answered wrongly" in text
    assert "outcome: failed" in text


def test_each_reason_has_its_own_level(quickstart: tuple[Event, ...]) -> None:
    slow = fidelity_checks.check_rate(1031.0, "after", "a→b", 20e6, 10e6)
    off = fidelity_checks.check_rate(1031.0, "after", "c→d", 20e6, 19e6)
    text = show((*quickstart, off, slow))
    assert "  invalid: a→b: rate after the workload" in text
    assert "  suspect: c→d: rate after the workload" in text
    assert "verdict: invalid" in text


def test_many_reasons_are_not_all_printed(quickstart: tuple[Event, ...]) -> None:
    slow = [fidelity_checks.check_rate(1031.0, "after", f"a{number}→b", 2e9, 1e9) for number in range(60)]
    text = show((*quickstart, *slow))
    assert text.count("rate after the workload is 1Gbit/s instead of 2Gbit/s") == MOST_ALIKE + MOST_REASONS
    assert "… and more with another rate_after_mbit_s: see fidelity.csv" in text
    assert f"  … and {60 - MOST_REASONS} more in fidelity.csv" in text


def test_a_terminal_shows_the_dashboard_and_keeps_the_log(quickstart: tuple[Event, ...]) -> None:
    text = show(quickstart, terminal=True)
    assert "fault: kill node2" in text
    assert "quickstart  31 of 30 s" in text
    assert "node2" in text


def test_the_dashboard_is_of_now(quickstart: tuple[Event, ...]) -> None:
    view = LiveView()
    for event in quickstart:
        if event.t_s <= 1013.0:
            view.apply(event)
    console = RichConsole(file=io.StringIO(), record=True, width=120)
    console.print(dashboard(view, "quickstart", ""))
    text = console.export_text()
    assert re.search(r"node2 +│ killed +│ – ", text)
    assert re.search(r"spare +│ serving │ 1 ", text)
    assert "4 in flight" in text
    assert view.in_flight == 4


def test_markup_in_events_is_only_text(quickstart: tuple[Event, ...]) -> None:
    assert "[bold]x[/nonsense]" in show((*quickstart, Note(t_s=1031.0, source="a", text="[bold]x[/nonsense]")))


def test_a_pipe_that_nobody_reads_holds_up_nobody(
    quickstart: tuple[Event, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.console.CLOSING_DEADLINE_S", 0.05)
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    while True:
        try:
            os.write(write_end, b"x" * 65536)
        except BlockingIOError:
            break
    os.set_blocking(write_end, True)
    pipe = os.fdopen(write_end, "w")
    history = History()
    console = Console(console=RichConsole(file=pipe))
    with console:
        console.observe(PREPARED, history)
        for event in quickstart:
            history.append(event)
    thread = console._thread
    assert thread is not None
    assert thread.is_alive()  # it hangs in the pipe, and the run did not
    with os.fdopen(read_end, "rb") as reader:
        drain = threading.Thread(target=reader.read)
        drain.start()
        thread.join(30)
        pipe.close()
        drain.join(30)
    assert not thread.is_alive()

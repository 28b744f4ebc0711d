from __future__ import annotations

import threading
from pathlib import Path

import pytest

from runner.events import EVENT_TYPES, FaultScheduled, HostStateChanged, event_from_json
from runner.history import History, read_events
from testbed.errors import MachineError, UsageError
from testbed.serving.events import Event, Note, to_json


def note(text: str, t_s: float = 1.0) -> Note:
    return Note(t_s=t_s, source="test", text=text)


def test_every_event_survives_the_file(tmp_path: Path, quickstart: tuple[Event, ...]) -> None:
    path = tmp_path / "events.jsonl"
    with History(path) as history:
        for event in quickstart:
            history.append(event)
    assert read_events(path) == quickstart
    assert History.load(path).events == quickstart
    assert {type(event) for event in quickstart} <= set(EVENT_TYPES.values())


def test_an_event_is_in_the_file_before_append_returns(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    history = History(path)
    history.append(note("first"))
    assert read_events(path) == (note("first"),)
    history.close()


def test_tuples_come_back_as_tuples() -> None:
    event = FaultScheduled(t_s=0.0, fault=1, verb="kill", target="a", due_s=2.0, hosts=("a", "b"))
    assert event_from_json(to_json(event)) == event


def test_a_torn_last_line_is_skipped_and_a_torn_middle_is_not(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    line = to_json(note("whole")).encode()
    path.write_bytes(line + b"\n" + line[:10])
    assert read_events(path) == (note("whole"),)
    path.write_bytes(line[:10] + b"\n" + line + b"\n")
    with pytest.raises(UsageError, match=r"events\.jsonl:1"):
        read_events(path)


def test_threads_lose_nothing_and_tear_nothing(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    history = History(path)
    seen: list[Event] = []
    history.listen(seen.append)

    def work(name: int) -> None:
        for i in range(100):
            history.append(note(f"{name}-{i}"))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    history.close()
    assert len(history) == 800
    assert tuple(seen) == history.events == read_events(path)


def test_a_listener_that_fails_is_dropped_and_told_of(tmp_path: Path) -> None:
    history = History()
    heard: list[Event] = []

    def broken(event: Event) -> None:
        raise RuntimeError("no terminal")

    history.listen(broken)
    history.listen(heard.append)
    history.append(note("one"))
    history.append(note("two"))
    texts = [event.text for event in history.events if isinstance(event, Note)]
    assert texts[0] == "one"
    assert "no terminal" in texts[1]
    assert texts[2:] == ["two"]
    assert len(heard) == 3


def test_a_full_disk_is_told_once_and_the_run_goes_on() -> None:
    history = History(Path("/dev/full"))
    history.append(HostStateChanged(t_s=1.0, host="a", state="ready"))
    assert len(history) == 1
    with pytest.raises(MachineError, match="No space left"):
        history.raise_if_failed()
    history.close()


def test_an_unwritable_place_is_an_error_for_people(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="can't write the history"):
        History(tmp_path / "missing" / "events.jsonl")
    with pytest.raises(UsageError, match="can't read the history"):
        History.load(tmp_path / "missing.jsonl")

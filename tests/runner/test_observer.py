from __future__ import annotations

import threading
import time

from runner.events import HostStateChanged
from runner.history import History
from runner.observer import Watch, untold_stages
from testbed.serving.events import Event, RequestCompleted, StageExecuted
from tests.runner.story import Story

PATIENCE_S = 30.0


def told_but(kept: int) -> tuple[list[Event], list[StageExecuted]]:
    """A good history without the last stages' stories, and those."""
    events = sorted(Story(kill_s=None).events(), key=lambda event: event.t_s)
    late = [event for event in events if isinstance(event, StageExecuted)][kept:]
    return [event for event in events if event not in late], late


def test_what_ran_for_an_answer_must_be_told() -> None:
    events, late = told_but(-2)
    assert untold_stages(events) == {(event.id, event.epoch, event.stage) for event in late}
    assert untold_stages([*events, *late]) == set()


def test_hosts_that_have_ended_tell_nothing() -> None:
    events, late = told_but(-1)
    assert len(untold_stages(events)) == 1
    gone = HostStateChanged(t_s=2000.0, host=late[0].host, state="killed")
    assert untold_stages([*events, gone]) == set()


def test_settling_ends_with_the_last_story() -> None:
    events, late = told_but(-2)
    history = History(events=events)
    watch = Watch(history)
    settled = threading.Thread(target=watch.settle, args=(PATIENCE_S,))
    settled.start()
    history.append(late[0])
    assert settled.is_alive()
    history.append(late[1])
    settled.join(PATIENCE_S / 2)
    assert not settled.is_alive()


def test_settling_gives_up() -> None:
    events, _ = told_but(-2)
    assert any(isinstance(event, RequestCompleted) for event in events)
    began_s = time.monotonic()
    Watch(History(events=events)).settle(0.05)
    assert time.monotonic() - began_s < PATIENCE_S

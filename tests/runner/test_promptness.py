from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from runner.promptness import PRIORITY, act_promptly

_POLICY = "import os; print(os.sched_getscheduler(0))"


@pytest.mark.root
@pytest.mark.alone
def test_only_the_calling_thread_is_prompt_and_nothing_that_it_starts() -> None:
    found: dict[str, int] = {}

    def act() -> None:
        assert act_promptly()
        found["thread"] = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
        found["priority"] = os.sched_getparam(0).sched_priority
        found["child"] = int(subprocess.run([sys.executable, "-c", _POLICY], capture_output=True, check=True).stdout)

    thread = threading.Thread(target=act)
    thread.start()
    thread.join()
    assert found == {"thread": os.SCHED_FIFO, "priority": PRIORITY, "child": os.SCHED_OTHER}
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_a_machine_that_does_not_allow_it_is_lived_with(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    assert not act_promptly()

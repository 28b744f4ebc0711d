"""Signals are exceptions only where that is allowed, and once."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from runner.interruption import SIGNALS, Interruptions


@pytest.fixture
def interruptions() -> Iterator[Interruptions]:
    # What started the tests may have them ignored: a shell does so for what it runs in the background.
    inherited = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    try:
        with Interruptions() as entered:
            yield entered
        assert {signal.getsignal(number) for number in SIGNALS} == {signal.SIG_DFL}
    finally:
        for number, handler in inherited.items():
            signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "words"),
    [(signal.SIGINT, "by Ctrl-C"), (signal.SIGTERM, "by SIGTERM"), (signal.SIGHUP, "by SIGHUP")],
)
def test_allowed_signal_is_raised(number: signal.Signals, words: str, interruptions: Interruptions) -> None:
    with pytest.raises(KeyboardInterrupt, match=words), interruptions.allowed():
        signal.raise_signal(number)


def test_signal_elsewhere_waits_until_it_is_allowed(interruptions: Interruptions) -> None:
    signal.raise_signal(signal.SIGTERM)
    reached = False
    with pytest.raises(KeyboardInterrupt, match="by SIGTERM"), interruptions.allowed():
        reached = True
    assert not reached


def test_only_the_first_is_raised(interruptions: Interruptions) -> None:
    with pytest.raises(KeyboardInterrupt), interruptions.allowed():
        signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    with interruptions.allowed():
        signal.raise_signal(signal.SIGTERM)


def test_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruptions() as interruptions, interruptions.allowed():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)

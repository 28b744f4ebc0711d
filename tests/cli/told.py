"""What the command line told: its exit code and all that it printed."""

from __future__ import annotations

from collections.abc import Callable

SCREEN_LINES = 24

Shown = tuple[int, str]
Verb = Callable[..., Shown]


def assert_told(shown: Shown, exit_code: int, *words: str) -> None:
    """The exit code, one screen, no traceback, and all the words."""
    code, text = shown
    assert code == exit_code, text
    assert "Traceback" not in text
    assert len(text.splitlines()) <= SCREEN_LINES, text
    assert "error:" in text
    for word in words:
        assert word in text, f"{word!r} isn't told in\n{text}"

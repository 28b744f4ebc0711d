"""What a check found, and what that makes of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Level = Literal["error", "warning", "info"]
LEVELS: tuple[Level, ...] = ("error", "warning", "info")
MOST_OF_A_RULE = 20
"""Findings of one rule that are written out: a thousand lost requests are one story."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something a rule has to say of a run, and where it can be seen.

    Attributes:
        level: ``error``: the run is inconsistent, or the system under test failed; ``warning``: it may be, but the
            tables can't show; ``info``.
        rule: The rule's name, such as ``lost``; all rules are listed in ``results/README.md``.
        text: What is the matter, in words.
        file: The table that shows it; empty where no single one does.
        line: The line there, counted from 1; None for the whole file.
    """

    level: Level
    rule: str
    text: str
    file: str = ""
    line: int | None = None

    @property
    def place(self) -> str:
        """``requests.csv:7``, for people."""
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Ruling:
    """Everything that was found, errors first; within a level in the order of the rules."""

    findings: tuple[Finding, ...]

    @classmethod
    def of(cls, findings: Iterable[Finding]) -> Ruling:
        """A ruling with its findings in order."""
        return cls(tuple(sorted(findings, key=lambda finding: LEVELS.index(finding.level))))

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that fail a run."""
        return tuple(finding for finding in self.findings if finding.level == "error")

    @property
    def outcome(self) -> str:
        """``passed`` or ``failed``."""
        return "failed" if self.errors else "passed"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it failed, one line a rule; empty if it passed."""
        count = Counter(finding.rule for finding in self.errors)
        first: dict[str, Finding] = {}
        for finding in self.errors:
            first.setdefault(finding.rule, finding)
        return tuple(
            finding.text + (f", and {count[rule] - 1} more like it" if count[rule] > 1 else "")
            for rule, finding in first.items()
        )

    @property
    def written_out(self) -> tuple[Finding, ...]:
        """The findings without those of a rule that are too many to read."""
        seen: Counter[tuple[str, str]] = Counter()
        kept = []
        for finding in self.findings:
            seen[finding.level, finding.rule] += 1
            if seen[finding.level, finding.rule] <= MOST_OF_A_RULE:
                kept.append(finding)
        return tuple(kept)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data: how many findings there are of each level, and the findings."""
        count = Counter(finding.level for finding in self.findings)
        return {
            **{f"{level}s": count[level] for level in ("error", "warning")},
            "findings": [_plain(finding) for finding in self.written_out],
        }


def _plain(finding: Finding) -> Mapping[str, Any]:
    return {
        "level": finding.level,
        "rule": finding.rule,
        "text": finding.text,
        "file": finding.file,
        "line": finding.line,
    }

"""Rules of degraded service: whatever a plan leaves out is told, allowed, and marked on each of its answers.

Whether a degraded answer is right is part of its outcome (:mod:`runner.degraded`).
"""

from __future__ import annotations

from collections.abc import Iterator

from runner.checker.evidence import ANSWERED, Evidence
from runner.checker.findings import Finding
from runner.checker.reading import Line
from runner.left_out import Runs, as_text, left_out


def _left_out(evidence: Evidence, epoch: int) -> Runs:
    stages = evidence.plans.get(epoch, ())
    pairs = [(line.count("first_op"), line.count("last_op")) for line in stages]
    return left_out(pairs, evidence.operations) if pairs else ()


def degraded_answers_are_marked(evidence: Evidence) -> Iterator[Finding]:
    """An answer is marked as degraded if its plan leaves operations out, and only then; only ``skip`` may do that."""
    allowed = evidence.spec.get("recovery", {}).get("policy") == "skip"
    for epoch, line in evidence.epochs.items():
        runs, told = _left_out(evidence, epoch), line.runs("skipped")
        if runs != told:
            text = f"epoch {epoch} tells that it leaves out {_words(told)}, and its stages leave out {_words(runs)}"
            yield _error(line, text)
        if runs and not allowed:
            yield _error(line, f"epoch {epoch} leaves out {_words(runs)}, which the policy of recovery doesn't allow")
    for line in evidence.requests:
        its_epoch = line.maybe_count("epoch")
        if line.text("outcome") not in ANSWERED or its_epoch is None or its_epoch not in evidence.epochs:
            continue
        runs, marked = _left_out(evidence, its_epoch), line.flag("degraded")
        if bool(runs) != marked:
            how = "marked as degraded" if marked else "not marked as degraded"
            text = f"the answer to request {line.count('id')} is {how}, and its epoch leaves out {_words(runs)}"
            yield _error(line, text)


def _error(line: Line, text: str) -> Finding:
    return Finding("error", "degraded", text, line.file, line.number)


def _words(runs: Runs) -> str:
    return f"operations {as_text(runs)}" if runs else "nothing"

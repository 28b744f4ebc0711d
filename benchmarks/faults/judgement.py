"""What a cell came to, from the tables of its run alone: the checker's findings, and how it ended."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults.cells import Ending
from runner.checker.check import check_run
from runner.checker.reading import Line, Tables, read_folder

RECOVERED, UNAVAILABLE, FAILED = "recovered", "unavailable", "failed"
LAST_S = 0.5
"""Answers that had left the pipeline when a fault ended service for good may still come so long after."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A cell's outcome.

    Attributes:
        outcome: ``recovered``, ``unavailable`` or ``failed``.
        reason: Why it is unavailable, or what is wrong.
        detection_s, recovery_s: The longest of its faults; NaN where none was detected, or recovered from.
        downtime_s: How long no epoch served.
        answered, rejected: Requests.
    """

    outcome: str
    reason: str
    detection_s: float
    recovery_s: float
    downtime_s: float
    answered: int
    rejected: int


def judge(folder: Path, wanted: Ending) -> Judgement:
    """Judge a finished run.

    Raises:
        UsageError: If the folder isn't one of a finished run.
    """
    checked = check_run(folder)
    summary = checked.summary
    # That service never came back is what must be said of it where none is left who could serve.
    excused = () if wanted.because is None else ("no-recovery",)
    errors = [finding for finding in checked.ruling.errors if finding.rule not in excused]
    tables = read_folder(folder)
    if errors:
        outcome, reason = FAILED, "; ".join(f"{error.rule}: {error.text} ({error.place})" for error in errors[:3])
    elif problem := _effects(tables):
        outcome, reason = FAILED, problem
    elif wanted.because is None:
        outcome, reason = _in_service(tables, wanted)
    else:
        outcome, reason = _unavailable(tables, wanted)
    detections = [fault.detection_ms / 1e3 for fault in summary.faults if fault.detection_ms is not None]
    recoveries = [fault.recovery_s for fault in summary.faults if fault.recovery_s is not None]
    return Judgement(
        outcome,
        reason,
        max(detections, default=math.nan),
        max(recoveries, default=math.nan),
        math.fsum(until_s - since_s for since_s, until_s in summary.downtime),
        summary.requests["ok"],
        summary.requests["rejected"],
    )


def _effects(tables: Tables) -> str:
    """What is wrong with the faults themselves."""
    for line in tables["faults.csv"]:
        if line.maybe("effective_s") is None:
            return f"{line.text('kind')} {line.text('target')} never took effect"
    return ""


def _in_service(tables: Tables, wanted: Ending) -> tuple[str, str]:
    over_s = max(
        (t_s for line in tables["faults.csv"] for c in ("effective_s", "healed_s") if (t_s := line.maybe(c))),
        default=0.0,
    )
    last = _last_state(tables)
    legal = ("serving", "degraded") if wanted.degraded else ("serving",)
    if last is None or last.text("state") not in legal:
        state = "nothing" if last is None else f"{last.text('state')}: {last.text('detail')}"
        return FAILED, f"it must be serving in the end, and it is {state}"
    if not any(line.number_of("completed_s") > over_s for line in _answered(tables)):
        return FAILED, f"nothing was answered after the last fault was over, at {over_s:.3f} s"
    return RECOVERED, ""


def _unavailable(tables: Tables, wanted: Ending) -> tuple[str, str]:
    struck_s = max(line.number_of("effective_s") for line in tables["faults.csv"])
    late = [line for line in _answered(tables) if line.number_of("completed_s") > struck_s + LAST_S]
    if late:
        at_s = late[-1].number_of("completed_s")
        return (
            FAILED,
            f"it can't have been in service any more, but request {late[-1].count('id')} was answered at {at_s:.3f} s",
        )
    if not any(line.text("outcome") == "rejected" for line in tables["requests.csv"]):
        return FAILED, "no request was rejected, though none could be answered"
    last = _last_state(tables)
    if wanted.silent:
        return UNAVAILABLE, f"{wanted.because} is gone"
    if last is None or last.text("state") != "unavailable" or (wanted.because or "") not in last.text("detail"):
        state = "nothing" if last is None else f"{last.text('state')} ({last.text('detail')})"
        return FAILED, f"it must say that it is unavailable, because of {wanted.because!r}; it says {state}"
    return UNAVAILABLE, " ".join(last.text("detail").split())


def _answered(tables: Tables) -> list[Line]:
    return [line for line in tables["requests.csv"] if line.text("outcome") == "ok"]


def _last_state(tables: Tables) -> Line | None:
    """The last one before the run's end, which takes the hosts away."""
    found: Line | None = None
    for line in tables["service.csv"]:
        if line.text("event") == "run_ended":
            break
        if line.text("event") == "service":
            found = line
    return found

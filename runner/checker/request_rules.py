"""Rules of single requests: one outcome each, the right one, from the plan of an epoch that was in force."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from runner.checker.evidence import ANSWERED, TICK_S, Evidence
from runner.checker.findings import Finding, Level
from runner.checker.reading import Line
from runner.tables import OUTCOMES

LATENCY_MS = 0.005
"""Rounding of a latency and the two times that it is the difference of."""
ERROR_PCT = 1e-6
"""Rounding of an error."""
DISK_LAG_S = 1.0
"""A dispatcher that was started without its disk tries to open its journal ten times a second, and then reads it."""


def _found(level: Level, rule: str, line: Line, text: str) -> Finding:
    return Finding(level, rule, text, line.file, line.number)


def every_request_has_one_outcome(evidence: Evidence) -> Iterator[Finding]:
    """Nothing lost, nothing doubled, nothing invented, nothing left out of the table."""
    first: dict[int, Line] = {}
    for line in evidence.requests:
        id_, outcome = line.count("id"), line.text("outcome")
        if id_ in first:
            yield _found(
                "error", "doubled", line, f"request {id_} has a second row, besides that of line {first[id_].number}"
            )
        first.setdefault(id_, line)
        if outcome not in OUTCOMES:
            yield _found("error", "unknown-outcome", line, f"request {id_} has an outcome that isn't one: {outcome!r}")
        yield from _outcome(line, id_, outcome)
        error_pct, most_pct = line.maybe("error_pct"), evidence.answer_error_pct or 0.0
        degraded = line.text("degraded") == "true"  # its error is that against the whole model
        if outcome == "ok" and not degraded and error_pct is not None and error_pct > most_pct + ERROR_PCT:
            text = f"the answer to request {id_} is {error_pct:.3g} % off, and {most_pct:g} % is allowed"
            yield _found("error", "wrong", line, text)
    ids = sorted(id_ for id_, line in first.items() if line.text("outcome") != "unasked")
    if ids and len(ids) != ids[-1] + 1:
        # The client numbers its requests from 0.
        missing = next(number for number, id_ in enumerate(ids) if number != id_)
        yield Finding(
            "error",
            "left-out",
            f"{ids[-1] + 1 - len(ids)} requests have no row, the first is {missing}",
            "requests.csv",
        )


def _outcome(line: Line, id_: int, outcome: str) -> Iterator[Finding]:
    submitted_s, completed_s, answers = line.maybe("submitted_s"), line.maybe("completed_s"), line.count("answers")
    if outcome == "unasked" or submitted_s is None:
        yield _found("error", "unasked", line, f"request {id_} was answered though never submitted")
        return
    if outcome == "lost" or completed_s is None or not answers:
        yield _found("error", "lost", line, f"request {id_} was lost: it had no outcome when the run ended")
        return
    if outcome == "wrong":
        yield _found("error", "wrong", line, f"request {id_} was answered wrongly")
    if outcome == "doubled" or answers > 1:
        yield _found("error", "doubled", line, f"request {id_} was answered {answers} times")
    if completed_s < submitted_s - TICK_S:
        yield _found("error", "order", line, f"request {id_} has its outcome before it was submitted")
    if abs(line.number_of("latency_ms") - (completed_s - submitted_s) * 1e3) > LATENCY_MS:
        yield _found("error", "disagrees", line, f"the latency of request {id_} isn't the difference of its times")


def answers_are_of_their_epoch(evidence: Evidence) -> Iterator[Finding]:
    """An answer's path is the plan of its epoch, and it counted while that epoch was in force.

    The dispatcher counts an answer after its last stage has finished and before the client has it. So it counted in
    time if that span and the epoch's have an instant in common; and a request that was sent again in a later epoch
    before the client had its answer was not answered by the earlier one.
    """
    for line in evidence.requests:
        if line.text("outcome") not in ANSWERED or line.maybe("completed_s") is None:
            continue
        id_, epoch, completed_s = line.count("id"), line.maybe_count("epoch"), line.number_of("completed_s")
        if epoch is None or epoch not in evidence.epochs:
            yield _found(
                "error", "no-epoch", line, f"request {id_} was answered by epoch {epoch}, which there never was"
            )
            continue
        planned = tuple(stage.text("host") for stage in evidence.plans.get(epoch, ()))
        if line.words("path") != planned:
            yield _found(
                "error",
                "path",
                line,
                f"request {id_} went {' → '.join(line.words('path')) or 'nowhere'}; "
                f"the plan of its epoch {epoch} is {' → '.join(planned)}",
            )
        active_s, fenced_s = evidence.epochs[epoch].maybe("active_s"), evidence.epochs[epoch].maybe("fenced_s")
        if active_s is None or completed_s < active_s - TICK_S:
            yield _found("error", "fenced", line, f"request {id_} was answered by epoch {epoch} before that served")
            continue
        rows = evidence.executions.get(id_, ())
        finished_s = max((row.number_of("finished_s") for row in rows if row.count("epoch") == epoch), default=None)
        if fenced_s is not None and finished_s is not None and finished_s > fenced_s + TICK_S:
            yield _found(
                "error",
                "fenced",
                line,
                f"request {id_} was answered by epoch {epoch}, {(finished_s - fenced_s) * 1e3:.3f} ms after that was "
                "fenced off",
            )
        yield from _sent_again(evidence, line, id_, epoch, completed_s)


def _sent_again(evidence: Evidence, line: Line, id_: int, epoch: int, completed_s: float) -> Iterator[Finding]:
    for row in evidence.executions.get(id_, ()):
        if row.count("epoch") > epoch and row.number_of("received_s") < completed_s - TICK_S:
            # A dispatcher that died and came back may not know which of its answers reached the client.
            level: Level = "warning" if evidence.went_down(evidence.dispatcher, 0.0, completed_s) else "error"
            again = f"it was on its way again in epoch {row.count('epoch')} ({row.file}:{row.number})"
            yield _found(level, "fenced", line, f"request {id_} was answered by epoch {epoch} when {again}")
            return


def rejections_have_a_reason(evidence: Evidence) -> Iterator[Finding]:
    """A request is rejected only after its deadline, or while as many were unanswered as window and queue hold.

    A dispatcher whose disk doesn't take its journal can't accept anything, so a fault of that disk is a reason too.
    """
    workload = evidence.spec["workload"]
    window = int(workload["in_flight"])
    capacity = window + int(workload.get("queue", window))
    deadline_s = workload.get("deadline_s")
    asked = [line for line in evidence.requests if line.maybe("submitted_s") is not None]
    begins_s = sorted(line.number_of("submitted_s") for line in asked)
    ends_s = sorted(done_s for line in asked if (done_s := line.maybe("completed_s")) is not None)
    for line in evidence.requests:
        submitted_s, completed_s = line.maybe("submitted_s"), line.maybe("completed_s")
        if line.text("outcome") != "rejected" or submitted_s is None or completed_s is None:
            continue
        if deadline_s is not None and completed_s - submitted_s >= float(deadline_s) - TICK_S:
            continue
        open_ = bisect_right(begins_s, completed_s) - bisect_left(ends_s, submitted_s) - 1
        if open_ < capacity and not _without_a_disk(evidence, submitted_s, completed_s):
            text = (
                f"request {line.count('id')} was rejected {(completed_s - submitted_s) * 1e3:.1f} ms after it was "
                f"submitted, before any deadline; at most {open_} others were unanswered then, and {capacity} may be"
            )
            yield _found("error", "rejected", line, text)


def _without_a_disk(evidence: Evidence, since_s: float, until_s: float) -> bool:
    """Whether a fault of the dispatcher's disk was in force at some time of a span, or just before."""
    return any(
        fault.text("kind").startswith("disk")
        and evidence.dispatcher in fault.words("hosts")
        and (started_s := fault.maybe("started_s")) is not None
        and started_s <= until_s
        and ((healed_s := fault.maybe("healed_s")) is None or healed_s + DISK_LAG_S >= since_s)
        for fault in evidence.tables["faults.csv"]
    )

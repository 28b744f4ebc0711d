"""Rules of stages: each ran once where its plan has it, for a request that was asked, and in causal order.

All times are of one clock. ``sent_s`` is the exception: a node notes it when the call that hands over the last byte
returns, and a node that its quota holds back returns late, when the next host may have the bytes already. So what is
required is that an output was finished before it arrived; the hand-over itself only informs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

from runner.checker.evidence import ANSWERED, TICK_S, Evidence
from runner.checker.findings import Finding
from runner.checker.reading import Line

TOLD_LATE_S = 1.0
"""A node tells of a stage after it has sent its output: when killed within about this long after, it never does."""
STEPS = ("received_s", "started_s", "finished_s", "sent_s")


def stages_ran_as_planned(evidence: Evidence) -> Iterator[Finding]:
    """Every row is of a submitted request, and of a stage that the plan has on that host; none is there twice."""
    asked = {line.count("id") for line in evidence.requests if line.maybe("submitted_s") is not None}
    hosts = {
        (epoch, line.count("stage")): line.text("host") for epoch, lines in evidence.plans.items() for line in lines
    }
    first: dict[tuple[int, int, int], Line] = {}
    for line in evidence.tables["stages.csv"]:
        id_, epoch, stage, host = line.count("id"), line.count("epoch"), line.count("stage"), line.text("host")
        where = f"stage {stage} of epoch {epoch} on {host}"
        if id_ not in asked:
            text = f"{where} ran for request {id_}, which was never submitted"
            yield Finding("error", "unasked", text, line.file, line.number)
        if hosts.get((epoch, stage)) != host:
            text = f"{where} ran for request {id_}; the plan has it on {hosts.get((epoch, stage), 'no host')}"
            yield Finding("error", "path", text, line.file, line.number)
        if (id_, epoch, stage) in first:
            text = f"{where} ran twice for request {id_}, see line {first[id_, epoch, stage].number}"
            yield Finding("error", "stage-twice", text, line.file, line.number)
        first.setdefault((id_, epoch, stage), line)
        yield from _within(evidence, line, f"{where}, request {id_}", host, epoch)


def _within(evidence: Evidence, line: Line, where: str, host: str, epoch: int) -> Iterator[Finding]:
    for before, after in pairwise(STEPS):
        if line.number_of(before) > line.number_of(after) + TICK_S:
            yield Finding("error", "order", f"{where}: {after} is before {before}", line.file, line.number)
    served = evidence.epochs.get(epoch)
    active_s = None if served is None else served.maybe("active_s")
    if served is not None and (active_s is None or line.number_of("received_s") < active_s - TICK_S):
        yield Finding("error", "order", f"{where}: it arrived before that epoch served", line.file, line.number)
    started_s = line.number_of("started_s")
    if any(since_s < started_s < until_s for since_s, until_s in evidence.downs.get(host, ())):
        yield Finding("warning", "ghost", f"{where}: it began while the host was down", line.file, line.number)


def answered_requests_passed_every_stage(evidence: Evidence) -> Iterator[Finding]:
    """An answered request has a row for each stage of its epoch, in causal order from its submission to its answer."""
    late: list[Finding] = []
    for line in evidence.requests:
        submitted_s, completed_s = line.maybe("submitted_s"), line.maybe("completed_s")
        if line.text("outcome") not in ANSWERED or submitted_s is None or completed_s is None:
            continue
        id_, epoch = line.count("id"), line.maybe_count("epoch")
        rows: defaultdict[int, list[Line]] = defaultdict(list)
        for row in evidence.executions.get(id_, ()):
            if row.count("epoch") == epoch:
                rows[row.count("stage")].append(row)
        chain: list[Line] = []
        for planned in evidence.plans.get(epoch or 0, ()):
            stage, host = planned.count("stage"), planned.text("host")
            if rows[stage]:
                chain.append(rows[stage][0])
                continue
            text = f"request {id_} was answered, but nothing tells of its stage {stage} on {host}"
            if evidence.went_down(host, submitted_s, completed_s + TOLD_LATE_S):
                text += ", which ended then and may not have told"
                yield Finding("warning", "stage-missing", text, line.file, line.number)
            else:
                yield Finding("error", "stage-missing", text, line.file, line.number)
        yield from _in_order(line, id_, submitted_s, completed_s, chain, late)
    if late:
        # Harmless one by one; their number tells how hard the quotas hold the nodes back.
        first = late[0]
        yield Finding("info", "handed-over-late", f"{first.text}; {len(late)} such", first.file, first.line)


def _in_order(
    line: Line, id_: int, submitted_s: float, completed_s: float, chain: Sequence[Line], late: list[Finding]
) -> Iterator[Finding]:
    if chain and chain[0].number_of("received_s") < submitted_s - TICK_S:
        text = f"request {id_} was at its first stage before it was submitted"
        yield Finding("error", "order", text, chain[0].file, chain[0].number)
    for row, following in pairwise(chain):
        between = f"request {id_} was at stage {following.count('stage')}"
        if following.number_of("received_s") < row.number_of("finished_s") - TICK_S:
            text = f"{between} before stage {row.count('stage')} had finished"
            yield Finding("error", "order", text, following.file, following.number)
        elif following.number_of("received_s") < row.number_of("sent_s") - TICK_S:
            text = f"{between} before stage {row.count('stage')} noted that it had sent it"
            late.append(Finding("info", "handed-over-late", text, following.file, following.number))
    if chain and chain[-1].number_of("finished_s") > completed_s + TICK_S:
        text = f"request {id_} was answered before its last stage had finished ({chain[-1].file}:{chain[-1].number})"
        yield Finding("error", "order", text, line.file, line.number)

"""All rules, applied to a run's folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.checker import degraded_rules, figure_rules, request_rules, service_rules, stage_rules
from runner.checker.evidence import Evidence
from runner.checker.findings import Finding, Ruling
from runner.checker.reading import DamagedFile, Tables, read_folder, read_record
from runner.checker.rebuilding import rebuilt
from runner.summary import Summary, summarize
from testbed.errors import UsageError

RULES: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    service_rules.the_run_ran_to_its_end,
    request_rules.every_request_has_one_outcome,
    request_rules.answers_are_of_their_epoch,
    request_rules.rejections_have_a_reason,
    degraded_rules.degraded_answers_are_marked,
    stage_rules.stages_ran_as_planned,
    stage_rules.answered_requests_passed_every_stage,
    service_rules.epochs_follow_each_other,
    service_rules.hosts_did_as_told,
    service_rules.faults_were_overcome,
    figure_rules.figures_follow_from_the_rest,
)


@dataclass(frozen=True, slots=True)
class Checked:
    """A checked run: what was found, and its figures as the tables give them."""

    ruling: Ruling
    summary: Summary


def check_run(folder: Path) -> Checked:
    """Check a finished run, its ``run.json`` included.

    Raises:
        UsageError: If the folder isn't one of a finished run.
        DamagedFile: If a file can't be read; the message names the line.
    """
    record = read_record(folder)
    checked = check_tables(read_folder(folder), record)
    outcome = checked.ruling.outcome
    found = figure_rules.the_record_agrees(checked.summary, outcome, record)
    return Checked(Ruling.of((*checked.ruling.findings, *found)), checked.summary)


def rule_on(folder: Path, record: Mapping[str, Any]) -> Ruling:
    """Check the tables that a run has just written; what can't be read of them fails it, and loses nothing of it.

    Args:
        folder: The run's folder, still without its ``run.json``.
        record: What of ``run.json`` is known already, as for :func:`check_tables`.
    """
    try:
        return check_tables(read_folder(folder), record).ruling
    except UsageError as error:
        return Ruling((Finding("error", "damaged", error.message),))


def check_tables(tables: Tables, record: Mapping[str, Any]) -> Checked:
    """Check the tables of a run.

    Args:
        tables: All of them.
        record: What ``run.json`` holds, or will: ``spec``, and ``answer_error_pct`` and ``operations``, if they are
            there, are looked at.

    Raises:
        DamagedFile: If a cell that is needed is empty, or the specification isn't there.
    """
    try:
        spec = record["spec"]
        duration_s = float(spec["workload"]["duration_s"])
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFile("run.json: it has no specification with a workload") from error
    told = record.get("answer_error_pct"), record.get("operations")
    evidence = Evidence(tables, rebuilt(tables, duration_s), spec, *told)
    ruling = Ruling.of(finding for rule in RULES for finding in rule(evidence))
    return Checked(ruling, summarize(evidence.events))

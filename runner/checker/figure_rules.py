"""Rules of figures: what the tables tell of faults and epochs, and run.json of the whole, must follow from the rest."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runner.checker.evidence import Evidence
from runner.checker.findings import Finding
from runner.csvfile import Row
from runner.epoch_table import epoch_rows
from runner.fault_table import fault_rows
from runner.summary import Summary

FAULT_FIGURES = (
    "detected_s",
    "replanned_s",
    "recovered_s",
    "lost_requests",
    "throughput_before_rps",
    "throughput_during_rps",
    "throughput_after_rps",
)
EPOCH_FIGURES = ("measured_rps", "measured_bottleneck_pct")
RELATIVE, ABSOLUTE = 5e-3, 2e-5
"""How much a figure may be off that is found anew from rounded ones."""


def figures_follow_from_the_rest(evidence: Evidence) -> Iterator[Finding]:
    """Every figure of faults.csv and epochs.csv is found again from the requests, stages, plans and events.

    Where a request has more than one outcome the tables hold only the first, so nothing is compared.
    """
    if any(line.count("answers") > 1 or line.text("outcome") == "unasked" for line in evidence.requests):
        text = "requests with more than one outcome: the figures of faults and epochs can't be found again"
        yield Finding("info", "not-compared", text, "requests.csv")
        return
    for name, key, columns, rows in (
        ("faults.csv", "id", FAULT_FIGURES, fault_rows(evidence.events)),
        ("epochs.csv", "epoch", EPOCH_FIGURES, epoch_rows(evidence.events)),
    ):
        yield from _compare(evidence, name, key, columns, rows)


def _compare(evidence: Evidence, name: str, key: str, columns: Sequence[str], rows: Sequence[Row]) -> Iterator[Finding]:
    anew = {row[key]: row for row in rows}
    for line in evidence.tables[name]:
        found = anew.get(line.count(key), {})
        for column in columns:
            told, value = line.maybe(column), found.get(column)
            figure = None if value is None else float(value)
            if not _same(told, figure):
                text = f"{key} {line.count(key)}: {column} is {_text(told)}, the other tables give {_text(figure)}"
                yield Finding("error", "disagrees", text, line.file, line.number)


def _same(told: float | None, found: float | None) -> bool:
    if told is None or found is None:
        return told is found
    return math.isclose(told, found, rel_tol=RELATIVE, abs_tol=ABSOLUTE)


def the_record_agrees(summary: Summary, outcome: str, record: Mapping[str, Any]) -> Iterator[Finding]:
    """What ``run.json`` says of the requests and of the outcome is what the tables say."""
    told = record.get("summary", {}).get("requests")
    if told is not None and told != summary.requests:
        text = f"run.json counts {_counts(told)}; the tables have {_counts(summary.requests)}"
        yield Finding("error", "disagrees", text, "run.json")
    if record.get("outcome") not in (None, outcome):
        yield Finding("error", "disagrees", f"run.json says {record['outcome']}, the tables {outcome}", "run.json")


def _counts(requests: Mapping[str, Any]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in requests.items() if count) or "no request"


def _text(value: float | None) -> str:
    return "empty" if value is None else f"{value:g}"

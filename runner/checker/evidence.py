"""The tables of a run, ordered for the rules to look things up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from runner.checker.reading import Line, Tables
from runner.events import DOWN_STATES
from testbed.serving.events import Event

TICK_S = 2e-6
"""Times in tables are rounded to a microsecond, so two of them may be out of order by that much, twice."""

ANSWERED = ("ok", "wrong", "doubled")
"""Outcomes of requests that went through a pipeline."""


@dataclass(frozen=True)
class Evidence:
    """What the rules look at.

    Attributes:
        tables: All tables.
        events: The history, rebuilt from them.
        spec: The specification as ``run.json`` has it.
        answer_error_pct: The most that an answer through a lossy codec may be off; None where nothing may.
        model_operations: How many the model has; None lets the plans tell.
    """

    tables: Tables
    events: Sequence[Event]
    spec: Mapping[str, Any]
    answer_error_pct: float | None = None
    model_operations: int | None = None

    @property
    def dispatcher(self) -> str:
        """The dispatcher's host."""
        return str(self.spec.get("dispatcher", "dispatcher"))

    @property
    def requests(self) -> Sequence[Line]:
        """The rows of requests.csv."""
        return self.tables["requests.csv"]

    @cached_property
    def plans(self) -> Mapping[int, Sequence[Line]]:
        """The stages of each epoch's plan, in the order of the pipeline."""
        found: defaultdict[int, list[Line]] = defaultdict(list)
        for line in self.tables["plan.csv"]:
            found[line.count("epoch")].append(line)
        return {epoch: sorted(lines, key=lambda line: line.count("stage")) for epoch, lines in found.items()}

    @property
    def operations(self) -> int:
        """Operations of the whole model."""
        if self.model_operations is not None:
            return self.model_operations
        return max((line.count("last_op") for line in self.tables["plan.csv"]), default=0)

    @cached_property
    def epochs(self) -> Mapping[int, Line]:
        """The row of each epoch; the first, should there be several."""
        found: dict[int, Line] = {}
        for line in self.tables["epochs.csv"]:
            found.setdefault(line.count("epoch"), line)
        return found

    @cached_property
    def executions(self) -> Mapping[int, Sequence[Line]]:
        """The rows of stages.csv by request."""
        found: defaultdict[int, list[Line]] = defaultdict(list)
        for line in self.tables["stages.csv"]:
            found[line.count("id")].append(line)
        return found

    @cached_property
    def downs(self) -> Mapping[str, Sequence[tuple[float, float]]]:
        """When each host's server is known to have been down, from and to."""
        since: dict[str, float] = {}
        found: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        for line in self.tables["service.csv"]:
            if line.text("event") != "server":
                continue
            host, t_s = line.text("host"), line.number_of("t_s")
            if line.text("state") in DOWN_STATES:
                since.setdefault(host, t_s)
            elif host in since:
                found[host].append((since.pop(host), t_s))
        for host, t_s in since.items():
            found[host].append((t_s, float("inf")))
        return found

    def went_down(self, host: str, since_s: float, until_s: float) -> bool:
        """Whether a host's server ended, or was hit by a fault, in a span of time."""
        ends = [since for since, _ in self.downs.get(host, ())]
        ends += [
            effective_s
            for fault in self.tables["faults.csv"]
            if host in fault.words("hosts") and (effective_s := fault.maybe("effective_s")) is not None
        ]
        return any(since_s <= t_s <= until_s for t_s in ends)

"""The live display of a run: a log with a dashboard below it on a terminal, plain lines otherwise.

The run's threads only put events into a queue; one thread of the console takes them out, so a slow terminal or a full
pipe never holds up the run.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console as RichConsole
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from runner.checker.findings import Ruling
from runner.epoch_table import EpochFigures
from runner.events import DOWN_STATES
from runner.history import History
from runner.live_view import HostView, Line, LiveView
from runner.summary import Degraded, FaultFigures, Summary
from runner.verdict import Verdict
from runner.virtual_time import virtual
from testbed.serving.events import Event, PlanAdopted
from testbed.units import format_size

TONES = {"info": "", "good": "green", "warn": "yellow", "bad": "bold red"}
GRADES = {"passed": "bold green", "valid": "bold green", "suspect": "bold yellow"}
REFRESH_S = 0.25
CLOSING_DEADLINE_S = 2.0
MOST_REASONS = 12
"""Lines of the verdict's that are printed."""


class _Compute(Protocol):
    @property
    def time_scale(self) -> float: ...


class _Experiment(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def compute(self) -> _Compute: ...
    @property
    def hosts(self) -> Mapping[str, object]: ...


class _Prepared(Protocol):
    @property
    def experiment(self) -> _Experiment: ...


class _Result(Protocol):
    @property
    def folder(self) -> Path: ...
    @property
    def summary(self) -> Summary: ...
    @property
    def ruling(self) -> Ruling: ...
    @property
    def verdict(self) -> Verdict: ...


class Console:
    """Shows a run; a context manager around it.

    Args:
        quiet: Say nothing but the last line.
        console: Where to; standard output unless given.
    """

    def __init__(self, *, quiet: bool = False, console: RichConsole | None = None) -> None:
        self._console = console or RichConsole(highlight=False)
        self._quiet = quiet
        self._view = LiveView()
        self._title = ""
        self._doing = ""
        self._queue: queue.SimpleQueue[Event | Line | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()

    def __enter__(self) -> Self:
        if not self._quiet:
            self._thread = threading.Thread(target=self._work, name="console", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._queue.put(None)
        if self._thread is not None:
            # Not for ever: a pipe that nobody reads must not keep the run's own cleaning up from happening.
            self._thread.join(CLOSING_DEADLINE_S)

    def progress(self, text: str) -> None:
        """Tell what is being done."""
        self._queue.put(Line(None, text))

    def observe(self, prepared: _Prepared, history: History) -> None:
        """Follow a history from now on."""
        if self._quiet:
            return
        k = prepared.experiment.compute.time_scale
        self._title = prepared.experiment.name + (f" (time scale {k:g})" if k != 1 else "")
        self._view.hosts.update({name: HostView() for name in prepared.experiment.hosts})
        history.listen(lambda event: self._queue.put(virtual(event, k)))

    def conclude(self, result: _Result) -> None:
        """Print the figures, the verdict and the folder; with ``quiet`` in one line."""
        summary, ruling, verdict = result.summary, result.ruling, result.verdict
        if not self._quiet:
            self._console.print(summary_table(summary))
            for reason in ruling.reasons:
                self._console.print(Text(f"  failed because: {reason}", TONES["bad"]))
            for level, reason in verdict.graded[:MOST_REASONS]:
                self._console.print(Text(f"  {level}: {reason}", GRADES.get(level, TONES["bad"])))
            if (more := len(verdict.graded) - MOST_REASONS) > 0:
                self._console.print(Text(f"  … and {more} more in fidelity.csv"))
        words = Text.assemble(
            ("outcome: ", ""),
            (ruling.outcome, GRADES.get(ruling.outcome, TONES["bad"])),
            ("  verdict: ", ""),
            (verdict.level, GRADES.get(verdict.level, TONES["bad"])),
            (f"  results: {result.folder}", ""),
        )
        self._console.print(words, soft_wrap=True)

    def _work(self) -> None:
        """The console's own thread."""
        if not self._console.is_terminal:
            self._pump(None)
            return
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            self._pump(live)

    def _pump(self, live: Live | None) -> None:
        drawn_s = -REFRESH_S
        going = True
        while going:
            with suppress(queue.Empty):
                item = self._queue.get(timeout=REFRESH_S)
                going = item is not None
                if item is not None:
                    self._take(item)
            # Drawing costs CPU time that the emulated hosts may want: a few times a second, however much happens.
            if live is not None and (not going or time.monotonic() - drawn_s >= REFRESH_S):
                live.update(dashboard(self._view, self._title, self._doing), refresh=True)
                drawn_s = time.monotonic()

    def _take(self, item: Event | Line) -> None:
        if isinstance(item, Line):
            self._doing = item.text
            self._console.print(log_line(item))
            return
        for line in self._view.apply(item):
            self._console.print(log_line(line), soft_wrap=True)
        if isinstance(item, PlanAdopted):
            self._console.print(plan_table(item))


def log_line(line: Line) -> Text:
    """A line of the log; before the workload it has no time."""
    stamp = "         " if line.t_s is None else f"{line.t_s:7.2f} s"
    return Text.assemble((stamp, "dim"), "  ", (line.text, TONES[line.tone]))


def plan_table(plan: PlanAdopted) -> Table:
    """The stages of a plan with what the planner predicts."""
    gap = "" if plan.gap is None else ", proven optimal" if plan.gap <= 1e-9 else f", within {plan.gap:.1%} of optimal"
    caption = (
        f"{plan.strategy}: {plan.throughput_rps:.2f} answers/s, latency {plan.latency_s * 1e3:.0f} ms, "
        f"bottleneck {plan.bottleneck}{gap}; planned in {plan.planning_s * 1e3:.0f} ms"
    )
    table = Table(title=Text(f"plan {plan.epoch}"), caption=Text(caption), title_justify="left", caption_justify="left")
    for name in ("stage", "host", "operations"):
        table.add_column(name)
    for name in ("weights", "memory", "compute", "link in"):
        table.add_column(name, justify="right")
    for stage in plan.stages:
        table.add_row(
            str(stage.stage),
            Text(stage.host + (" (bottleneck)" if stage.is_bottleneck else "")),
            f"{stage.first_op}–{stage.last_op - 1}",
            format_size(stage.weights_bytes),
            format_size(stage.memory_bytes),
            f"{stage.compute_s * 1e3:.1f} ms",
            f"{stage.link_s * 1e3:.1f} ms",
        )
    return table


def dashboard(view: LiveView, title: str, doing: str) -> RenderableType:
    """The lines below the log: the run's state and its hosts."""
    elapsed_s = view.elapsed_s
    if elapsed_s is None:
        head = Text.assemble((title or "preparing", "bold"), f"  {doing}")
        if not view.hosts:
            return head
    else:
        of = "" if view.duration_s is None else f" of {view.duration_s:g}"
        tone = {"serving": "bold green", "stopped": "dim"}.get(view.service, "bold yellow")
        head = Text.assemble(
            (title, "bold"), f"  {elapsed_s:.0f}{of} s  ", (view.service, tone), f"  {view.rate_text()}"
        )
    table = Table(expand=False)
    for name in ("host", "state", "stage"):
        table.add_column(name)
    for name in ("CPU", "limit", "memory"):
        table.add_column(name, justify="right")
    for name, host in view.hosts.items():
        tone = "bold red" if host.state in DOWN_STATES else "green" if host.stage else ""
        table.add_row(
            Text(name),
            Text(host.state or "–", tone),
            host.stage or "–",
            "–" if host.cpu_share is None or host.state in DOWN_STATES else f"{host.cpu_share:.2f}",
            "–" if host.cpu_limit is None else f"{host.cpu_limit:.2f}",
            "–" if host.memory_mib is None else f"{host.memory_mib:.1f} MiB",
        )
    return Group(head, table)


def summary_table(summary: Summary) -> Table:
    """The figures of a run."""
    table = Table(show_header=False, title="summary", title_justify="left")
    table.add_column()
    table.add_column()
    others = ", ".join(f"{count} {name}" for name, count in summary.requests.items() if count and name != "ok")
    asked = f"{summary.requests.get('ok', 0)} of {summary.submitted} answered right" + (
        f" ({others})" if others else ""
    )
    table.add_row("requests", asked)
    if summary.throughput_rps is not None:
        table.add_row("throughput", f"{summary.throughput_rps:.2f} answers/s over {summary.duration_s:.0f} s")
    if summary.latency is not None:
        values = summary.latency
        text = f"median {values.p50_ms:.0f} ms, 95 % {values.p95_ms:.0f} ms, 99 % {values.p99_ms:.0f} ms"
        table.add_row("latency", text)
    if summary.downtime:
        spans = ", ".join(f"{since_s:.2f}–{until_s:.2f} s" for since_s, until_s in summary.downtime)
        total_s = sum(until_s - since_s for since_s, until_s in summary.downtime)
        table.add_row("downtime", f"{total_s:.2f} s: {spans}")
    for epoch in summary.epochs:
        table.add_row(f"plan {epoch.epoch}", Text(_epoch_text(epoch)))
    if summary.degraded is not None:
        table.add_row("degraded", degraded_text(summary.degraded))
    for fault in summary.faults:
        table.add_row(Text(f"{fault.kind} {fault.target}"), _fault_text(fault))
    return table


def degraded_text(found: Degraded) -> str:
    """When service was degraded, and what that did to its answers."""
    spans = ", ".join(f"{since_s:.2f}–{until_s:.2f} s" for since_s, until_s in found.spans)
    text = f"{spans}: {found.answers} answers"
    if not found.answers:
        return text
    text += f", {found.same_class} of the same class as the whole model's"
    return text if found.mean_error_pct is None else f"{text}, {found.mean_error_pct:.3g} % off on average"


def _epoch_text(epoch: EpochFigures) -> str:
    measured = "not measured" if epoch.measured_rps is None else f"{epoch.measured_rps:.2f} measured"
    without = f" without operations {epoch.skipped}" if epoch.skipped else ""
    text = f"{' → '.join(epoch.stages)}{without}: {epoch.predicted_rps:.2f} answers/s predicted, {measured}"
    if epoch.measured_bottleneck is None:
        return f"{text}; bottleneck {epoch.bottleneck} predicted"
    busiest = epoch.measured_bottleneck
    return f"{text}; bottleneck {epoch.bottleneck} predicted, {busiest.name} measured ({busiest.busy_pct:.0f} % busy)"


def _fault_text(fault: FaultFigures) -> str:
    rates = (fault.throughput_before_rps, fault.throughput_during_rps, fault.throughput_after_rps)
    parts = [
        None if fault.detection_ms is None else f"detected after {fault.detection_ms:.0f} ms",
        None if fault.replanning_ms is None else f"re-planned after {fault.replanning_ms:.0f} ms",
        None if fault.deploy_s is None else f"moved {fault.deploy_mbit or 0:.3g} Mbit in {fault.deploy_s:.2f} s",
        "not recovered" if fault.recovery_s is None else f"recovered after {fault.recovery_s:.2f} s",
        f"{' / '.join('–' if rate is None else f'{rate:.2f}' for rate in rates)} answers/s before / during / after",
    ]
    return ", ".join(part for part in parts if part)

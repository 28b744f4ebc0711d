"""``report.html``: a run on one page that needs no network and no script."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from runner import csvfile, fault_table, plots, tables, topology_plot
from runner.checker.findings import Ruling
from runner.csvfile import Cell, Row
from runner.results import RunFolder
from runner.summary import Summary
from runner.verdict import Verdict
from testbed.serving.events import Event

STYLE = """
:root { color-scheme: light; --ink: #1b1f24; --muted: #59636e; --line: #d9dee3; }
body { font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; color: var(--ink); max-width: 72rem; margin: 2rem auto;
  padding: 0 1.25rem; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p.sub, td.none { color: var(--muted); } img { max-width: 100%; height: auto; display: block; margin: 0 auto; }
.badge { display: inline-block; border-radius: 1rem; padding: .1rem .75rem; font-weight: 600; border: 1.5px solid; }
.good { color: #00644a; background: #e5f5f0; } .bad { color: #9a3f00; background: #fdeee6; }
.fair { color: #7a5200; background: #fdf3df; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: .75rem; margin: 1rem 0; }
.card { border: 1px solid var(--line); border-radius: .5rem; padding: .55rem .8rem; }
.card b { display: block; font-size: 1.25rem; } .card span { color: var(--muted); font-size: .85rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .82rem; }
th, td { text-align: left; padding: .28rem .45rem; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; }
th { font-weight: 600; background: #f5f7f9; vertical-align: bottom; }
td.num { text-align: right; font-variant-numeric: tabular-nums; }
th.num { text-align: right; } tr.off td { background: #fdeee6; } summary { cursor: pointer; font-weight: 600; }
""".strip()

GRADES = {"passed": "good", "failed": "bad", "valid": "good", "suspect": "fair", "invalid": "bad"}


def write_report(
    folder: RunFolder,
    events: Sequence[Event],
    summary: Summary,
    ruling: Ruling,
    verdict: Verdict,
    network: topology_plot.DrawnNetwork,
    *,
    dispatcher: str = "dispatcher",
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write ``timeline.png``, ``topology.png`` and ``report.html`` into the folder of a run.

    Args:
        folder: The run's folder.
        events: Its history, checks included.
        summary: Its figures.
        ruling: Whether it passed.
        verdict: That on its emulation.
        network: What to draw.
        dispatcher: The dispatcher's host.
        facts: What to tell of the run's origin, such as the record of ``run.json``; optional.

    Raises:
        MachineError: If a file can't be written.
    """
    timeline = plots.to_png(plots.timeline_figure(events, ruling.outcome))
    topology = plots.to_png(topology_plot.topology_figure(events, network, dispatcher))
    folder.write("timeline.png", timeline)
    folder.write("topology.png", topology)
    page = html_page(folder.path.name, events, summary, ruling, verdict, timeline, topology, facts or {})
    folder.write("report.html", page.encode())


def html_page(
    title: str,
    events: Sequence[Event],
    summary: Summary,
    ruling: Ruling,
    verdict: Verdict,
    timeline_png: bytes,
    topology_png: bytes,
    facts: Mapping[str, Any],
) -> str:
    """The whole page; everything that comes from the run is escaped."""
    fidelity = tables.fidelity_rows(events)
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p class=sub>{escape(_origin(facts))}</p>",
        f"<p>{_badge(ruling.outcome)} experiment &nbsp; {_badge(verdict.level)} emulation</p>",
        _reasons("Why it failed", ruling.reasons),
        _reasons(f"Why the emulation is {verdict.level}", verdict.reasons),
        _cards(summary),
        "<h2>What happened</h2>",
        _image(timeline_png, "throughput and latency over time, with the faults shaded"),
        "<h2>Faults</h2>",
        _table(fault_table.FAULT_COLUMNS, fault_table.fault_rows(events), "no fault was asked for"),
        "<h2>Where the model ran</h2>",
        _image(topology_png, "hosts and links with the stages of the first and the last plan"),
        "<h2>Plans</h2>",
        _table(EPOCH_COLUMNS, _epoch_rows(summary), "no plan was adopted"),
        "<h2>Stages of each plan</h2>",
        _table(tables.PLAN_COLUMNS, tables.plan_rows(events), "no plan was adopted"),
        "<h2>Can the emulation be trusted?</h2>",
        "<p class=sub>What was asked of the emulation against what it did. Rows without a request only inform.</p>",
        _table(tables.FIDELITY_COLUMNS, fidelity, "nothing was checked", off=lambda row: row["ok"] is False),
    ]
    content = "\n".join(part for part in body if part)
    return (
        "<!DOCTYPE html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<style>\n{STYLE}\n</style></head><body>\n{content}\n</body></html>\n"
    )


EPOCH_COLUMNS = (
    "plan",
    "why",
    "hosts",
    "skipped",
    "active_s",
    "predicted_rps",
    "measured_rps",
    "predicted_bottleneck",
    "measured_bottleneck",
    "planning_ms",
    "deploy_s",
    "deploy_mbit",
    "replayed",
)


def _epoch_rows(summary: Summary) -> list[Row]:
    return [
        {
            "plan": epoch.epoch,
            "why": epoch.reason,
            "hosts": " → ".join(epoch.stages),
            "skipped": epoch.skipped,
            "active_s": epoch.active_s,
            "predicted_rps": epoch.predicted_rps,
            "measured_rps": epoch.measured_rps,
            "predicted_bottleneck": epoch.bottleneck,
            "measured_bottleneck": None if epoch.measured_bottleneck is None else epoch.measured_bottleneck.name,
            "planning_ms": epoch.planning_ms,
            "deploy_s": epoch.deploy_s,
            "deploy_mbit": epoch.deploy_mbit,
            "replayed": epoch.replayed,
        }
        for epoch in summary.epochs
    ]


def _cards(summary: Summary) -> str:
    latency = summary.latency
    others = ", ".join(f"{count} {name}" for name, count in summary.requests.items() if count and name != "ok")
    cards = [
        (f"{summary.requests.get('ok', 0)} / {summary.submitted}", "requests answered right"),
        (others or "none", "other outcomes"),
        ("–" if summary.throughput_rps is None else f"{summary.throughput_rps:.2f} /s", "right answers, whole run"),
        ("–" if latency is None else f"{latency.p50_ms:.0f} ms", "median latency"),
        ("–" if latency is None else f"{latency.p99_ms:.0f} ms", "99th percentile"),
    ]
    for fault in summary.faults:
        value = "never" if fault.recovery_s is None else f"{fault.recovery_s:.2f} s"
        cards.append((value, f"to recover from {fault.kind} {fault.target}"))
    cells = "".join(f"<div class=card><b>{escape(value)}</b><span>{escape(name)}</span></div>" for value, name in cards)
    return f"<div class=cards>{cells}</div>"


def _badge(word: str) -> str:
    return f'<span class="badge {GRADES.get(word, "fair")}">{escape(word)}</span>'


def _reasons(title: str, reasons: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(reason)}</li>" for reason in reasons)
    return f"<h2>{escape(title)}</h2><ul>{items}</ul>" if items else ""


def _image(png: bytes, description: str) -> str:
    return f'<img alt="{escape(description)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _table(
    columns: Sequence[str], rows: Sequence[Row], nothing: str, off: Callable[[Row], bool] = lambda _: False
) -> str:
    if not rows:
        return f"<p class=sub>{escape(nothing)}</p>"
    numeric = {c for c in columns if all(_is_number(row[c]) or row[c] is None for row in rows)}
    head = "".join(f"<th{' class=num' if column in numeric else ''}>{_breakable(column)}</th>" for column in columns)
    lines = []
    for row in rows:
        cells = "".join(f"<td{' class=num' if c in numeric else ''}>{escape(_text(row[c]))}</td>" for c in columns)
        lines.append(f"<tr{' class=off' if off(row) else ''}>{cells}</tr>")
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"


def _breakable(column: str) -> str:
    return escape(column).replace("_", "_<wbr>")


def _is_number(value: Cell) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _text(value: Cell) -> str:
    return f"{value:.3f}" if isinstance(value, float) else csvfile.format_cell(value)


def _origin(facts: Mapping[str, Any]) -> str:
    git, machine = facts.get("git") or {}, facts.get("machine") or {}
    version = (facts.get("versions") or {}).get("edge-inference-testbed")
    commit = git.get("commit")
    parts = [
        facts.get("started_utc"),
        f"version {version}" if version else None,
        f"commit {commit[:12]}{' with changes' if git.get('dirty') else ''}" if commit else None,
        machine.get("cpu_model"),
        f"{machine['cores']} cores" if machine.get("cores") else None,
        f"Linux {facts['kernel']['release']}" if facts.get("kernel") else None,
        f"specification {facts['spec_sha256'][:12]}" if facts.get("spec_sha256") else None,
    ]
    return " · ".join(str(part) for part in parts if part)

"""``timeline.png``: throughput and latency over the run, with its faults and plans.

Colours are Okabe and Ito's, which people with any colour vision can tell apart; nothing is said by colour alone.
"""

from __future__ import annotations

import bisect
import io
import itertools
import math
import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from runner import tables
from runner.answer_rate import right_answers
from runner.csvfile import Row
from runner.disturbances import CHANGES, Disturbance, disturbances
from runner.epoch_table import EpochFigures
from runner.summary import summarize
from testbed.serving.events import Event
from testbed.units import format_duration

INK, MUTED, GRID = "#1b1f24", "#59636e", "#e3e7eb"
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#F0E442",
)
DEGRADED = "#f6e58d"
"""Of a plan that leaves operations out, which its label says too."""
STYLE: dict[str, Any] = {"fontsize": 9, "color": INK, "fontfamily": "DejaVu Sans"}
WIDTH_IN, DPI = 11.0, 150
LABEL_LINE_IN = 0.165
MOST_LANES, MOST_SHORT_LANES = 3, 12
"""Lanes of labels with all that became of a fault, and of those that name it only; more than that nobody reads."""

OUTCOME_MARKS = {"wrong": ("X", RED), "doubled": ("D", PURPLE), "unasked": ("P", PURPLE), "rejected": ("v", MUTED)}


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return data.getvalue()


def timeline_figure(events: Sequence[Event], outcome: str = "") -> Figure:
    """Throughput and latency over time, faults shaded and told of above, each plan as a bar; headed by the outcome."""
    zero = tables.start_s(events)
    summary = summarize(events)
    faults = [fault for fault in disturbances(events) if fault.effective_s is not None]
    rows = tables.request_rows(events)
    last_s = max([summary.duration_s, *(float(row["completed_s"] or 0) for row in rows)], default=1.0)
    labels = [_fault_label(fault) for fault in faults]
    lanes = _lanes(labels, [float(fault.effective_s or zero) - zero for fault in faults], last_s)
    if max(lanes, default=0) >= MOST_LANES:
        labels = [label.split("\n", 1)[0] for label in labels]
        lanes = _lanes(labels, [float(fault.effective_s or zero) - zero for fault in faults], last_s)
    is_crowded = max(lanes, default=0) >= MOST_SHORT_LANES
    if is_crowded:
        labels, lanes = [""] * len(faults), [0] * len(faults)
    lane_lines = max((label.count("\n") + 1 for label in labels), default=0)
    strip_in = 0.36 + (max(lanes, default=-1) + 1 + is_crowded) * (lane_lines * LABEL_LINE_IN + 0.12)

    top_in, bottom_in, plot_in = 0.5, 0.85, 2.05
    height_in = top_in + strip_in + 2 * plot_in + 0.22 + bottom_in
    figure = Figure(figsize=(WIDTH_IN, height_in))
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        3,
        1,
        height_ratios=[strip_in, plot_in, plot_in],
        hspace=0.08,
        left=0.075,
        right=0.985,
        top=1 - top_in / height_in,
        bottom=bottom_in / height_in,
    )
    strip, rate, latency = (figure.add_subplot(grid[i]) for i in range(3))
    for axes in (strip, rate, latency):
        axes.set_xlim(0, last_s * 1.005 if last_s > 0 else 1)
    _draw_strip(strip, summary.epochs, faults, labels, lanes, zero, last_s, strip_in, lane_lines)
    if is_crowded:
        text = f"{len(faults)} faults, a line each: faults.csv has what they were, and what became of them"
        strip.text(0, strip_in - 0.05, text, va="top", fontsize=8.5, color=INK)
    _draw_throughput(rate, events, summary.epochs, () if is_crowded else faults, zero, last_s)
    _draw_latency(latency, rows)
    for axes in (rate, latency):
        _dress(axes)
        for fault in () if is_crowded else faults:
            _shade(axes, fault, zero, last_s)
    rate.tick_params(labelbottom=False)
    latency.set_xlabel("seconds since the start of the workload", **STYLE)
    _title(figure, events, outcome, height_in)
    _legend(figure, latency, faults, is_shaded=not is_crowded)
    return figure


def _title(figure: Figure, events: Sequence[Event], outcome: str, height_in: float) -> None:
    summary = summarize(events)
    name = next((str(event.name) for event in events if event.kind == "run_started" and hasattr(event, "name")), "run")
    parts = [f"{summary.requests.get('ok', 0)} of {summary.submitted} requests answered right"]
    if summary.throughput_rps is not None:
        parts.append(f"{summary.throughput_rps:.2f} answers/s over the whole run")
    if summary.latency is not None:
        parts.append(f"median latency {summary.latency.p50_ms:.0f} ms")
    y = 1 - 0.24 / height_in
    figure.text(
        0.075, y, f"{name}: {outcome}" if outcome else name, fontsize=12.5, fontweight="bold", color=INK, va="center"
    )
    figure.text(0.985, y, "  ·  ".join(parts), fontsize=9, color=MUTED, va="center", ha="right")


def _draw_strip(
    axes: Axes,
    epochs: Sequence[EpochFigures],
    faults: Sequence[Disturbance],
    labels: Sequence[str],
    lanes: Sequence[int],
    zero: float,
    last_s: float,
    strip_in: float,
    lane_lines: int,
) -> None:
    axes.set_ylim(0, strip_in)
    axes.axis("off")
    shown = [epoch for epoch in epochs if epoch.active_s is not None and epoch.active_s < last_s]
    for number, epoch in enumerate(shown):
        left, right = max(0.0, epoch.active_s or 0.0), min(last_s, epoch.ended_s or last_s)
        following = shown[number + 1] if number + 1 < len(shown) else None
        until = right if following is None else max(left, min(right, following.adopted_s))
        color = DEGRADED if epoch.skipped else ("#9fd3f2", "#c6ced6")[number % 2]
        axes.barh(0.15, until - left, 0.22, left, color=color, edgecolor="white", linewidth=1.5)
        name = f"plan {epoch.epoch}, degraded" if epoch.skipped else f"plan {epoch.epoch}"
        texts = (f"{name}: {' → '.join(epoch.stages)}", name, f"plan {epoch.epoch}", str(epoch.epoch))
        _write_within(axes, texts, left, until, last_s)
        if following is not None:
            axes.barh(0.15, right - until, 0.22, until, color="white", edgecolor="#8b96a1", hatch="////", linewidth=0)
            moved = f"moving {following.deploy_mbit:.3g} Mbit"
            _write_within(axes, (moved, "moving"), until, right, last_s)
    lane_in = lane_lines * LABEL_LINE_IN + 0.12
    for fault, label, lane in zip(faults, labels, lanes, strict=True):
        x = float(fault.effective_s or zero) - zero
        y = 0.34 + lane * lane_in
        right_side = x / last_s * WIDTH_IN * 0.91 + _width_in(label, 8.5) + 0.1 > WIDTH_IN * 0.915
        top = y + (label.count("\n") + 1) * LABEL_LINE_IN + 0.02
        axes.plot([x, x], [0.29, top], color=_fault_color(fault), linewidth=1.3, solid_capstyle="butt")
        offset = last_s * 0.005 * (-1 if right_side else 1)
        text = axes.text(
            x + offset, y, label, ha="right" if right_side else "left", va="bottom", fontsize=8.5, color=INK
        )
        text.set_linespacing(1.25)


def _write_within(axes: Axes, texts: Sequence[str], left: float, right: float, last_s: float) -> None:
    """The first of the texts that fits into a bar."""
    room_in = (right - left) / last_s * WIDTH_IN * 0.9 - 0.12
    for text in texts:
        if _width_in(text, 8.5) < room_in:
            axes.text(
                (left + right) / 2,
                0.145,
                text,
                ha="center",
                va="center",
                fontsize=8.5,
                color=INK,
                bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none"}
                if text.startswith("moving")
                else None,
            )
            return


def _draw_throughput(
    axes: Axes,
    events: Sequence[Event],
    epochs: Sequence[EpochFigures],
    faults: Sequence[Disturbance],
    zero: float,
    last_s: float,
) -> None:
    """The rate of right answers; the smoothing keeps to either side of a fault unless ``faults`` is empty."""
    answers_s = [answer.t_s - zero for answer in right_answers(events)]
    half_s = _window_s(answers_s, last_s)
    workload_s = min(last_s, tables.workload_end_s(events) - zero)
    moments = [t - zero for fault in faults for t in (fault.effective_s, fault.ended_s) if t is not None]
    borders = [0.0, *(t for t in [*moments, *answers_s[:1]] if 0 < t < workload_s), workload_s]
    times, rates = smoothed_rate(answers_s, half_s, borders)
    axes.fill_between(times, rates, color=BLUE, alpha=0.16, linewidth=0)
    axes.plot(times, rates, color=BLUE, linewidth=1.6, label=f"measured (smoothed over ±{half_s:.3g} s)")
    predicted = [epoch for epoch in epochs if epoch.active_s is not None and epoch.active_s < last_s]
    for number, epoch in enumerate(predicted):
        left, right = max(0.0, epoch.active_s or 0.0), min(last_s, epoch.ended_s or last_s)
        label = "predicted by the planner" if number == 0 else None
        axes.plot([left, right], [epoch.predicted_rps] * 2, color=INK, linewidth=1.1, dashes=(5, 3), label=label)
    top = max([*rates, *(epoch.predicted_rps for epoch in predicted), 0.1])
    axes.set_ylim(0, top * 1.28)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    axes.set_ylabel("answers / s", **STYLE)
    axes.yaxis.set_label_coords(-0.052, 0.5)
    axes.legend(loc="upper right", ncols=2, fontsize=8.5, frameon=True, framealpha=0.9, edgecolor="none")


def _draw_latency(axes: Axes, rows: Sequence[Row]) -> None:
    right = sorted(
        (float(row["completed_s"] or 0), float(row["latency_ms"] or 0), int(row["attempts"] or 1))
        for row in rows
        if row["outcome"] == "ok"
    )
    values = [latency for _, latency, _ in right if latency > 0]
    once = [(t, latency) for t, latency, attempts in right if attempts <= 1]
    again = [(t, latency) for t, latency, attempts in right if attempts > 1]
    size = 16 if len(right) < 800 else 5
    axes.scatter(*_columns(once), s=size, color=BLUE, alpha=0.55, linewidths=0, label="a request")
    if again:
        axes.scatter(
            *_columns(again), s=size * 2, facecolors="none", edgecolors=RED, linewidths=1.3, label="… sent again"
        )
    for outcome, (marker, color) in OUTCOME_MARKS.items():
        points = [
            (float(row["completed_s"] or 0), float(row["latency_ms"] or 0)) for row in rows if row["outcome"] == outcome
        ]
        if points:
            axes.scatter(*_columns(points), s=36, marker=marker, color=color, label=outcome)
    if len(right) >= 3:
        half = 2 if len(right) < 500 else 7
        times, smooth = [], []
        for i, (t, _, _) in enumerate(right):
            if i and t - right[i - 1][0] > 2.0:  # a line through an outage would claim answers that never were
                times.append(t)
                smooth.append(math.nan)
            times.append(t)
            smooth.append(statistics.median(latency for _, latency, _ in right[max(0, i - half) : i + half + 1]))
        axes.plot(times, smooth, color=INK, linewidth=1.2, label=f"median of {2 * half + 1}")
    if values and max(values) > 6 * min(values):
        axes.set_yscale("log")
        axes.set_ylim(min(values) / 1.5, max(values) * 2.6)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(0, max(values, default=1.0) * 1.35)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_duration(value / 1e3)))
    lost = [float(row["submitted_s"] or 0) for row in rows if row["outcome"] == "lost"]
    if lost:
        level = axes.get_ylim()[1] / (1.15 if axes.get_yscale() == "log" else 1.04)
        axes.scatter(
            lost, [level] * len(lost), s=44, marker="x", color=RED, linewidths=1.6, label="lost (at submission)"
        )
    axes.set_ylabel("latency", **STYLE)
    axes.yaxis.set_label_coords(-0.052, 0.5)
    axes.legend(loc="upper right", ncols=6, fontsize=8.5, frameon=True, framealpha=0.9, edgecolor="none")


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _shade(axes: Axes, fault: Disturbance, zero: float, last_s: float) -> None:
    start = float(fault.effective_s or zero) - zero
    end = last_s if fault.ended_s is None else fault.ended_s - zero
    color = _fault_color(fault)
    axes.axvspan(start, end, color=color, alpha=0.13, linewidth=0, zorder=0)
    axes.axvline(start, color=color, linewidth=1.3, zorder=1)
    for t_s, dashes in ((fault.detected_s, (1, 1.5)), (fault.replanned_s, (4, 2))):
        if t_s is not None:
            axes.axvline(t_s - zero, color=MUTED, linewidth=1, dashes=dashes, zorder=1)
    if fault.recovered_s is not None:
        axes.axvline(fault.recovered_s - zero, color=GREEN, linewidth=1.3, zorder=1)


def _legend(figure: Figure, axes: Axes, faults: Sequence[Disturbance], *, is_shaded: bool) -> None:
    if not faults:
        return
    line: Any = axes.plot
    handles = []
    names = {"fault of a host": RED, "of a link or limit": ORANGE, "host joins": BLUE}
    for name, color in names.items():
        if any(_fault_color(fault) == color for fault in faults):
            handles += line([], [], color=color, linewidth=6, alpha=0.45, label=name)
    told = faults if is_shaded else ()
    if any(fault.detected_s is not None for fault in told):
        handles += line([], [], color=MUTED, dashes=(1, 1.5), label="detected")
    if any(fault.replanned_s is not None for fault in told):
        handles += line([], [], color=MUTED, dashes=(4, 2), label="re-planned")
    if any(fault.recovered_s is not None for fault in told):
        handles += line([], [], color=GREEN, linewidth=1.5, label="recovered")
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), fontsize=8.5, frameon=False)


def _dress(axes: Axes) -> None:
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#aab2ba")
    axes.tick_params(colors=INK, labelsize=8.5, color="#aab2ba")
    axes.tick_params(which="minor", left=False)


def _fault_color(fault: Disturbance) -> str:
    if fault.kind == "join":
        return BLUE
    return RED if fault.hosts and fault.kind not in CHANGES else ORANGE


def _fault_label(fault: Disturbance) -> str:
    def after(t_s: float | None) -> str:
        span_s = (t_s or 0.0) - (fault.effective_s or 0.0)
        return "at once" if span_s < 0 else f"after {_short(span_s)}"

    lines = [f"{fault.kind} {fault.target}" + (f" {fault.detail}" if fault.detail else "")]
    if fault.healed_s is not None:
        lines.append(f"healed {after(fault.healed_s)}")
    if fault.detected_s is not None:
        lines.append(f"detected {after(fault.detected_s)}")
    if fault.replanned_s is not None:
        lines.append(f"re-planned {after(fault.replanned_s)}")
    lines.append("not recovered" if fault.recovered_s is None else f"recovered {after(fault.recovered_s)}")
    return "\n".join(lines)


def _short(span_s: float) -> str:
    return f"{span_s * 1e3:.0f} ms" if span_s < 1 else f"{span_s:.2f} s"


def _width_in(text: str, size: float) -> float:
    """The width of text in inches, measured."""
    widths = [TextPath((0, 0), line, size=size).get_extents().width for line in text.split("\n") if line.strip()]
    return float(max(widths, default=0.0)) / 72


def _lanes(labels: Sequence[str], times_s: Sequence[float], last_s: float) -> list[int]:
    """The first lane for each label in which it touches no other."""
    scale = WIDTH_IN * 0.91 / max(last_s, 1e-9)
    taken: list[list[tuple[float, float]]] = []
    lanes = []
    for label, t_s in zip(labels, times_s, strict=True):
        width_in = _width_in(label, 8.5) + 0.15
        left = t_s * scale
        if left + width_in > WIDTH_IN * 0.915:
            left -= width_in
        span = (left, left + width_in)
        # A label is tied to its fault by a line through all lanes below, which nothing may cross either.
        for lane in range(len(taken) + 1):
            if lane == len(taken):
                taken.append([])
            if all(span[1] <= other[0] or span[0] >= other[1] for other in taken[lane]):
                taken[lane].append(span)
                lanes.append(lane)
                break
    return lanes


def _window_s(answers_s: Sequence[float], last_s: float) -> float:
    """Half of the smoothing window: four usual gaps between answers, at least a thirtieth of the run."""
    gaps_s = [after - before for before, after in itertools.pairwise(answers_s)] or [0.0]
    return float(f"{max(4 * statistics.median(gaps_s), last_s / 30, 1e-3):.1g}")


def smoothed_rate(
    answers_s: Sequence[float], half_s: float, borders_s: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Answers a second between the first and the last border, smoothed by a triangle of ``±half_s``.

    Smoothing never crosses a border: the triangle is cut there and scaled to weigh as much, so a steady rate stays flat
    up to it and a sudden change at it stays sudden. An answer at a border counts half, and to the later side only: it
    lies in the middle of what it stands for, and the earlier side is what it ends.
    """
    ordered = sorted(answers_s)
    times: list[float] = []
    rates: list[float] = []
    for left_s, right_s in itertools.pairwise(sorted(set(borders_s))):
        own = ordered[bisect.bisect_left(ordered, left_s) : bisect.bisect_right(ordered, right_s)]
        steps = max(1, math.ceil((right_s - left_s) / half_s * 12))
        for step in range(steps + 1):
            t_s = left_s + (right_s - left_s) * step / steps
            near = own[bisect.bisect_left(own, t_s - half_s) : bisect.bisect_right(own, t_s + half_s)]
            weight = sum((1 - abs(a - t_s) / half_s) * (0.5 if a == left_s else a != right_s) for a in near)
            lost = sum((1 - room / half_s) ** 2 / 2 for room in (t_s - left_s, right_s - t_s) if room < half_s)
            times.append(t_s)
            rates.append(weight / half_s / (1 - lost) if lost < 1 else 0.0)
    return times, rates

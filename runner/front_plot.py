"""A Pareto front as a picture: two aims across, a third as colour."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from runner.plots import BLUE, GRID, INK, MUTED, ORANGE, STYLE
from testbed.planning.pareto import ParetoFront

LABELS = {
    "latency": ("latency of one request (s)", 1.0),
    "throughput": ("bottleneck (s)", 1.0),
    "energy": ("energy of one request (J, a model)", 1.0),
    "traffic": ("bytes sent for a request (MB)", 1e-6),
    "memory": ("memory of the host that needs most (MiB)", 2.0**-20),
    "accuracy": ("loss of accuracy (points)", 1.0),
}


def front_figure(front: ParetoFront, title: str, marked: Sequence[tuple[str, Sequence[float]]] = ()) -> Figure:
    """The front over its first aims: the first against the second, the third as colour.

    Args:
        front: With at least one plan; a front over one aim is drawn against the plans' number of stages.
        title: Above the picture.
        marked: Names and figures, in the order of the front's aims, of plans to be compared with it.
    """
    figure = Figure(figsize=(8.0, 5.0))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.11, 0.12, 0.86, 0.78))
    columns = list(zip(*front.values, strict=True))
    across = _scaled(front.aims[0], columns[0])
    if len(front.aims) > 1:
        up, up_label = _scaled(front.aims[1], columns[1]), LABELS[front.aims[1]][0]
    else:
        up, up_label = [float(len(plan.stages)) for plan in front.plans], "stages"
    if len(front.aims) > 2:
        label = LABELS[front.aims[2]][0]
        dots = axes.scatter(across, up, c=_scaled(front.aims[2], columns[2]), cmap="viridis", s=26, zorder=3)
        bar = figure.colorbar(dots, ax=axes)
        bar.set_label(label, **STYLE)
        bar.ax.tick_params(colors=MUTED, labelsize=8)
    else:
        axes.scatter(across, up, color=BLUE, s=26, zorder=3)
    for name, values in marked:
        x = values[0] * LABELS[front.aims[0]][1]
        y = values[1] * LABELS[front.aims[1]][1] if len(front.aims) > 1 else 1.0
        axes.scatter([x], [y], marker="X", color=ORANGE, edgecolor=INK, s=70, zorder=4)
        # Towards the middle, so that a name never leaves the picture.
        left, below = x > sum(axes.get_xlim()) / 2, y > sum(axes.get_ylim()) / 2
        offset = (-7 if left else 7, -14 if below else 6)
        axes.annotate(
            name, (x, y), textcoords="offset points", xytext=offset, ha="right" if left else "left", **STYLE
        )  # fmt: skip
    axes.set_xlabel(LABELS[front.aims[0]][0], **STYLE)
    axes.set_ylabel(up_label, **STYLE)
    axes.grid(color=GRID, zorder=0)
    axes.tick_params(colors=MUTED, labelsize=8)
    kind = "all" if front.complete else "by NSGA-II, perhaps not all"
    plans = "1 plan" if len(front.plans) == 1 else f"{len(front.plans)} plans"
    axes.set_title(f"{title}: {plans} ({kind})", loc="left", **STYLE)
    return figure


def _scaled(aim: str, values: Sequence[float]) -> list[float]:
    return [value * LABELS[aim][1] for value in values]

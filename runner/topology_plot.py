"""``topology.png``: hosts, switches and links, with the stages of the first and of the last plan on their hosts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import networkx as nx
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from runner import tables
from runner.events import DOWN_STATES, HostStateChanged
from runner.plots import BLUE, INK, MUTED, RED
from testbed.serving.events import Event, PlanAdopted, PlannedStage
from testbed.units import format_duration, format_rate

MIB = 2**20
BOX_W, BOX_H = 2.3, 1.02
SWITCH_W, SWITCH_H = 0.62, 0.42


MOST_LABELS = 12
"""With more links in loops than this, only those that the plan uses are labelled; a caption tells of the others."""


class DrawnWay(Protocol):
    """What is drawn of one direction of a link."""

    @property
    def rate_bps(self) -> int | None:
        """None if unshaped."""

    @property
    def delay_s(self) -> float:
        """One way."""

    @property
    def mean_loss(self) -> float:
        """A fraction."""


class DrawnLink(Protocol):
    """What is drawn of a link."""

    @property
    def between(self) -> tuple[str, str]:
        """The two ends."""

    def way(self, source: str) -> DrawnWay:
        """The direction that leaves an end."""


class DrawnNetwork(Protocol):
    """What is drawn of a network; :class:`testbed.spec.network.Network` is one."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """All hosts."""

    @property
    def switches(self) -> tuple[str, ...]:
        """All switches."""

    @property
    def links(self) -> Sequence[DrawnLink]:
        """All links."""


def topology_figure(events: Sequence[Event], network: DrawnNetwork, dispatcher: str = "dispatcher") -> Figure:
    """The network twice (once if there was one plan only): with the first and with the last plan."""
    plans = list(tables.plans(events).values())
    panels: list[PlanAdopted | None] = [plans[0], plans[-1]] if len(plans) > 1 else [*plans] or [None]
    places = layout(network, dispatcher)
    xs, ys = [x for x, _ in places.values()], [y for _, y in places.values()]
    width, height = max(xs) - min(xs) + BOX_W + 0.5, max(ys) - min(ys) + BOX_H + 0.5
    scale = min(1.0, 7.4 / width)
    figure = Figure(figsize=(len(panels) * width * scale + 0.2, height * scale + 0.75))
    FigureCanvasAgg(figure)
    for number, plan in enumerate(panels):
        axes = figure.add_axes((number / len(panels), 0, 1 / len(panels), 1 - 0.62 / (height * scale + 0.75)))
        axes.set_xlim(min(xs) - BOX_W / 2 - 0.25, max(xs) + BOX_W / 2 + 0.25)
        axes.set_ylim(min(ys) - BOX_H / 2 - 0.25, max(ys) + BOX_H / 2 + 0.25)
        axes.set_aspect("equal")
        axes.axis("off")
        last = plan is None or plan is plans[-1]
        _draw(axes, network, places, plan, _dead(events, None if last or plan is None else plan.t_s), dispatcher, scale)
        if plan is not None:
            which = "only plan" if len(plans) == 1 else f"plan {plan.epoch}: {plan.reason}"
            facts = f"predicted {plan.throughput_rps:.2f} answers/s, bottleneck: {plan.bottleneck}"
            _headline(axes, which, 19.0, fontsize=11, fontweight="bold", color=INK)
            _headline(axes, facts, 3.0, fontsize=9, color=MUTED)
    return figure


def _headline(axes: Axes, text: str, rise_pt: float, **style: Any) -> None:
    axes.annotate(
        text,
        (0.5, 1.0),
        xycoords="axes fraction",
        xytext=(0, rise_pt),
        textcoords="offset points",
        ha="center",
        va="bottom",
        annotation_clip=False,
        **style,
    )


def layout(network: DrawnNetwork, dispatcher: str) -> dict[str, tuple[float, float]]:
    """Where each node is drawn.

    A tree is drawn in columns by its distance from the dispatcher; a network with loops on a circle of hosts, with its
    switches within.
    """
    graph: nx.Graph[str] = nx.Graph()
    graph.add_nodes_from([*network.hosts, *network.switches])
    graph.add_edges_from(link.between for link in network.links)
    if nx.is_forest(graph) and dispatcher in graph:
        return _columns(graph, network, dispatcher)
    radius = max(2.6, len(network.hosts) * (BOX_W + 0.4) / (2 * math.pi))
    places = {}
    for number, host in enumerate(network.hosts):
        angle = math.pi - 2 * math.pi * number / len(network.hosts)
        places[host] = (radius * math.cos(angle), radius * 0.85 * math.sin(angle))
    for number, switch in enumerate(network.switches):
        angle = 2 * math.pi * number / len(network.switches)
        inner = 0.0 if len(network.switches) == 1 else radius * 0.4
        places[switch] = (inner * math.cos(angle), inner * math.sin(angle))
    return places


def _columns(graph: nx.Graph[str], network: DrawnNetwork, dispatcher: str) -> dict[str, tuple[float, float]]:
    order = {name: number for number, name in enumerate([*network.hosts, *network.switches])}
    places: dict[str, tuple[float, float]] = {}
    next_row = 0.0

    def place(node: str, parent: str | None, x: float) -> float:
        nonlocal next_row
        children = sorted((n for n in graph.neighbors(node) if n != parent), key=order.__getitem__)
        step = (2.5 if node in network.hosts else 3.0) if children else 0.0
        rows = [place(child, node, x + step) for child in children]
        if rows:
            y = (rows[0] + rows[-1]) / 2
        else:
            y, next_row = -next_row, next_row + BOX_H + 0.32
        places[node] = (x, y)
        return y

    place(dispatcher, None, 0.0)
    for node in order:
        if node not in places:
            place(node, None, 0.0)
    return places


def _draw(
    axes: Axes,
    network: DrawnNetwork,
    places: Mapping[str, tuple[float, float]],
    plan: PlanAdopted | None,
    dead: Mapping[str, str],
    dispatcher: str,
    scale: float,
) -> None:
    stages: dict[str, list[PlannedStage]] = {}
    for stage in plan.stages if plan is not None else ():
        stages.setdefault(stage.host, []).append(stage)
    labelled = _labelled(network, plan, dispatcher)
    for link in network.links:
        _draw_link(axes, link, places, network, dead, scale, frozenset(link.between) in labelled)
    if len(labelled) < len(network.links):
        axes.text(
            0.5,
            0.0,
            _caption(network),
            transform=axes.transAxes,
            ha="center",
            va="bottom",
            fontsize=8.2,
            color=MUTED,
            zorder=5,
        )
    for switch in network.switches:
        x, y = places[switch]
        _box(axes, x, y, SWITCH_W, SWITCH_H, "#eef1f4", MUTED, 1.0)
        axes.text(x, y, switch, ha="center", va="center", fontsize=9 * scale, color=INK, zorder=4)
    for host in network.hosts:
        x, y = places[host]
        own = stages.get(host, [])
        face, edge, width = ("#e6f2fa", BLUE, 1.6) if own else ("white", "#aab2ba", 1.0)
        if host == dispatcher:
            face, edge, width = "#fdf3df", "#b37700", 1.6
        if host in dead:
            face, edge, width = "#fdeee6", RED, 1.8
        _box(axes, x, y, BOX_W, BOX_H, face, edge, width)
        lines = [*(_stage_line(stage) for stage in own[:2]), *(["…"] if len(own) > 2 else [])]
        if host == dispatcher:
            lines.insert(0, "sends requests, plans, recovers")
        if host in dead:
            lines = [f"✕ {dead[host]}"]
        elif not lines:
            lines = ["no stage"]
        text = host + ("" if not any(s.is_bottleneck for s in own) or host in dead else "  (bottleneck)")
        body = "\n".join(lines)
        rise = 0.29 if "\n" in body else 0.2
        axes.text(
            x, y + rise, text, ha="center", va="center", fontsize=10 * scale, fontweight="bold", color=INK, zorder=4
        )
        axes.text(
            x,
            y - (0.17 if "\n" in body else 0.2),
            body,
            ha="center",
            va="center",
            fontsize=8.2 * scale,
            color=RED if host in dead else INK if own else MUTED,
            linespacing=1.3,
            zorder=4,
        )


def _stage_line(stage: PlannedStage) -> str:
    ops = f"ops {stage.first_op}–{stage.last_op - 1}"
    sizes = f"{stage.weights_bytes / MIB:.3g} MiB, {stage.compute_s * 1e3:.3g} ms"
    return f"stage {stage.stage}: {ops}\n{sizes}"


def _labelled(network: DrawnNetwork, plan: PlanAdopted | None, dispatcher: str) -> set[frozenset[str]]:
    """The links to label: all of a few; of many, those between one stage of the plan and the next."""
    pairs = [frozenset(link.between) for link in network.links]
    loops = len(pairs) >= len(network.hosts) + len(network.switches)
    if len(pairs) <= MOST_LABELS or not loops:
        return set(pairs)
    stops = [dispatcher, *(stage.host for stage in (plan.stages if plan is not None else ())), dispatcher]
    return {frozenset(pair) for pair in itertools.pairwise(stops)} & set(pairs)


def _caption(network: DrawnNetwork) -> str:
    """What the links without a label are like, together."""
    ways = [link.way(source) for link in network.links for source in link.between]
    rates = sorted(way.rate_bps for way in ways if way.rate_bps is not None)
    parts = [f"{len(network.links)} links"]
    if rates:
        least, most = format_rate(rates[0]), format_rate(rates[-1])
        parts.append(least if least == most else f"{least} to {most}")
    delays = sorted(way.delay_s for way in ways)
    if delays[-1]:
        least, most = format_duration(delays[0]), format_duration(delays[-1])
        parts.append(least if least == most else f"{least} to {most}")
    return ", ".join(parts)


def _way_parts(way: DrawnWay) -> list[str]:
    parts = ["unshaped" if way.rate_bps is None else format_rate(way.rate_bps)]
    if way.delay_s:
        parts.append(format_duration(way.delay_s))
    if way.mean_loss:
        parts.append(f"{way.mean_loss * 100:.3g} % loss")
    return parts


def _label(link: DrawnLink, is_leftward: bool) -> str:
    """What both directions are like; of different ones each, with the way that it goes in the figure."""
    there, back = (_way_parts(link.way(source)) for source in link.between)
    if there == back:
        return "\n".join(there)
    arrows = ("←", "→") if is_leftward else ("→", "←")
    return "\n".join(f"{arrow} {', '.join(parts)}" for arrow, parts in zip(arrows, (there, back), strict=True))


def _draw_link(
    axes: Axes,
    link: DrawnLink,
    places: Mapping[str, tuple[float, float]],
    network: DrawnNetwork,
    dead: Mapping[str, str],
    scale: float,
    is_labelled: bool,
) -> None:
    (xa, ya), (xb, yb) = (places[end] for end in link.between)
    gone = any(end in dead for end in link.between)
    axes.plot(
        [xa, xb],
        [ya, yb],
        color="#c3cad1" if gone else "#7d8790",
        linewidth=1.4 if is_labelled else 0.5,
        zorder=1,
        dashes=(4, 3) if gone else (),
    )
    if not is_labelled:
        return
    # Nearer to the host: at a switch all links come together.
    first, second = _clear(link.between[0], network), _clear(link.between[1], network)
    length = math.hypot(xb - xa, yb - ya) or 1.0
    middle = (first + (length - second)) / 2 / length
    if link.between[0] in network.hosts and link.between[1] in network.switches:
        middle = max(0.0, middle - 0.06)
    elif link.between[1] in network.hosts and link.between[0] in network.switches:
        middle = min(1.0, middle + 0.06)
    axes.text(
        xa + (xb - xa) * middle,
        ya + (yb - ya) * middle,
        _label(link, xb < xa),
        ha="center",
        va="center",
        fontsize=7.8 * scale,
        color=MUTED,
        zorder=3,
        linespacing=1.15,
        bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"},
    )


def _clear(node: str, network: DrawnNetwork) -> float:
    """How much of a link lies under the node's box, roughly."""
    return BOX_W / 2 if node in network.hosts else SWITCH_W / 2


def _box(axes: Axes, x: float, y: float, width: float, height: float, face: str, edge: str, line: float) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.09",
            facecolor=face,
            edgecolor=edge,
            linewidth=line,
            zorder=2,
        )
    )


def _dead(events: Sequence[Event], until_s: float | None) -> dict[str, str]:
    """Hosts that are gone, and how; up to an instant, or at the end of the run (its own stopping does not count)."""
    zero = tables.start_s(events)
    state: dict[str, str] = {}
    for event in sorted(events, key=lambda e: e.t_s):
        if isinstance(event, HostStateChanged) and (until_s is None or event.t_s <= until_s):
            if event.state == "absent":
                state[event.host] = "joins later"
            elif event.state in DOWN_STATES | {"paused"}:
                state[event.host] = f"{event.state} at {event.t_s - zero:.1f} s"
            elif event.state in ("starting", "ready"):
                state.pop(event.host, None)
    return state

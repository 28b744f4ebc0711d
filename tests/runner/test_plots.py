from __future__ import annotations

import dataclasses
import io
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from runner import plots, topology_plot
from runner.events import FaultEffective, FaultScheduled, RunStarted
from testbed.serving.events import Event, PlanAdopted, PlannedStage, RequestCompleted
from tests.runner.conftest import DrawnLink, DrawnWay


def drawn_texts(figure: Figure) -> list[tuple[str, Any]]:
    """Every text that is visible, with its box in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    found = []
    for text in figure.findobj(Text):
        if isinstance(text, Text) and text.get_visible() and text.get_text().strip():
            box = text.get_window_extent(canvas.get_renderer())  # type: ignore[no-untyped-call]
            found.append((text.get_text(), box))
    return found


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    width, height = figure.get_size_inches() * figure.dpi
    inside = [(t, b) for t, b in drawn_texts(figure) if 0 <= b.x0 < width and 0 <= b.y0 < height]
    return [
        (a, b) for (a, box), (b, other) in itertools.combinations(inside, 2) if box.shrunk(0.98, 0.9).overlaps(other)
    ]


def test_the_timeline_tells_of_the_faults_and_no_texts_overlap(quickstart: tuple[Event, ...]) -> None:
    figure = plots.timeline_figure(quickstart)
    texts = "\n".join(text for text, _ in drawn_texts(figure))
    for words in ("kill node2", "detected after 50 ms", "re-planned after 73 ms", "recovered after 4.00 s", "healed"):
        assert words in texts
    assert "plan 2: node1 → spare" in texts
    assert overlaps(figure) == []


def highest_rate(figure: Figure) -> float:
    lines = [line for axes in figure.axes for line in axes.lines if str(line.get_label()).startswith("measured")]
    return max(float(rate) for line in lines for rate in np.asarray(line.get_ydata()))


@pytest.mark.parametrize("count", [10, 300])
def test_many_faults_close_together_do_not_overlap(count: int, quickstart: tuple[Event, ...]) -> None:
    faults: list[Event] = []
    for number in range(2, 2 + count):
        at_s = 1000.0 + 24 * number / count
        faults.append(
            FaultScheduled(
                t_s=990.0, fault=number, verb="throttle", target=f"node{number}-s1", due_s=at_s, links=("x",)
            )
        )
        faults.append(FaultEffective(t_s=at_s, fault=number))
    figure = plots.timeline_figure([*quickstart, *faults])
    assert overlaps(figure) == []
    assert figure.get_size_inches()[1] < 12
    texts = "\n".join(text for text, _ in drawn_texts(figure))
    assert ("throttle node5-s1" in texts) == (count == 10)
    assert ("302 faults" in texts) == (count == 300)
    if count == 300:  # else a single answer between two faults would show as hundreds a second
        assert highest_rate(figure) <= 1.1 * highest_rate(plots.timeline_figure(quickstart))


@pytest.mark.parametrize("events", [(), (RunStarted(t_s=5.0, name="x", seed=1, duration_s=0.0),)])
def test_an_empty_history_is_drawn(events: Sequence[Event]) -> None:
    assert plots.to_png(plots.timeline_figure(events)).startswith(b"\x89PNG")


def test_failures_are_drawn(quickstart: tuple[Event, ...]) -> None:
    answers = [event for event in quickstart if isinstance(event, RequestCompleted)]
    events = [event for event in quickstart if event is not answers[3]]
    events.append(dataclasses.replace(answers[9], t_s=answers[9].t_s + 0.2))
    events[events.index(answers[6])] = dataclasses.replace(answers[6], outcome="wrong")
    texts = [text for text, _ in drawn_texts(plots.timeline_figure(events))]
    assert {"lost (at submission)", "wrong", "doubled"} <= set(texts)


def test_a_steady_rate_is_flat_and_a_sudden_change_stays_sudden() -> None:
    answers_s = [0.05 + 0.1 * i for i in range(100)]
    times, rates = plots.smoothed_rate(answers_s, 1.0, [0.0, 10.0, 20.0])
    before = [rate for t, rate in zip(times, rates, strict=True) if t < 10.0]
    after = [rate for t, rate in zip(times, rates, strict=True) if t > 10.0]
    assert min(before) == pytest.approx(10.0, rel=0.06)
    assert max(before) == pytest.approx(10.0, rel=0.06)
    assert set(after) == {0.0}


def joined(between: tuple[str, str]) -> DrawnLink:
    """A link of 20 Mbit/s and 5 ms."""
    return DrawnLink(between, 20_000_000, 0.005)


@dataclasses.dataclass(frozen=True)
class Net:
    hosts: tuple[str, ...]
    switches: tuple[str, ...]
    links: tuple[DrawnLink, ...]


HOSTS = ("dispatcher", *(f"node{i}" for i in range(8)))
TWENTY = ("dispatcher", *(f"node{i}" for i in range(1, 20)))
SHAPES = {
    "star": Net(HOSTS, ("s1",), tuple(joined((host, "s1")) for host in HOSTS)),
    "chain": Net(HOSTS[:5], (), tuple(joined(pair) for pair in itertools.pairwise(HOSTS[:5]))),
    "ring": Net(HOSTS, (), tuple(joined((HOSTS[i], HOSTS[(i + 1) % 9])) for i in range(9))),
    "complete": Net(HOSTS[:5], (), tuple(joined(pair) for pair in itertools.combinations(HOSTS[:5], 2))),
    "two switches": Net(
        HOSTS[:5],
        ("s1", "s2"),
        (joined(("s1", "s2")), *(joined((host, f"s{i % 2 + 1}")) for i, host in enumerate(HOSTS[:5]))),
    ),
    "everybody with everybody": Net(TWENTY, (), tuple(joined(pair) for pair in itertools.combinations(TWENTY, 2))),
    "alone": Net(("dispatcher",), (), ()),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_node_has_a_place_of_its_own(shape: str) -> None:
    network = SHAPES[shape]
    places = topology_plot.layout(network, "dispatcher")
    assert set(places) == {*network.hosts, *network.switches}
    for (_, (xa, ya)), (_, (xb, yb)) in itertools.combinations(places.items(), 2):
        assert abs(xa - xb) > 0.5 or abs(ya - yb) > 0.5


def test_the_topology_shows_both_plans_and_the_killed_host(quickstart: tuple[Event, ...], network: Net) -> None:
    figure = topology_plot.topology_figure(quickstart, network)
    texts = [text for text, _ in drawn_texts(figure)]
    assert any("killed at 8.0 s" in text for text in texts)
    assert sum("stage 1: ops 32–63" in text for text in texts) == 2
    assert sum("20Mbit/s" in text for text in texts) == 6
    assert overlaps(figure) == []


@pytest.mark.parametrize("shape", SHAPES)
def test_topologies_are_drawn_without_a_plan(shape: str) -> None:
    png = plots.to_png(topology_plot.topology_figure([], SHAPES[shape]))
    assert Image.open(io.BytesIO(png)).size[0] > 200


def test_of_many_links_only_those_of_the_plan_are_labelled() -> None:
    plan = PlanAdopted(
        t_s=1.0,
        epoch=1,
        strategy="exact",
        reason="start",
        return_bits=1e4,
        return_s=0.01,
        gap=0.0,
        planning_s=0.1,
        throughput_rps=2.0,
        latency_s=1.0,
        bottleneck="node3",
        stages=tuple(
            PlannedStage(
                stage=number,
                host=host,
                first_op=10 * number,
                last_op=10 * number + 10,
                weights_bytes=1 << 20,
                memory_bytes=1 << 21,
                compute_s=0.1,
                transfer_bits=1e6,
                link_s=0.1,
                is_bottleneck=False,
            )
            for number, host in enumerate(("node3", "node7"))
        ),
    )
    figure = topology_plot.topology_figure([plan], SHAPES["everybody with everybody"])
    texts = [text for text, _ in drawn_texts(figure)]
    assert sum("20Mbit/s\n5ms" in text for text in texts) == 3
    assert "190 links, 20Mbit/s, 5ms" in texts


def test_directions_that_differ_have_an_arrow_each() -> None:
    link = DrawnLink(("dispatcher", "node1"), 20_000_000, 0.005, back=DrawnWay(2_000_000, 0.05, 0.01))
    figure = topology_plot.topology_figure([], Net(("dispatcher", "node1"), (), (link,)))
    texts = [text for text, _ in drawn_texts(figure)]
    assert "→ 20Mbit/s, 5ms\n← 2Mbit/s, 50ms, 1 % loss" in texts

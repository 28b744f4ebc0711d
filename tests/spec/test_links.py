"""What a link's settings mean in each direction, and which can't hold together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from testbed.errors import SpecError
from testbed.spec import Experiment, Network
from testbed.spec.links import GilbertElliott, LinkSpec
from testbed.spec.quantities import QueueLimit
from testbed.spec.scaling import slowed
from tests.spec.conftest import Load

SECOND = "  - {between: [node1, s1], rate: 20Mbit/s, delay: 5ms, loss: 0.1%}\n"


def edited(load: Load, settings: str, **more: Any) -> LinkSpec:
    """The quickstart's second link with other settings."""
    return load((SECOND, f"  - {{between: [node1, s1], {settings}}}\n"), **more).links[1]


def test_every_setting_is_read_with_its_unit(load: Load) -> None:
    link = edited(
        load,
        "rate: 20Mbit/s, delay: 10ms, jitter: 2ms, jitter_distribution: uniform, jitter_reorders: true, loss: 1%, "
        "reorder: 0.5%, duplicate: 0.1%, queue: 100kB",
    )
    assert (link.jitter_s, link.jitter_distribution, link.jitter_reorders) == (0.002, "uniform", True)
    assert (link.loss, link.reorder, link.duplicate) == pytest.approx((0.01, 0.005, 0.001))
    assert link.queue == QueueLimit(bytes=100_000)
    assert link.is_impaired


def test_queue_in_packets(load: Load) -> None:
    assert edited(load, "rate: 20Mbit/s, queue: 50 packets").queue == QueueLimit(packets=50)


def test_bursts_lose_what_the_chain_says_in_the_long_run(load: Load) -> None:
    link = edited(load, "loss: {model: gilbert-elliott, p: 1%, r: 25%}")
    assert link.loss == GilbertElliott(p=0.01, r=0.25, bad_loss=1.0, good_loss=0.0)
    assert link.mean_loss == pytest.approx(0.01 / 0.26)
    partly = edited(load, "loss: {model: gilbert-elliott, p: 10%, r: 30%, bad_loss: 50%, good_loss: 2%}")
    assert partly.mean_loss == pytest.approx(0.25 * 0.5 + 0.75 * 0.02)


def test_a_direction_says_only_what_is_different(load: Load) -> None:
    link = edited(load, "rate: 20Mbit/s, delay: 5ms, forward: {loss: 1%}, backward: {rate: 1Mbit/s, delay: 50ms}")
    there, back = link.way("node1"), link.way("s1")
    assert (there.rate_bps, there.delay_s, there.loss) == (20_000_000, 0.005, 0.01)
    assert (back.rate_bps, back.delay_s, back.loss) == (1_000_000, 0.05, 0.0)
    with pytest.raises(ValueError, match="no end"):
        link.way("node2")


def test_a_direction_may_lift_the_rate(load: Load) -> None:
    assert edited(load, "rate: 20Mbit/s, backward: {rate: null}").way("s1").rate_bps is None


def test_paths_count_the_direction_that_they_take(load: Load) -> None:
    experiment = load((SECOND, "  - {between: [node1, s1], rate: 20Mbit/s, backward: {rate: 1Mbit/s, delay: 50ms}}\n"))
    network = Network.of(experiment)
    assert network.path_rate_bps("node1", "node2") == 20_000_000
    assert network.path_rate_bps("node2", "node1") == 1_000_000
    assert network.path_delay_s("node1", "node2") == pytest.approx(0.005)
    assert network.path_delay_s("node2", "node1") == pytest.approx(0.055)


def test_resolved_tells_of_a_direction_what_is_different(load: Load) -> None:
    resolved = load((SECOND, "  - {between: [node1, s1], rate: 20Mbit/s, backward: {rate: 1Mbit/s}}\n")).resolved()
    assert resolved["links"][1]["backward"] == {"rate_bps": 1_000_000}
    assert resolved["links"][1]["forward"] is None


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("delay: 5ms, jitter: 6ms", "a jitter of 6ms is more than the delay of 5ms"),
        ("delay: 5ms, backward: {jitter: 6ms}", "backward: a jitter of 6ms is more than the delay of 5ms"),
        ("delay: 5ms, jitter_reorders: true", "jitter_reorders without a jitter"),
        ("reorder: 1%", "reorder needs a delay"),
        ("queue: 100kB", "a queue without a rate"),
        ("rate: 1Mbit/s, queue: 0 packets", "0 packets are out of range"),
        ("rate: 1Mbit/s, queue: 100B", "100B is out of range"),
        ("rate: 1Mbit/s, queue: 100", "or in packets, like 50 packets"),
        ("duplicate: 101%", "a fraction lies between 0 and 1"),
        ("loss: {model: gilbert, p: 1%, r: 1%}", "'gilbert' is not legal here"),
        ("loss: {p: 1%, q: 1%}", "the key 'r' is missing"),
        ("loss: {p: 0%, r: 0%}", "the state would never change"),
        ("loss: {p: 100%, r: 0%}", "loses every packet in the long run"),
        ("delay: 5ms, forward: {between: [a, b]}", "unknown key 'between'"),
        ("delay: 5ms, jitter_distribution: pareto", "legal: normal, uniform"),
        ("trace: {file: a.trace, format: mahimahi}", "a trace needs a rate beside it"),
        ("rate: 1Mbit/s, trace: {file: none.trace, format: mahimahi}", "can't read"),
    ],
)
def test_what_can_not_hold_together_is_told(load: Load, settings: str, told: str) -> None:
    with pytest.raises(SpecError) as caught:
        edited(load, settings)
    assert told in str(caught.value)
    assert ":10: links[1]" in str(caught.value)


def test_a_slower_world_keeps_each_direction(load: Load) -> None:
    overrides = ("compute.time_scale=4",)
    settings = "rate: 20Mbit/s, delay: 5ms, jitter: 1ms, loss: 1%, backward: {rate: 2Mbit/s}"
    text = (SECOND, f"  - {{between: [node1, s1], {settings}}}\n")
    experiment: Experiment = slowed(load(text, overrides=overrides))
    there, back = (experiment.links[1].way(source) for source in ("node1", "s1"))
    assert (there.rate_bps, there.delay_s, there.jitter_s, there.loss) == (5_000_000, 0.02, 0.004, 0.01)
    assert (back.rate_bps, back.delay_s) == (500_000, 0.02)


def test_a_throttle_may_strike_a_link_that_follows_a_trace(load: Load, tmp_path: Path) -> None:
    (tmp_path / "a.trace").write_text("0\n50\n100\n")
    traced = "rate: 20Mbit/s, delay: 5ms, trace: {file: a.trace, format: mahimahi}"
    experiment = load((SECOND, f"  - {{between: [node1, s1], {traced}}}\n"))
    assert experiment.resolved()["links"][1]["trace"]["file"] == "a.trace"

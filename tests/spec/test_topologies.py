"""The ready-made experiments: each is valid, explained in its first lines, and does what those say."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.spec import Network, load_experiment
from testbed.spec.traces import PACKET_BYTES

TOPOLOGIES = Path(__file__).parents[2] / "topologies"
FILES = sorted(TOPOLOGIES.glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_is_valid_named_after_its_file_and_explained(file: Path) -> None:
    assert load_experiment(file).name == file.stem
    assert file.read_text().startswith("# ")


def test_the_lossy_links_lose_what_the_text_says() -> None:
    links = load_experiment(TOPOLOGIES / "lossy-link.yaml").links
    assert [round(link.mean_loss, 3) for link in links] == [0, 0.01, 0.038]


def test_the_asymmetric_line_is_slow_on_the_way_up_only() -> None:
    network = Network.of(load_experiment(TOPOLOGIES / "asymmetric.yaml"))
    assert network.path_rate_bps("node2", "dispatcher") == 2_000_000
    assert network.path_rate_bps("dispatcher", "node2") == 20_000_000


def test_seifers_ring_has_its_36_rates() -> None:
    rates = sorted({link.rate_bps or 0 for link in load_experiment(TOPOLOGIES / "seifer-ring9.yaml").links})
    assert [round(rate_bps / 1e6, 1) for rate_bps in rates] == [3.8, 4.2, 5.0, 6.8]


def test_the_recordings_span_what_the_text_says() -> None:
    experiment = load_experiment(TOPOLOGIES / "trace.yaml")
    walk = experiment.links[1].way("node1").trace
    assert walk is not None
    recording = walk.read()
    assert recording.length_s == 12
    rates = [rate_bps for _, rate_bps in recording.steps]
    assert 300_000 <= min(rates) <= 600_000
    assert 11_000_000 <= max(rates) <= 13_500_000
    lines = (TOPOLOGIES / "traces" / "corridor.trace").read_text().split()
    carried = sum(rate_bps for _, rate_bps in recording.steps) * recording.length_s / len(recording.steps)
    assert carried == pytest.approx(len(lines) * PACKET_BYTES * 8, rel=1e-3)
    evening = experiment.links[2].way("s1").trace
    assert evening is not None
    assert evening.read().changes(36, loop=False)[-1].rate_bps is None
    assert experiment.links[2].way("node2").trace is None

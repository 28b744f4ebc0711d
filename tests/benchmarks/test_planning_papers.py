"""The sections on DNNSplit and Kress et al.: what they count, and that their bars can fail."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import planning_dnnsplit, planning_kress
from benchmarks.planning_kress import HEADLINE, NETWORKS, alone, ethernet_bits, problem
from benchmarks.planning_rows import Options, Row
from testbed.model.program import TensorSpec
from testbed.planning.dnnsplit import broken_preconditions
from testbed.planning.published import load_layer_graphs

LAYERS = [
    ["input", "InputLayer", [8, 8, 3], 0, []],
    ["conv", "Conv2D", [8, 8, 4], 112, ["input"]],
    ["shrunk", "Conv2D", [4, 4, 4], 148, ["conv"]],
    ["beside", "Conv2D", [4, 4, 4], 20, ["shrunk"]],
    ["add", "Add", [4, 4, 4], 0, ["shrunk", "beside"]],
    ["head", "Dense", [10], 650, ["add"]],
]


@pytest.fixture
def paper(tmp_path: Path) -> Path:
    keys = ("name", "kind", "shape", "params", "inputs")
    layers = [dict(zip(keys, layer, strict=True)) for layer in LAYERS]
    (tmp_path / "layer_graphs.json").write_text(json.dumps({"Tiny": layers}))
    return tmp_path


def test_all_that_crosses_counts_a_value_once_until_its_last_reader(paper: Path) -> None:
    graph = load_layer_graphs(paper / "layer_graphs.json")["Tiny"]
    # Behind "beside" its own output crosses, and the shrunk one, which "add" still reads.
    assert planning_dnnsplit.crossing(graph) == [192, 256, 64, 128, 64, 10]


def test_the_dnnsplit_section_counts_candidates_and_compares_optima(
    paper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning_dnnsplit, "QUICK_SETTINGS", 12)
    rows = {row.measure: row for row in planning_dnnsplit.rows(Options(True, paper))}
    # The raw input is no cut; "shrunk" and "head" send less than all before them.
    assert rows["candidates by layers' outputs"].value == 2
    assert rows["candidates by all that crosses"].value == 2
    assert rows["preconditions broken in"].value == 0
    worst = rows["worst excess over the full optimum"]
    assert worst.ok
    assert worst.has_bar
    assert not dataclasses.replace(worst, value=0.01).ok


def test_the_dnnsplit_section_without_data_says_so(tmp_path: Path) -> None:
    (row,) = planning_dnnsplit.rows(Options(True, tmp_path))
    assert "not measured" in row.note


def test_drawn_tiers_meet_the_preconditions(paper: Path) -> None:
    graph = load_layer_graphs(paper / "layer_graphs.json")["Tiny"]
    rng = np.random.default_rng(3)
    seen = set()
    for _ in range(20):
        drawn = planning_dnnsplit.tiers(planning_dnnsplit.chain(graph, rng), rng)
        assert broken_preconditions(drawn) == ()
        seen.add((len(drawn.workers), drawn.objective))
    assert len(seen) > 4


def test_ethernet_frames_are_counted_as_published() -> None:
    # 1000 words of 16 bits are 2000 bytes in two frames of 26 bytes' overhead; the least frame holds 46 bytes.
    assert ethernet_bits(TensorSpec("x", (1000,), "float32")) == 8 * (2000 + 52)
    assert ethernet_bits(TensorSpec("x", (2,), "float32")) == 8 * (46 + 26)


def test_both_platforms_alone_have_their_published_figures() -> None:
    network = next(network for network in NETWORKS if network.name == "squeezenet1_1")
    assert alone(network, "simba_like").throughput_rps == pytest.approx(network.simba_fps, rel=1e-3)
    assert alone(network, "eyeriss_like").throughput_rps == pytest.approx(network.eyeriss_fps, rel=1e-3)
    assert 1e3 * alone(network, "simba_like").energy_j == pytest.approx(network.simba_mj, rel=1e-3)
    chain = problem(network).chain
    assert max(chain.boundary_bits) > chain.boundary_bits[-1]


def test_the_kress_section_reports_gains_and_proofs(monkeypatch: pytest.MonkeyPatch) -> None:
    network = next(network for network in NETWORKS if network.name == "squeezenet1_1")
    monkeypatch.setattr(planning_kress, "NETWORKS", (network,))
    rows = {row.measure: row for row in planning_kress.rows(Options(True, None))}
    assert rows["gap of the best split (0: proven)"].value == 0
    gain = rows["throughput gain of the best split, %"]
    assert 0 < gain.value <= 100 * network.eyeriss_fps / network.simba_fps
    assert all(row.ok for row in rows.values())
    assert not dataclasses.replace(gain, value=-1.0).ok
    # Only the headline is held against the published gain.
    assert network.name != HEADLINE
    assert gain.high == math.inf


def test_a_row_says_when_it_is_over_its_bar() -> None:
    low, high = planning_kress._within(47.5, planning_kress.TOLERANCE_PCT)
    assert Row("kress", "c", "m", 47.5, low, high).ok
    assert not Row("kress", "c", "m", 60.0, low, high).ok

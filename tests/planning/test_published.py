"""SEIFER's problems and each of its slips: what the switch changes, on cases small enough to work out by hand."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path as FilePath

import numpy as np
import pytest

from testbed.errors import InfeasibleError, UsageError
from testbed.planning import joint_greedy, k_path, published, random_plan
from testbed.planning.evaluate import violations
from testbed.planning.minsum import MinSum
from testbed.planning.plan import Assignment
from testbed.planning.problem import Chain, Path, Problem, Worker
from testbed.planning.seifer import CORRECTED, PUBLISHED, SeiferRules, farthest_ends

LAYERS: list[dict[str, object]] = [
    {"name": "image", "kind": "InputLayer", "inputs": [], "shape": [10, 10], "params": 0},
    {"name": "a", "kind": "Conv2D", "inputs": ["image"], "shape": [10, 20], "params": 10},
    {"name": "b", "kind": "Conv2D", "inputs": ["a"], "shape": [200], "params": 50},
    {"name": "c", "kind": "Conv2D", "inputs": ["a"], "shape": [200], "params": 50},
    {"name": "add", "kind": "Add", "inputs": ["b", "c"], "shape": [200], "params": 0},
    {"name": "out", "kind": "Dense", "inputs": ["add"], "shape": [10], "params": 1000},
]


@pytest.fixture
def graph(tmp_path: FilePath) -> published.LayerGraph:
    file = tmp_path / "graphs.json"
    file.write_text(json.dumps({"small": LAYERS}))
    return published.load_layer_graphs(file)["small"]


def only(**slips: bool) -> SeiferRules:
    return replace(CORRECTED, **slips)


def test_published_is_every_slip_of_the_code_of_the_figures() -> None:
    assert {field.name for field in fields(SeiferRules) if not getattr(PUBLISHED, field.name)} == {
        "previous_cut_charged"
    }
    assert not any(getattr(CORRECTED, field.name) for field in fields(SeiferRules))
    assert all(f"{field.name}: " in (SeiferRules.__doc__ or "") for field in fields(SeiferRules))


def test_candidate_points_are_the_layers_that_every_path_crosses(graph: published.LayerGraph) -> None:
    assert [graph.layers[point].name for point in graph.candidate_points()] == ["image", "a", "add", "out"]


def test_a_skip_over_a_layer_leaves_no_candidate_between(tmp_path: FilePath) -> None:
    layers = [*LAYERS[:4], {**LAYERS[4], "inputs": ["b", "c", "image"]}, LAYERS[5]]
    (tmp_path / "graphs.json").write_text(json.dumps({"skip": layers}))
    graph = published.load_layer_graphs(tmp_path / "graphs.json")["skip"]
    assert [graph.layers[point].name for point in graph.candidate_points()] == ["image", "add", "out"]


def test_corrected_costs_are_bytes_and_peaks(graph: published.LayerGraph) -> None:
    chain = published.chain(graph, CORRECTED)
    assert chain.boundary_bits == (3200.0, 6400.0, 6400.0, 320.0)
    assert chain.weight_bytes == (40, 400, 4000)
    # While c runs, a, b and c are live; while add runs, b, c and add.
    assert chain.activation_bytes == (1200, 2400, 840)
    assert chain.compute_s == (0.0,) * 3


def test_published_costs(graph: published.LayerGraph) -> None:
    chain = published.chain(graph, PUBLISHED)
    value = 8 / 1.44 * 8 / 2**20 * 1e6
    # a is read twice, out by nobody; the input layer is a segment of its own.
    assert chain.boundary_bits == pytest.approx((100 * value, 100 * value, 400 * value, 200 * value, 0.0))
    assert chain.weight_bytes == (0, 10 + 800, 100 + 2400, 1000 + 40)
    assert chain.activation_bytes == (0,) * 4


@pytest.mark.parametrize(
    ("slip", "bits", "weights"),
    [
        ("assumed_codec", 200 * 64 / 1.44, 4000),
        ("copy_per_consumer", 12800.0, 4000),
        ("binary_megabits", 6400 / 1.048576, 4000),
        ("parameters_as_bytes", 6400.0, 1000),
        ("activations_summed", 6400.0, 4040),
    ],
)
def test_each_slip_of_costs_alone(graph: published.LayerGraph, slip: str, bits: float, weights: int) -> None:
    chain = published.chain(graph, only(**{slip: True}))
    assert chain.boundary_bits[1] == pytest.approx(bits)
    assert chain.weight_bytes[-1] == weights
    assert (chain.activation_bytes[-1] == 0) == (slip == "activations_summed")


def line(
    bits: tuple[float, ...], weights: tuple[int, ...], hosts: int = 3, memory: int = 10, rates: object = None
) -> Problem:
    """Hosts h0, h1, ... at 1 bit/s each way but where ``rates`` says otherwise."""
    segments = len(weights)
    chain = Chain(tuple(range(segments + 1)), bits, weights, (0,) * segments, (0.0,) * segments)
    names = [*(f"h{index}" for index in range(hosts)), "d"]
    known: Mapping[tuple[str, str], float] = rates if isinstance(rates, dict) else {}
    paths = {pair: Path(known.get(pair, 1.0)) for pair in itertools.permutations(names, 2)}
    return Problem(chain, tuple(Worker(name, 1.0, memory) for name in names[:-1]), "d", paths)


def test_first_segment_free_lets_stages_burst_their_hosts() -> None:
    problem = line((1.0, 5.0, 1.0, 5.0, 1.0), (8, 8, 8, 8), hosts=2)
    assert farthest_ends(problem, CORRECTED).tolist() == [1, 2, 3, 4, 4]
    assert farthest_ends(problem, only(first_segment_free=True)).tolist() == [2, 3, 4, 4, 4]
    with pytest.raises(InfeasibleError):
        joint_greedy.solve(problem)
    plan = joint_greedy.solve(problem, only(first_segment_free=True))
    assert [(stage.first, stage.last) for stage in plan.stages] == [(0, 2), (2, 4)]
    assert len(violations(problem, [Assignment(stage.host, stage.first, stage.last) for stage in plan.stages])) == 2


def test_exact_under_the_published_memory_is_no_worse_than_they_are() -> None:
    rules = only(first_segment_free=True, dispatcher_ignored=True)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        bits = tuple(float(size) for size in rng.integers(1, 30, 9))
        weights = tuple(int(weight) for weight in rng.integers(1, 6, 8))
        model = Chain(tuple(range(9)), bits, weights, (0,) * 8, (0.0,) * 8)
        rates = published.scattered_rates_bps(6, rng)
        problem = published.problem(model, 9 / 2**20, rates, rules)
        best = published.exact_under(problem, rules)
        assert best.gap == 0
        reach = farthest_ends(problem, rules)
        assert all(stage.last <= reach[stage.first] for stage in best.stages)
        for plan in (joint_greedy.solve(problem, rules), k_path.solve(problem, rules)):
            assert best.bottleneck_s <= plan.bottleneck_s * (1 + 1e-9), seed


def test_dispatcher_ignored_places_stages_out_of_its_sight() -> None:
    fast = {("h1", "h2"): 4.0, ("h2", "h1"): 4.0, ("h0", "h1"): 2.0, ("h1", "h0"): 2.0}
    slow = {("d", "h1"): 0.1, ("d", "h2"): 0.1, ("h2", "d"): 0.1}
    problem = line((1.0, 1.0, 1.0), (8, 8), rates=fast | slow)
    for strategy in (joint_greedy.solve, k_path.solve):
        assert {stage.host for stage in strategy(problem, only(dispatcher_ignored=True)).stages} == {"h1", "h2"}
        assert [stage.host for stage in strategy(problem, CORRECTED).stages] == ["h0", "h1"]


def test_a_problem_without_the_dispatcher_costs_nothing_to_reach() -> None:
    model = Chain((0, 1), (1e6, 1e6), (1,), (0,), (0.0,))
    rates = published.scattered_rates_bps(3, np.random.default_rng(0))
    ignored = published.problem(model, 1, rates, PUBLISHED)
    assert k_path.solve(ignored, PUBLISHED).bottleneck_s == 0
    assert k_path.solve(published.problem(model, 1, rates, CORRECTED)).bottleneck_s > 0
    assert ignored.workers[0].memory_bytes == 2**20 - 1  # smaller, not equal
    assert rates[0, 1] == rates[1, 0]
    assert 2.88e6 * 0.99 < rates[0, 1] < 18.2e6


def test_previous_cut_charged_prices_a_cut_by_the_one_before() -> None:
    problem = line((1.0, 9.0, 1.0, 1.0), (4, 4, 4), hosts=2)
    assert MinSum().partition(problem, "k-path") == (0, 2, 3)
    assert MinSum(only(previous_cut_charged=True)).partition(problem, "k-path") == (0, 1, 3)


def test_hop_limit_after_search_loses_shorter_partitions() -> None:
    """From boundary 2 on two cuts of 1 are less than one of 3, which alone would leave it at three stages."""
    bits, weights = (1.0, 1.0, 1.0, 1.0, 3.0, 1.0, 1.0), (5,) * 6
    late = only(hop_limit_after_search=True)
    assert MinSum().partition(line(bits, weights, hosts=3), "k-path") == (0, 2, 4, 6)
    with pytest.raises(InfeasibleError, match="the hop limit came after the search"):
        MinSum(late).partition(line(bits, weights, hosts=3), "k-path")
    for partitioner in (MinSum(), MinSum(late)):
        assert partitioner.partition(line(bits, weights, hosts=4), "k-path") == (0, 1, 3, 5, 6)


def test_top_class_unplaced_fails_on_the_largest_transfer() -> None:
    problem = line((1.0, 9.0, 1.0), (8, 8))
    assert k_path.classify([1.0, 5.0, 9.0], [1.0, 9.0], 4) == [1, 3, 4]
    assert k_path.classify([1.0, 5.0, 9.0], [1.0, 9.0], 4, only(top_class_unplaced=True)) == [1, 3, 5]
    assert k_path.solve(problem, only(dispatcher_ignored=True)).bottleneck_s == 9.0
    with pytest.raises(InfeasibleError, match="larger than all bandwidth classes"):
        k_path.solve(problem, only(top_class_unplaced=True, dispatcher_ignored=True))


def test_shared_memo_keeps_the_ways_of_a_smaller_memory() -> None:
    bits, weights = (1.0, 1.0, 5.0, 5.0, 1.0), (4, 4, 4, 4)
    small, large = line(bits, weights, hosts=4, memory=4), line(bits, weights, hosts=4, memory=12)
    late = only(hop_limit_after_search=True)
    sharing = MinSum(replace(late, shared_memo=True))
    for partitioner, expected in ((MinSum(late), (0, 1, 4)), (sharing, (0, 3, 4))):
        assert partitioner.partition(small, "k-path") == (0, 1, 2, 3, 4)
        assert partitioner.partition(large, "k-path") == expected


def test_failure_is_zero_pulls_the_mean_down() -> None:
    outcomes: list[float | InfeasibleError] = [2.0, 4.0, InfeasibleError("no", remedy="none")]
    assert published.mean_bottleneck_s(outcomes, only(failure_is_zero=True))[::2] == (2.0, 3)
    assert published.mean_bottleneck_s(outcomes, CORRECTED) == (3.0, pytest.approx(1.0), 2)
    assert math.isnan(published.mean_bottleneck_s(outcomes[2:], CORRECTED)[0])


def cuts(problem: Problem, rules: SeiferRules) -> set[tuple[int, ...]]:
    plans = [random_plan.solve(replace(problem, seed=seed), rules) for seed in range(200)]
    return {tuple(stage.first for stage in plan.stages[1:]) for plan in plans}


def test_unchecked_random_cuts_burst_hosts_that_legal_draws_keep_whole() -> None:
    problem = line((1.0,) * 10, (3,) * 9, hosts=4, memory=9)
    assert cuts(problem, CORRECTED) == {(3, 6)}
    roomy = line((1.0,) * 10, (3,) * 9, hosts=4, memory=12)
    assert cuts(roomy, CORRECTED) == {(1, 5), (2, 5), (2, 6), (3, 5), (3, 6), (3, 7), (4, 5), (4, 6), (4, 7), (4, 8)}
    wrong = only(unchecked_random_cuts=True)
    long = line((1.0,) * 17, (3,) * 16, hosts=4, memory=9)
    plans = [random_plan.solve(replace(long, seed=seed), wrong) for seed in range(20)]
    assert any(violations(long, [Assignment(s.host, s.first, s.last) for s in plan.stages]) for plan in plans)


def test_wrapping_slice_splits_before_the_model_and_so_draws_a_cut_more() -> None:
    problem = line((1.0,) * 10, (3,) * 9, hosts=4, memory=9)
    # The one split is 5, and cuts are drawn between two.
    assert cuts(problem, only(unchecked_random_cuts=True)) == {()}
    # Splits 0 and 6: a cut behind any point from 1 to 6.
    assert cuts(problem, only(unchecked_random_cuts=True, wrapping_slice=True)) == {(cut,) for cut in range(2, 8)}


def test_a_file_without_layer_graphs(tmp_path: FilePath) -> None:
    with pytest.raises(UsageError, match="holds no layer graphs: FileNotFoundError"):
        published.load_layer_graphs(tmp_path / "none.json")
    (tmp_path / "graphs.json").write_text('{"small": [{"name": "a", "inputs": ["b"], "shape": [], "params": 0}]}')
    with pytest.raises(UsageError, match="holds no layer graphs: KeyError"):
        published.load_layer_graphs(tmp_path / "graphs.json")

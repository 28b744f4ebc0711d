"""From the experiment's file to the planner's problem: powers, prices, tiers, weights, demand, accuracy."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.preparation import GOODPUT, survey
from testbed.errors import SpecError
from testbed.planning.evaluate import evaluate
from testbed.planning.plan import Assignment
from testbed.planning.problem import Chain, Link, Problem
from testbed.spec import load_experiment
from testbed.spec.network import Network
from testbed.spec.scaling import slowed

FILE = """\
name: costs
hosts:
  dispatcher: {cpu: 1}
  board: {cpu: 0.5, power: 3W, tier: device}
  cloud: {cpu: 4, price_per_hour: 7.2, tier: cloud}
switches: [s1]
links:
  - {between: [dispatcher, s1], rate: 1Gbit/s}
  - {between: [board, s1], rate: 20Mbit/s, price_per_gb: 8}
  - {between: [cloud, s1], rate: 100Mbit/s, price_per_gb: 4}
model: {name: mobilenet_v2, input: [1, 3, 224, 224]}
placement: {strategy: pareto, weights: {latency: 2, energy: 0.5}, accuracy: losses.csv}
compute: {mode: calibrated}
workload: {kind: open, rate: 5/s, duration: 30s}
"""
CHAIN = Chain((0, 2, 5), (8e6, 1e6, 1e3), (0, 0), (0, 0), (0.5, 1.0))
LOSSES = "host,op,loss\r\nboard,0,0.5\r\nboard,1,0.25\r\nboard,4,1\r\n"


def _problem(folder: Path, *overrides: str, losses: str = LOSSES) -> Problem:
    (folder / "losses.csv").write_text(losses)
    (folder / "topo.yaml").write_text(FILE)
    experiment = load_experiment(folder / "topo.yaml", overrides)
    slow = slowed(experiment)
    return survey(slow, Network.of(slow), CHAIN, experiment.compute.time_scale)


def test_all_that_the_file_tells_reaches_the_planner(tmp_path: Path) -> None:
    problem = _problem(tmp_path)
    board, cloud = problem.workers
    assert (board.power_w, board.price_per_s, board.tier) == (3.0, 0.0, 0)
    assert (cloud.power_w, cloud.price_per_s, cloud.tier) == (6.4, pytest.approx(0.002), 3)
    assert problem.weights == {"latency": 2.0, "energy": 0.5}
    assert problem.demand_rps == 5.0
    path = problem.paths["board", "cloud"]
    assert path.links == (Link("board → s1", 20e6 * GOODPUT), Link("s1 → cloud", 100e6 * GOODPUT))
    assert problem.stages_per_host == 1
    assert path.rate_bps == 20e6 * GOODPUT
    assert path.energy_j_per_bit == pytest.approx(2e-9 + 2e-9)
    assert problem.paths["dispatcher", "cloud"].energy_j_per_bit == pytest.approx(0.6e-9 + 2e-9)
    assert path.price_per_bit == pytest.approx(12 / 8e9)
    assert problem.accuracy_loss == {"board": (0.75, 1.0)}


def test_a_slowed_run_has_the_energy_and_the_cost_of_the_declared_one(tmp_path: Path) -> None:
    declared, slow = _problem(tmp_path), _problem(tmp_path, "compute.time_scale=20")
    split = (Assignment("board", 0, 1), Assignment("cloud", 1, 2))
    plans = [evaluate(problem, split, "x", None, 0.0) for problem in (declared, slow)]
    assert plans[1].latency_s == pytest.approx(20 * plans[0].latency_s)
    assert plans[1].energy_j == pytest.approx(plans[0].energy_j)
    assert plans[1].cost == pytest.approx(plans[0].cost)


@pytest.mark.parametrize(
    ("losses", "told"),
    [
        ("host,op\nboard,0\n", "1: its columns are host, op\nthe first line must be host,op,loss"),
        ("", "1: its columns are missing\nthe first line must be host,op,loss"),
        ("host,op,loss\nbord,0,1\n", "2: 'bord' is no worker\nworkers: board, cloud"),
        (
            "host,op,loss\nboard,5,1\n",
            "2: '5', '1' is no operation with its loss\nop is a whole number from 0 to 4, loss a number",
        ),
        (
            "host,op,loss\nboard,0,nan\n",
            "2: '0', 'nan' is no operation with its loss\nop is a whole number from 0 to 4, loss a number",
        ),
    ],
)
def test_a_wrong_table_of_accuracy(tmp_path: Path, losses: str, told: str) -> None:
    with pytest.raises(SpecError) as caught:
        _problem(tmp_path, losses=losses)
    assert str(caught.value) == f"{tmp_path / 'losses.csv'}:{told}"


def test_a_missing_table_of_accuracy(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"nothing\.csv: the table of accuracy can't be read"):
        _problem(tmp_path, "placement.accuracy=nothing.csv")

"""What a comparison writes: planned, infeasible and measured columns; runs are stood in for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.comparison import FRONT, MEASURED, PLANNED, comparison_rows, front_rows, measure, promised_rps
from runner.csvfile import from_csv, to_csv
from runner.experiment import Options
from runner.front_plot import front_figure
from runner.plots import to_png
from testbed.planning.comparison import Contender, compare
from testbed.planning.pareto import front
from testbed.spec import Experiment, load_experiment
from tests.planning.test_strategies import PROBLEM

FILE = """\
name: compare
hosts:
  dispatcher: {cpu: 1}
  a: {cpu: 0.1}
links:
  - {between: [dispatcher, a], rate: 10Mbit/s}
model: {name: mobilenet_v2, input: [1, 3, 224, 224]}
placement: {strategy: pareto, weights: {energy: 1}}
workload: {kind: closed, in_flight: 4, duration: 30s}
"""


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    (tmp_path / "topo.yaml").write_text(FILE)
    return load_experiment(tmp_path / "topo.yaml")


@dataclass
class Runs:
    """Stands in for real runs: remembers what was run; a plan gives a tenth less than it promised."""

    experiments: list[Experiment]
    nothing_from: str = ""

    def __call__(self, experiment: Experiment, options: Options) -> Any:
        self.experiments.append(experiment)
        silent = experiment.placement.strategy == self.nothing_from
        epoch = SimpleNamespace(predicted_rps=2.0, predicted_latency_ms=1000.0, measured_rps=None if silent else 1.8)
        summary = SimpleNamespace(
            epochs=(epoch,),
            latency=None if silent else SimpleNamespace(p50_ms=1200.0),
        )
        ruling = SimpleNamespace(outcome="failed" if silent else "passed")
        return SimpleNamespace(
            summary=summary, ruling=ruling, verdict=SimpleNamespace(level="valid"), folder=Path("results/one")
        )


def test_each_feasible_plan_is_run_under_its_own_strategy(experiment: Experiment) -> None:
    contenders = (*compare(PROBLEM, ("exact", "even")), Contender("single", None, "too large", None))
    runs = Runs([], nothing_from="even")
    measured = measure(experiment, contenders, Options(Path("results")), runs)
    assert [run.placement.strategy for run in runs.experiments] == ["exact", "even"]
    assert all(run.placement.weights is None for run in runs.experiments)
    table = from_csv(to_csv((*PLANNED, *MEASURED), comparison_rows(contenders, measured)))
    exact, even, single = table
    assert float(exact["error_pct"]) == pytest.approx(100 / 9, abs=1e-5)
    assert (exact["predicted_rps"], exact["measured_rps"], exact["measured_latency_s"]) == ("2", "1.8", "1.2")
    assert (even["measured_rps"], even["error_pct"], even["outcome"]) == ("NA", "NA", "failed")
    assert single["bottleneck_s"] == single["gap"] == single["measured_rps"] == single["verdict"] == "NA"
    assert single["reason"] == "too large"


def test_without_runs_only_what_is_planned() -> None:
    rows = comparison_rows(compare(PROBLEM, ("exact",)), None)
    (row,) = from_csv(to_csv(PLANNED, rows))
    assert (row["stages"], row["hosts"], row["gap"]) == ("2", "a b", "0")


def test_a_promise_keeps_to_the_workload(experiment: Experiment) -> None:
    assert promised_rps(100.0, 0.5, experiment.workload) == 8.0
    assert promised_rps(3.0, 0.5, experiment.workload) == 3.0
    opened = experiment.model_copy(update={"workload": SimpleNamespace(rate_rps=2.5)})
    assert promised_rps(3.0, 0.5, opened.workload) == 2.5


@pytest.mark.parametrize("aims", [None, ("latency", "energy"), ("energy",)])
def test_a_front_as_rows_and_as_a_picture(aims: tuple[str, ...] | None) -> None:
    found = front(PROBLEM, aims)
    rows = from_csv(to_csv(FRONT, front_rows(PROBLEM, found)))
    assert len(rows) == len(found.plans)
    assert rows[0]["cuts"] == "3"
    assert float(rows[0]["energy_j"]) == pytest.approx(found.plans[0].energy_j, rel=1e-4)
    picture = to_png(front_figure(found, "a title", (("here", found.values[0]),)))
    assert picture.startswith(b"\x89PNG")

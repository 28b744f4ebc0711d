"""The section on predictions: how rankings are compared, and the clusters; runs are stood in for."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import planning_prediction
from benchmarks.planning_prediction import SETTINGS, concordance, rows, tau_b
from benchmarks.planning_rows import Options
from testbed.spec.network import Network


def test_rankings_that_agree_differ_or_tie() -> None:
    assert tau_b([concordance([1, 2, 3], [10, 20, 30])]) == 1
    assert tau_b([concordance([1, 2, 3], [30, 20, 10])]) == -1
    assert tau_b([concordance([1, 2, 3], [10, 30, 20])]) == pytest.approx(1 / 3)
    assert math.isnan(tau_b([concordance([1, 1, 1], [1, 2, 3])]))
    # scipy.stats.kendalltau([1, 1, 2, 3], [1, 2, 2, 3]) is 0.8.
    assert tau_b([concordance([1, 1, 2, 3], [1, 2, 2, 3])]) == pytest.approx(0.8)


def test_what_two_runs_of_a_plan_may_differ_by_is_a_tie() -> None:
    assert concordance([100, 102], [100, 98]) == (0, 0, 0, 0)
    assert concordance([100, 110], [100, 98]) == (0, 0, 1, 0)


def test_only_pairs_within_a_cluster_count() -> None:
    first, second = concordance([1, 2], [1, 2]), concordance([1, 2], [4, 3])
    assert tau_b([first, first, first, second]) == pytest.approx(0.5)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_cluster_is_connected_and_has_three_strategies(setting: Any) -> None:
    experiment = setting.experiment(0.02, 5.0)
    network = Network.of(experiment)
    assert len(set(setting.strategies)) == 3
    for host in experiment.workers:
        assert network.path_rate_bps("dispatcher", host) > 0


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning_prediction.os, "geteuid", lambda: 1000)
    (row,) = rows(Options(True, None))
    assert "needs root" in row.note


def stood_in(monkeypatch: pytest.MonkeyPatch, factors: list[float]) -> dict[str, Any]:
    """Twelve runs that promise 1, 2, 3 on each cluster, and give that by these factors."""
    given = iter(factors)

    def compared(setting: Any, modelled: Any, folder: Path, *, quick: bool) -> list[Any]:
        return [
            planning_prediction.Compared(
                SimpleNamespace(strategy=strategy, plan=None),  # type: ignore[arg-type]
                SimpleNamespace(predicted_rps=float(place), verdict="valid"),  # type: ignore[arg-type]
                place * next(given),
            )
            for place, strategy in enumerate(setting.strategies, 1)
        ]

    monkeypatch.setattr(planning_prediction.os, "geteuid", lambda: 0)
    monkeypatch.setattr(planning_prediction, "compared", compared)
    modelled = planning_prediction.Modelled(*[None] * 4, (0.01, 0.02))  # type: ignore[arg-type]
    monkeypatch.setattr(planning_prediction, "model_of", lambda _: modelled)
    return {row.measure: row for row in rows(Options(True, None)) if row.has_bar}


def test_predictions_within_the_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    found = stood_in(monkeypatch, [1.03, 0.98, 1.01] * 4)
    assert found["median error, %"].value == pytest.approx(2.04, abs=0.05)
    assert all(row.ok for row in found.values())


def test_predictions_that_are_off_or_rank_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    off = stood_in(monkeypatch, [0.8] * 12)
    assert not off["median error, %"].ok
    assert off["Kendall tau-b of strategies"].ok
    swapped = stood_in(monkeypatch, [1.0] * 11 + [0.5])
    assert swapped["median error, %"].ok
    assert not swapped["Kendall tau-b of strategies"].ok

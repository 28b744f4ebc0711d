from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import get_args

import pytest

from testbed.errors import UsageError
from testbed.planning.adapter import chain_from
from testbed.planning.problem import Chain, Path, Problem, Worker
from testbed.planning.strategies import STRATEGIES, solve
from testbed.planning.table import optimality, plan_table, stage_rows
from testbed.spec.inference import PlacementSpec

MIB = 2**20
CHAIN = Chain(
    boundary_ops=(0, 3, 4),
    boundary_bits=(4e6, 1e6, 32e3),
    weight_bytes=(MIB, 2 * MIB),
    activation_bytes=(MIB, MIB),
    compute_s=(0.010, 0.020),
)
PROBLEM = Problem(
    CHAIN,
    (Worker("a", 0.1, 4 * MIB, overhead_bytes=MIB), Worker("b", 0.1, 4 * MIB, overhead_bytes=MIB)),
    "d",
    dict.fromkeys(itertools.permutations(("a", "b", "d"), 2), Path(10e6, 0.005)),
)


@pytest.mark.parametrize("name", STRATEGIES)
def test_each_strategy_answers_under_its_name(name: str) -> None:
    roomy = replace(PROBLEM, workers=tuple(replace(worker, memory_bytes=None) for worker in PROBLEM.workers))
    plan = solve(roomy, name)
    assert plan.strategy == name
    assert plan.bottleneck.startswith("link d → ")


def test_the_file_may_name_each_strategy_and_no_other() -> None:
    assert set(get_args(PlacementSpec.model_fields["strategy"].annotation)) == set(STRATEGIES)


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        solve(PROBLEM, "exakt")
    assert str(caught.value) == (
        f"there is no planning strategy 'exakt'; did you mean 'exact'?\nstrategies: {', '.join(STRATEGIES)}"
    )


def test_the_measured_costs_of_a_model_become_a_chain() -> None:
    costs = SimpleNamespace(
        boundary_ops=[0, 3, 4],
        boundary_bits=[4e6, 1e6, 32e3],
        weight_bytes=[MIB, 2 * MIB],
        activation_bytes=[MIB, MIB],
        compute_s=[0.010, 0.020],
        streams=[],
    )
    assert chain_from(costs) == CHAIN
    costs.compute_s.append(0.0)
    with pytest.raises(ValueError, match="differ in length"):
        chain_from(costs)


def test_rows_for_files() -> None:
    first, second = stage_rows(solve(PROBLEM, "exact"))
    assert (first.stage, first.host, first.first_op, first.last_op, first.is_bottleneck) == (0, "a", 0, 3, True)
    assert (first.weights_mib, first.memory_mib) == (1.0, 3.0)
    assert (first.compute_ms, first.transfer_mbit, first.link_ms) == pytest.approx((100.0, 4.0, 400.0))
    assert (second.host, second.last_op, second.is_bottleneck) == ("b", 4, False)


def test_rows_for_people() -> None:
    table = plan_table(solve(PROBLEM, "exact"))
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert table.rows == (
        ("0", "a", "0–2", "1MiB", "3MiB", "4Mbit", "400ms", "100ms"),
        ("1", "b", "3", "2MiB", "4MiB", "1Mbit", "100ms", "200ms"),
        ("", "answer back", "", "", "", "32kbit", "3.2ms", ""),
    )
    assert table.marked == 0
    summary = dict(table.summary)
    assert summary["throughput"] == "2.5 requests/s"
    assert summary["bottleneck"] == "link d → a, 400ms"
    assert summary["latency of one request"] == "818.2ms"
    assert summary["optimality"] == "proven optimal"


def test_energy_and_notes_for_people() -> None:
    plan = replace(solve(PROBLEM, "exact"), notes=("mind this", "and that"))
    summary = plan_table(plan).summary
    assert ("energy of one request", f"{plan.energy_j:.4g} J (a model)") in summary
    assert [figure for what, figure in summary if what == "note"] == ["mind this", "and that"]
    shortest = solve(PROBLEM, "min-latency")
    assert dict(plan_table(shortest).summary)["latency of one request"].endswith("proven least")


def test_a_plan_without_a_proof_says_so() -> None:
    assert optimality(solve(PROBLEM, "even")) == "nothing proven"

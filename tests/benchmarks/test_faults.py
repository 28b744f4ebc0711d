"""The matrix of faults: it has what it must have, its judgement can fail, and it goes on where it was stopped."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.faults import bars, table
from benchmarks.faults.cells import SEEDS, Cell, Ending, First, all_cells, cover, document, ending, pairs, struck
from benchmarks.faults.cluster import POLICIES, WORKERS
from benchmarks.faults.command import QUICK_CELLS, chosen
from benchmarks.faults.judgement import FAILED, RECOVERED, UNAVAILABLE, Judgement, judge
from benchmarks.faults.kinds import KINDS, RECORDED, RECORDING
from benchmarks.faults.table import Row
from runner.checker.reading import read_folder
from testbed.serving.events import Event, RequestCompleted, ServiceState
from testbed.spec.faults import FAULT_VERBS
from testbed.spec.loader import load_experiment
from tests.runner.story import Rows, Story, files_of, files_with, rows_of

FIRST = First(("node2", "node1", "node3"), "node2")


def test_every_verb_is_a_kind() -> None:
    assert set(FAULT_VERBS) <= set(KINDS)


def test_the_matrix_has_every_target_under_every_policy_with_three_seeds() -> None:
    cells = all_cells()
    assert (
        len(cells) == len(set(cells)) == len(POLICIES) * len(SEEDS) * sum(len(kind.targets) for kind in KINDS.values())
    )


def test_every_cell_is_a_legal_experiment(tmp_path: Path) -> None:
    (tmp_path / RECORDING).write_text(RECORDED)
    for cell in (cell for cell in all_cells() if cell.seed == SEEDS[0]):
        path = tmp_path / "cell.yaml"
        path.write_text(json.dumps(document(cell, FIRST)))
        experiment = load_experiment(path)
        verbs = {fault.kind for fault in experiment.faults}
        assert cell.kind in verbs or cell.kind not in FAULT_VERBS


def test_what_is_struck_is_what_the_column_says() -> None:
    for cell in all_cells():
        hosts = struck(cell, FIRST)
        if cell.kind == "join":
            assert set(hosts) <= set(WORKERS) - set(FIRST.hosts)
            continue
        match cell.target:
            case "dispatcher":
                assert hosts == ("dispatcher",)
            case "bottleneck":
                assert hosts == ("node2",)
            case "two":
                assert len(set(hosts)) == 2
                assert set(hosts) <= set(FIRST.hosts)
            case "host" | "one-way":
                assert hosts[0] in ("node1", "node3")


def test_the_quick_set_has_every_kind_and_every_target_under_every_policy() -> None:
    cells = all_cells()
    quick = cover(cells, QUICK_CELLS)
    assert len(quick) == len(set(quick)) == QUICK_CELLS
    assert quick == cover(cells, QUICK_CELLS)
    assert {cell.kind for cell in quick} == set(KINDS)
    assert {(cell.target, cell.policy) for cell in quick} == {(cell.target, cell.policy) for cell in cells}
    every = set().union(*map(pairs, cells))
    assert set().union(*map(pairs, cover(cells, len(every)))) == every


def test_cells_are_chosen_by_parts_of_their_names() -> None:
    assert {cell.policy for cell in chosen(["/standby/"])} == {"standby"}
    assert chosen(["kill/host/replan/1"]) == (Cell("kill", "host", "replan", 1),)
    assert chosen(["nothing"]) == ()


@pytest.mark.parametrize(
    ("cell", "because"),
    [
        (Cell("kill", "host", "replan", 1), None),
        (Cell("kill", "host", "restart", 1), "waiting for "),
        (Cell("reboot", "host", "restart", 1), None),
        (Cell("poweroff", "dispatcher", "standby", 1), "the dispatcher"),
        (Cell("all-kill", "many", "replan", 1), "no host is left"),
        (Cell("all-reboot", "many", "replan", 1), None),
    ],
)
def test_what_never_comes_back_must_be_told_where_nobody_can_do_without(cell: Cell, because: str | None) -> None:
    assert ending(cell).because == because


# The judgement --------------------------------------------------------------------------------------------------------

STORY = Story()


def folder_of(path: Path, events: list[Event], change: Callable[[Rows], None] = lambda rows: None) -> Path:
    files = files_of(events)
    rows = rows_of(files)
    change(rows)
    for name, data in files_with(files, rows).items():
        (path / name).write_bytes(data)
    spec = {**STORY.spec, "workload": {**STORY.spec["workload"], "deadline_s": 0.5}}
    (path / "run.json").write_text(json.dumps({"spec": spec}))
    return path


def judged(path: Path, change: Callable[[Rows], None] = lambda rows: None, wanted: Ending = Ending()) -> Judgement:  # noqa: B008
    return judge(folder_of(path, STORY.events(), change), wanted)


def out_of_service(because: str) -> list[Event]:
    """Its last stage is killed, nobody takes its place: what is open is rejected by its deadline."""
    events: list[Event] = []
    for event in Story(kill_s=1.03).events():
        match event:
            case RequestCompleted(epoch=2) as done:
                at_s = done.submitted_s + 0.5
                events.append(dataclasses.replace(done, t_s=at_s, outcome="rejected", epoch=1, attempts=0, path=()))
            case ServiceState(state="recovering") as state:
                events += [state, dataclasses.replace(state, t_s=state.t_s + 0.01, state="unavailable", detail=because)]
            case _ if getattr(event, "epoch", 1) == 2 or (type(event) is ServiceState and event.t_s > 1000.0):
                pass
            case _:
                events.append(event)
    return events


def test_a_cell_that_serves_again_has_recovered(tmp_path: Path) -> None:
    found = judged(tmp_path)
    assert (found.outcome, found.reason, found.answered, found.rejected) == (RECOVERED, "", 24, 0)
    assert found.detection_s == pytest.approx(0.049)
    assert found.downtime_s == pytest.approx(0.4)


def lost(rows: Rows) -> None:
    rows["requests.csv"][5].update(outcome="lost", completed_s="", latency_ms="", answers="0")


def doubled(rows: Rows) -> None:
    rows["requests.csv"][5].update(outcome="doubled", answers="2")


def wrong(rows: Rows) -> None:
    rows["requests.csv"][5].update(outcome="wrong")


def without_effect(rows: Rows) -> None:
    rows["faults.csv"][0].update(effective_s="", recovered_s="")


def silent_afterwards(rows: Rows) -> None:
    over_s = float(rows["faults.csv"][0]["effective_s"])
    for row in rows["requests.csv"]:
        if float(row["completed_s"]) > over_s:
            row["outcome"] = "rejected"


def not_serving(rows: Rows) -> None:
    state = [row for row in rows["service.csv"] if row["event"] == "service"][-1]
    state.update(state="unavailable", detail="no host is left")


@pytest.mark.parametrize("change", [lost, doubled, wrong, without_effect, silent_afterwards, not_serving])
def test_a_cell_fails(tmp_path: Path, change: Callable[[Rows], None]) -> None:
    found = judged(tmp_path, change)
    assert found.outcome == FAILED
    assert found.reason


def test_what_happens_after_the_end_of_the_run_is_not_its_state(tmp_path: Path) -> None:
    def the_hosts_end(rows: Rows) -> None:
        end = next(row for row in rows["service.csv"] if row["event"] == "run_ended")
        state = dict.fromkeys(end, "") | {"t_s": end["t_s"], "event": "service", "state": "recovering"}
        rows["service.csv"].append(state)

    assert judged(tmp_path, the_hosts_end).outcome == RECOVERED


def test_a_cell_without_service_must_say_so_and_reject(tmp_path: Path) -> None:
    for name, because, outcome in (
        ("told", "no host is left", UNAVAILABLE),
        ("why", "something else", FAILED),
    ):
        folder = tmp_path / name
        folder.mkdir()
        found = judge(folder_of(folder, out_of_service(because)), Ending("no host is left"))
        assert found.outcome == outcome, found.reason
        assert found.rejected > 0
    served = tmp_path / "served"
    served.mkdir()
    found = judge(folder_of(served, STORY.events()), Ending("no host is left"))
    assert (found.outcome, "was answered" in found.reason) == (FAILED, True)


def test_an_unavailable_cell_that_should_have_recovered_has_failed(tmp_path: Path) -> None:
    found = judge(folder_of(tmp_path, out_of_service("no host is left")), Ending())
    assert found.outcome == FAILED
    assert "no-recovery" in found.reason


# The table ------------------------------------------------------------------------------------------------------------


def row(outcome: str) -> Row:
    judgement = Judgement(outcome, 'a, "b"\nc', 0.01, math.nan, 0.5, 10, 2)
    return Row(Cell("kill", "host", "replan", 1), judgement, "valid", 9.0, "", "0" * 64)


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = row(RECOVERED)
    table.write(tmp_path / "faults.csv", {written.cell: written})
    read = table.read(tmp_path / "faults.csv")[written.cell]
    assert math.isnan(read.judgement.recovery_s)
    assert dataclasses.replace(read.judgement, recovery_s=0.0) == dataclasses.replace(written.judgement, recovery_s=0.0)
    assert not read.failed
    assert table.read(tmp_path / "none.csv") == {}


def test_a_row_that_failed_tells_where_its_run_is() -> None:
    assert row(FAILED).failed
    assert "its run: /x" in dataclasses.replace(row(FAILED), folder="/x").line()
    assert "its run" not in row(RECOVERED).line()


# The bars -------------------------------------------------------------------------------------------------------------


def test_figures_come_from_the_tables_and_can_be_over_their_bars(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, STORY.events())
    (found,) = bars.recoveries(read_folder(folder))
    assert found.detection_s == pytest.approx(0.049)
    assert found.planning_s == pytest.approx(0.011)
    assert found.activation_s == pytest.approx(0.39)
    assert found.transfer_s == pytest.approx(2 * 3 * 2**20 * 8 / (50e6 * 1448 / 1514))
    runs = {name: [folder] for name in ("crashes", "standby", "replan", "skip")}
    rows = {(row.case, row.measure): row for row in bars.rows(runs)}
    assert rows["crashes", "detection (ms)"].ok
    assert rows["standby", "serves again after detection (ms)"].value == pytest.approx(401)
    assert rows["replan", "planning (ms)"].ok
    assert rows["skip", "from detection to decision (ms)"].value == pytest.approx(11)
    assert not dataclasses.replace(rows["standby", "serves again after detection (ms)"], high=400.0).ok


def test_a_fault_that_was_never_noticed_is_over_the_bar(tmp_path: Path) -> None:
    def unnoticed(rows: Rows) -> None:
        rows["faults.csv"][0].update(detected_s="")

    (found,) = bars.rows({"crashes": [folder_of(tmp_path, STORY.events(), unnoticed)]})
    assert not found.ok
    (nothing, *_) = bars.rows({"standby": []})
    assert not nothing.ok

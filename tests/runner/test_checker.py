"""The checker must pass what is good and be able to fail: every mutation of a good history is found, and named."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.checker.check import Checked, check_run, check_tables, rule_on
from runner.checker.findings import Finding, Ruling
from runner.checker.reading import DamagedFile, read_folder, read_table
from runner.checker.rebuilding import rebuilt
from runner.epoch_table import epoch_rows, fences
from runner.events import FaultEffective, FaultHealed, FaultScheduled, FaultStarted
from runner.fault_table import fault_rows
from runner.results import TABLES, table_files
from runner.summary import summarize
from testbed.errors import UsageError
from testbed.serving.events import EpochFenced, Event, PlanAdopted, ServiceState, StageExecuted
from tests.runner.story import Files, Rows, Story, checked, files_of, files_with, rows_of

GOOD = Story()
FULL = Story(gaps_s=(0.3,) * 6 + (0.001,) + (0.3,) * 5, kill_s=None, refused=frozenset({6}))


def check(files: Files, spec: Mapping[str, Any] = GOOD.spec) -> Checked:
    return checked(files, spec)


def findings(ruling: Ruling, *levels: str) -> list[Finding]:
    return [finding for finding in ruling.findings if finding.level in levels]


@pytest.fixture(scope="module")
def good() -> Files:
    return files_of(GOOD.events())


def test_a_good_history_has_no_error_and_all_its_figures(good: Files) -> None:
    result = check(good)
    assert findings(result.ruling, "error", "warning") == []
    assert result.ruling.outcome == "passed"
    assert result.ruling.reasons == ()
    summary = result.summary
    assert summary.requests["ok"] == summary.submitted == 24
    (down,) = summary.downtime
    assert down == pytest.approx((1.08, 1.48))
    (kill,) = summary.faults
    assert kill.detection_ms == pytest.approx(49)
    assert kill.replanning_ms == pytest.approx(60)
    assert kill.deploy_s == pytest.approx(0.29)
    assert kill.deploy_mbit == pytest.approx(2 * 3 * 2**20 * 8 / 1e6)
    assert kill.recovery_s is not None
    assert 0.45 < kill.recovery_s < 0.75
    assert None not in (kill.throughput_before_rps, kill.throughput_during_rps, kill.throughput_after_rps)
    first, second = summary.epochs
    assert (first.bottleneck, second.bottleneck) == ("compute on node2", "compute on spare")
    assert second.measured_bottleneck is not None
    assert second.measured_bottleneck.name == "compute on spare"


@given(
    st.builds(
        Story,
        service_s=st.lists(st.floats(0.001, 0.3), min_size=1, max_size=4).map(tuple),
        gaps_s=st.lists(st.floats(0.0005, 0.4), min_size=3, max_size=30).map(tuple),
        kill_s=st.none() | st.floats(0.05, 3.0),
        zero_s=st.floats(1.0, 1e6),
    )
)
@settings(max_examples=60, deadline=None)
def test_good_histories_pass(story: Story) -> None:
    result = check(files_of(story.events()), story.spec)
    assert [found for found in findings(result.ruling, "error", "warning") if found.rule != "no-recovery"] == []
    assert result.summary.requests["ok"] == len(story.gaps_s)


def test_a_full_queue_is_a_reason_for_a_rejection() -> None:
    files = files_of(FULL.events())
    assert check(files, FULL.spec).ruling.outcome == "passed"
    roomy = {**FULL.spec, "workload": {**FULL.spec["workload"], "queue": 10}}
    ruling = check(files, roomy).ruling
    assert [finding.rule for finding in ruling.errors] == ["rejected"]
    late = {**roomy, "workload": {**roomy["workload"], "deadline_s": 0.009}}
    assert check(files, late).ruling.outcome == "passed"


@pytest.mark.parametrize(("healed_s", "rules"), [(None, []), (1.2, []), (0.5, ["rejected"])])
@pytest.mark.parametrize("host", ["dispatcher", "node1"])
def test_a_dispatcher_without_its_disk_may_reject(host: str, healed_s: float | None, rules: list[str]) -> None:
    """Until it has noticed that its disk is back. The rejection is at 1.8 s."""
    zero_s = FULL.zero_s
    events = FULL.events()
    events.append(
        FaultScheduled(t_s=zero_s, fault=0, verb="disk-readonly", target=host, due_s=zero_s + 0.3, hosts=(host,))
    )
    events += [FaultStarted(t_s=zero_s + 0.3, fault=0), FaultEffective(t_s=zero_s + 0.3, fault=0)]
    events += [] if healed_s is None else [FaultHealed(t_s=zero_s + healed_s, fault=0)]
    roomy = {**FULL.spec, "workload": {**FULL.spec["workload"], "queue": 10}}
    ruling = check(files_of(sorted(events, key=lambda event: event.t_s)), roomy).ruling
    assert [finding.rule for finding in ruling.errors] == (rules if host == "dispatcher" else ["rejected"])


# Each mutation changes one thing of the good history, and names the rule that must find it and the table that shows it.
Mutation = Callable[[Rows], None]


def answer(rows: Rows, epoch: int) -> dict[str, str]:
    """An answered request of an epoch, not the first."""
    return [row for row in rows["requests.csv"] if row["epoch"] == str(epoch)][2]


def stages(rows: Rows, id_: str, epoch: str) -> list[dict[str, str]]:
    found = [row for row in rows["stages.csv"] if (row["id"], row["epoch"]) == (id_, epoch)]
    return sorted(found, key=lambda row: int(row["stage"]))


def lost(rows: Rows) -> None:
    answer(rows, 2).update(outcome="lost", completed_s="", latency_ms="", answers="0", attempts="", epoch="", path="")


def answered_without_a_time(rows: Rows) -> None:
    answer(rows, 1).update(completed_s="")


def vanished(rows: Rows) -> None:
    rows["requests.csv"].remove(answer(rows, 1))


def doubled(rows: Rows) -> None:
    answer(rows, 1).update(outcome="doubled", answers="2")


def doubled_but_told_as_right(rows: Rows) -> None:
    answer(rows, 2).update(answers="2")


def in_two_rows(rows: Rows) -> None:
    rows["requests.csv"].append(dict(answer(rows, 2)))


def wrong(rows: Rows) -> None:
    answer(rows, 2).update(outcome="wrong")


def invented(rows: Rows) -> None:
    rows["requests.csv"].append({**answer(rows, 2), "id": "4711", "submitted_s": "", "outcome": "unasked"})


def computed_for_nobody(rows: Rows) -> None:
    rows["stages.csv"].append({**rows["stages.csv"][-1], "id": "4711"})


def from_a_fenced_epoch(rows: Rows) -> None:
    """The first epoch's pipeline, a second after that epoch was fenced off."""
    row = answer(rows, 2)
    for stage in stages(rows, row["id"], "2"):
        stage.update(epoch="1", host={"node1": "node1", "spare": "node2"}[stage["host"]])
    row.update(epoch="1", path="node1 node2")


def late_on_its_way(rows: Rows) -> None:
    """Finished in time in the first epoch, but it counted after the second had taken over: that one had it too."""
    row = next(row for row in rows["requests.csv"] if row["attempts"] == "2")
    first, second = stages(rows, row["id"], "2")
    for stage, moved in zip((first, second), ("node1", "node2"), strict=True):
        at = 0.9 + 0.02 * int(stage["stage"])
        times = {"received_s": at, "started_s": at, "finished_s": at + 0.01, "sent_s": at + 0.01}
        early = {column: f"{value:.6f}" for column, value in times.items()}
        rows["stages.csv"] = [
            other
            for other in rows["stages.csv"]
            if (other["id"], other["epoch"], other["stage"]) != (row["id"], "1", stage["stage"])
        ]
        rows["stages.csv"].append({**stage, **early, "compute_ms": "10", "epoch": "1", "host": moved})
    row.update(
        epoch="1", path="node1 node2", submitted_s="0.89", latency_ms=str((float(row["completed_s"]) - 0.89) * 1e3)
    )


def before_its_epoch(rows: Rows) -> None:
    row = answer(rows, 1)
    for stage in stages(rows, row["id"], "1"):
        stage.update(epoch="2", host={"node1": "node1", "node2": "spare"}[stage["host"]])
    row.update(epoch="2", path="node1 spare")


def of_an_unknown_epoch(rows: Rows) -> None:
    answer(rows, 2).update(epoch="9")


def by_another_path(rows: Rows) -> None:
    answer(rows, 2).update(path="spare node1")


def on_another_host(rows: Rows) -> None:
    stages(rows, answer(rows, 2)["id"], "2")[1].update(host="node3")


def without_a_stage(rows: Rows) -> None:
    rows["stages.csv"].remove(stages(rows, answer(rows, 2)["id"], "2")[0])


def with_a_stage_twice(rows: Rows) -> None:
    rows["stages.csv"].append(dict(stages(rows, answer(rows, 2)["id"], "2")[0]))


def moved(row: dict[str, str], column: str, by_s: float) -> None:
    row[column] = f"{float(row[column]) + by_s:.6f}"


def second_stage_before_the_first(rows: Rows) -> None:
    moved(stages(rows, answer(rows, 1)["id"], "1")[1], "received_s", -0.03)


def finished_before_it_started(rows: Rows) -> None:
    moved(stages(rows, answer(rows, 1)["id"], "1")[0], "finished_s", -0.2)


def started_before_it_arrived(rows: Rows) -> None:
    moved(stages(rows, answer(rows, 1)["id"], "1")[0], "started_s", -0.02)


def sent_before_it_finished(rows: Rows) -> None:
    moved(stages(rows, answer(rows, 1)["id"], "1")[0], "sent_s", -0.02)


def at_work_before_it_was_asked(rows: Rows) -> None:
    row = answer(rows, 1)
    moved(row, "submitted_s", 0.05)
    row["latency_ms"] = f"{float(row['latency_ms']) - 50:.6f}"


def answered_before_it_was_done(rows: Rows) -> None:
    row = answer(rows, 1)
    moved(row, "completed_s", -0.05)
    row["latency_ms"] = f"{float(row['latency_ms']) - 50:.6f}"


def another_latency(rows: Rows) -> None:
    answer(rows, 1).update(latency_ms="1")


def rejected_without_a_reason(rows: Rows) -> None:
    answer(rows, 2).update(outcome="rejected", path="")


def a_stage_less_in_the_plan(rows: Rows) -> None:
    rows["plan.csv"] = [row for row in rows["plan.csv"] if (row["epoch"], row["stage"]) != ("2", "0")]


def two_epochs_at_once(rows: Rows) -> None:
    rows["epochs.csv"][1].update(adopted_s="1.0", active_s="1.02")


def an_epoch_twice(rows: Rows) -> None:
    rows["epochs.csv"].append(dict(rows["epochs.csv"][1]))


def detected_sooner(rows: Rows) -> None:
    moved(rows["faults.csv"][0], "detected_s", -0.03)


def recovered_sooner(rows: Rows) -> None:
    moved(rows["faults.csv"][0], "recovered_s", -0.1)


def faster_after_the_fault(rows: Rows) -> None:
    rows["faults.csv"][0]["throughput_after_rps"] = "99"


def faster_than_it_was(rows: Rows) -> None:
    rows["epochs.csv"][1]["measured_rps"] = "99"


def in_force_before_it_began(rows: Rows) -> None:
    moved(rows["faults.csv"][0], "started_s", 0.1)


def a_host_that_died(rows: Rows) -> None:
    died = {"event": "server", "host": "node1", "state": "dead", "detail": "signal 11"}
    rows["service.csv"].append({**rows["service.csv"][-1], **died})


def a_fault_that_failed(rows: Rows) -> None:
    rows["service.csv"].append({**rows["service.csv"][-1], "event": "fault_failed", "state": "", "id": "0"})


def two_outputs_of_one_input(rows: Rows) -> None:
    mismatch = {"event": "output_mismatch", "host": "node1", "state": "", "id": "3"}
    rows["service.csv"].append({**rows["service.csv"][-1], **mismatch})


def without_an_end(rows: Rows) -> None:
    rows["service.csv"] = [row for row in rows["service.csv"] if row["event"] != "run_ended"]


def interrupted(rows: Rows) -> None:
    rows["service.csv"][-1].update(state="interrupted", detail="by Ctrl-C")


def without_a_plan_around_the_fault(rows: Rows) -> None:
    rows["service.csv"] = [row for row in rows["service.csv"] if row["event"] != "host_lost"]


MUTATIONS: Sequence[tuple[Mutation, str, str]] = (
    (lost, "lost", "requests.csv"),
    (answered_without_a_time, "lost", "requests.csv"),
    (vanished, "left-out", "requests.csv"),
    (doubled, "doubled", "requests.csv"),
    (doubled_but_told_as_right, "doubled", "requests.csv"),
    (in_two_rows, "doubled", "requests.csv"),
    (wrong, "wrong", "requests.csv"),
    (invented, "unasked", "requests.csv"),
    (computed_for_nobody, "unasked", "stages.csv"),
    (from_a_fenced_epoch, "fenced", "requests.csv"),
    (late_on_its_way, "fenced", "requests.csv"),
    (before_its_epoch, "fenced", "requests.csv"),
    (of_an_unknown_epoch, "no-epoch", "requests.csv"),
    (by_another_path, "path", "requests.csv"),
    (on_another_host, "path", "stages.csv"),
    (without_a_stage, "stage-missing", "requests.csv"),
    (with_a_stage_twice, "stage-twice", "stages.csv"),
    (second_stage_before_the_first, "order", "stages.csv"),
    (finished_before_it_started, "order", "stages.csv"),
    (started_before_it_arrived, "order", "stages.csv"),
    (sent_before_it_finished, "order", "stages.csv"),
    (at_work_before_it_was_asked, "order", "stages.csv"),
    (answered_before_it_was_done, "order", "requests.csv"),
    (another_latency, "disagrees", "requests.csv"),
    (rejected_without_a_reason, "rejected", "requests.csv"),
    (a_stage_less_in_the_plan, "epochs", "plan.csv"),
    (two_epochs_at_once, "epochs", "epochs.csv"),
    (an_epoch_twice, "epochs", "epochs.csv"),
    (detected_sooner, "disagrees", "faults.csv"),
    (recovered_sooner, "disagrees", "faults.csv"),
    (faster_after_the_fault, "disagrees", "faults.csv"),
    (faster_than_it_was, "disagrees", "epochs.csv"),
    (in_force_before_it_began, "order", "faults.csv"),
    (a_host_that_died, "died", "service.csv"),
    (a_fault_that_failed, "fault-failed", "service.csv"),
    (two_outputs_of_one_input, "mismatch", "service.csv"),
    (without_an_end, "no-end", "service.csv"),
    (interrupted, "no-end", "service.csv"),
    (without_a_plan_around_the_fault, "no-recovery", "faults.csv"),
)


@pytest.mark.parametrize(("mutation", "rule", "file"), MUTATIONS, ids=lambda value: getattr(value, "__name__", ""))
def test_each_mutation_is_found_and_shown(mutation: Mutation, rule: str, file: str, good: Files) -> None:
    rows = rows_of(good)
    before = {name: [dict(row) for row in table] for name, table in rows.items()}
    mutation(rows)
    files = files_with(good, rows)
    ruling = check(files).ruling
    assert ruling.outcome == "failed"
    found = [finding for finding in ruling.errors if (finding.rule, finding.file) == (rule, file)]
    assert found, ruling.errors
    assert any(found[0].text.split(",")[0] in reason for reason in ruling.reasons)
    if rule not in ("left-out", "epochs", "no-end") and found[0].line is not None:
        shown = list(csv.reader(files[file].decode().splitlines()))[found[0].line - 1]
        assert shown, found[0]
        # The line shown is one that was changed, or that belongs to the same request or fault as one.
        unchanged = [list(row.values()) for row in before[file]]
        touched = {row[0] for row in (list(row.values()) for row in rows[file]) if row not in unchanged}
        assert shown[0] in touched or not touched or rule in ("no-recovery", "stage-missing", "path", "stage-twice")


def test_a_stage_of_a_host_that_ended_may_be_missing() -> None:
    """A node tells of a stage after it has sent its output, unless it is killed in between."""
    events = GOOD.events()
    by_victim = [event for event in events if isinstance(event, StageExecuted) and event.host == "node2"]
    last = max(by_victim, key=lambda event: event.t_s)
    ruling = check(files_of([event for event in events if event is not last])).ruling
    assert ruling.outcome == "passed"
    assert [finding.rule for finding in findings(ruling, "warning")] == ["stage-missing"]


def test_through_a_lossy_codec_an_answer_may_be_off_by_what_is_recorded(good: Files) -> None:
    rows = rows_of(good)
    answer(rows, 1).update(error_pct="0.8", same_class="true")
    files = files_with(good, rows)
    tables = {name: read_table(name, data) for name, data in files.items()}
    assert check_tables(tables, {"spec": GOOD.spec, "answer_error_pct": 1.0}).ruling.outcome == "passed"
    for most in (0.5, None):
        ruling = check_tables(tables, {"spec": GOOD.spec, "answer_error_pct": most}).ruling
        assert [finding.rule for finding in ruling.errors] == ["wrong"]


def test_a_loss_without_a_fault_is_a_warning(good: Files) -> None:
    rows = rows_of(good)
    alarm = {"t_s": "0.5", "event": "host_lost", "host": "spare", "state": "heartbeat", "detail": "silent for 310 ms"}
    rows["service.csv"].insert(0, {**rows["service.csv"][0], **alarm})
    ruling = check(files_with(good, rows)).ruling
    assert ruling.outcome == "passed"
    (found,) = findings(ruling, "warning")
    assert (found.rule, found.place) == ("false-alarm", "service.csv:2")


def test_a_hand_over_noted_late_only_informs(good: Files) -> None:
    rows = rows_of(good)
    moved(stages(rows, answer(rows, 1)["id"], "1")[0], "sent_s", 0.02)
    ruling = check(files_with(good, rows)).ruling
    assert ruling.outcome == "passed"
    assert "handed-over-late" in {finding.rule for finding in findings(ruling, "info")}


def test_many_findings_of_a_rule_are_one_reason(good: Files) -> None:
    rows = rows_of(good)
    for row in rows["requests.csv"]:
        row["outcome"] = "wrong"
    ruling = check(files_with(good, rows)).ruling
    assert "request 0 was answered wrongly, and 23 more like it" in ruling.reasons
    plain = ruling.to_dict()
    assert plain["errors"] == len(ruling.errors)
    assert sum(finding["rule"] == "wrong" for finding in plain["findings"]) == 20


DAMAGES: Mapping[str, Callable[[bytes], bytes]] = {
    "cut off": lambda data: data[:-20],
    "a cell too many": lambda data: data.replace(b"\r\n", b",7\r\n", 3).replace(b",7\r\n", b"\r\n", 2),
    "no number": lambda data: data.replace(b"\r\n2,", b"\r\ntwo,", 1),
    "not UTF-8": lambda data: data.replace(b"\r\n2,", b"\r\n\xff,", 1),
    "an open quote": lambda data: data.replace(b"\r\n2,", b'\r\n"2,', 1),
    "another table": lambda data: data.replace(b"completed_s", b"done_s", 1),
    "empty": lambda data: b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_table_names_the_line(damage: str, good: Files) -> None:
    data = DAMAGES[damage](good["requests.csv"])
    assert data != good["requests.csv"]
    with pytest.raises(DamagedFile, match=r"^requests\.csv:\d+: "):
        check({**good, "requests.csv": data})


@pytest.mark.parametrize(("damage", "line"), [("a cell too many", 3), ("no number", 4), ("not UTF-8", 4)])
def test_the_line_that_is_named_is_the_damaged_one(damage: str, line: int, good: Files) -> None:
    with pytest.raises(DamagedFile, match=rf"^requests\.csv:{line}: "):
        check({**good, "requests.csv": DAMAGES[damage](good["requests.csv"])})


def test_figures_come_back_from_the_tables(quickstart: tuple[Event, ...]) -> None:
    """One definition of each figure: the same function finds it from the history and from the tables."""
    tables = {name: read_table(name, data) for name, data in table_files(quickstart).items()}
    events = rebuilt(tables, 30.0)
    for rows in (fault_rows, epoch_rows):
        for told, again in zip(rows(quickstart), rows(events), strict=True):
            assert told.keys() == again.keys()
            for column, value in told.items():
                if isinstance(value, float):
                    assert again[column] == pytest.approx(value, rel=1e-3, abs=1e-4), column
                else:
                    assert again[column] == value, column
    told_summary, again_summary = summarize(quickstart), summarize(events)
    assert again_summary.requests == told_summary.requests
    assert again_summary.throughput_rps == pytest.approx(told_summary.throughput_rps)


def test_a_killed_dispatchers_epoch_ends_when_the_next_one_begins() -> None:
    """Nobody tells of that fence; what the next dispatcher tells first is that it is deploying."""
    events = [event for event in GOOD.events() if not isinstance(event, EpochFenced)]
    (adopted,) = [event for event in events if isinstance(event, PlanAdopted) and event.epoch == 2]
    assert fences(events)[1] == (adopted.t_s, "")
    begun = ServiceState(t_s=adopted.t_s - 0.005, state="deploying")
    assert fences([*events, begun])[1] == (begun.t_s, "")
    assert check(files_of([*events, begun])).ruling.outcome == "passed"


def write(folder: Path, files: Files, **record: Any) -> Path:
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "run.json").write_text(json.dumps({"spec": GOOD.spec, **record}))
    return folder


def test_a_folder_is_checked_with_its_record(tmp_path: Path, good: Files) -> None:
    summary = summarize(GOOD.events()).to_dict()
    folder = write(tmp_path, good, outcome="passed", summary=summary)
    assert check_run(folder).ruling.outcome == "passed"
    assert rule_on(folder, {"spec": GOOD.spec}).outcome == "passed"
    write(tmp_path, good, outcome="failed", summary={"requests": {**summary["requests"], "ok": 25}})
    rules = [(finding.rule, finding.file) for finding in check_run(folder).ruling.errors]
    assert rules == [("disagrees", "run.json")] * 2


def test_what_is_no_run_is_an_error_for_people(tmp_path: Path, good: Files) -> None:
    with pytest.raises(UsageError, match=r"run\.json"):
        check_run(tmp_path)
    folder = write(tmp_path, good)
    (folder / "stages.csv").unlink()
    with pytest.raises(UsageError, match=r"stages\.csv"):
        check_run(folder)
    assert [finding.rule for finding in rule_on(folder, {"spec": GOOD.spec}).errors] == ["damaged"]
    (folder / "run.json").write_text("{\n  nothing")
    with pytest.raises(DamagedFile, match=r"^run\.json:2: "):
        check_run(folder)
    (folder / "run.json").write_text("{}")
    with pytest.raises(UsageError):
        check_run(folder)


def test_every_table_is_read(good: Files, tmp_path: Path) -> None:
    assert set(read_folder(write(tmp_path, good))) == set(TABLES)


def test_a_service_that_was_unavailable_to_the_end_is_told_why_though_its_hosts_end_after_it() -> None:
    events: list[Event] = []
    for event in GOOD.events():
        if isinstance(event, ServiceState) and event.state == "recovering":
            reason = "no host is left to hold a stage"
            events.append(dataclasses.replace(event, state="unavailable", detail=reason))
        elif getattr(event, "epoch", 1) != 2 and not (isinstance(event, ServiceState) and event.t_s > GOOD.zero_s):
            events.append(event)
    end_s = max(event.t_s for event in events)
    events.append(ServiceState(t_s=end_s + 0.1, state="recovering", detail="node1 was lost"))
    found = [finding for finding in check(files_of(events)).ruling.errors if finding.rule == "no-recovery"]
    assert "service is unavailable: no host is left to hold a stage" in found[0].text

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import tables
from runner.csvfile import format_cell, from_csv, to_csv
from runner.events import EXPERIMENTER_EVENTS, HostSample, HostStateChanged, LinkSample, RunEnded, RunStarted
from runner.results import TABLES
from runner.summary import summarize
from testbed.serving.events import EVENT_TYPES as SYSTEM_EVENT_TYPES
from testbed.serving.events import Event, RequestCompleted, RequestSubmitted


def submitted(id_: int, t_s: float) -> RequestSubmitted:
    return RequestSubmitted(t_s=t_s, id=id_, due_s=t_s)


def completed(id_: int, t_s: float, outcome: str = "ok", epoch: int = 1) -> RequestCompleted:
    return RequestCompleted(
        t_s=t_s, id=id_, submitted_s=t_s - 0.5, outcome=outcome, attempts=1, epoch=epoch, path=("a", "b")
    )


def started(t_s: float = 100.0) -> RunStarted:
    return RunStarted(t_s=t_s, name="test", seed=1, duration_s=10.0)


def outcomes(events: Sequence[Event]) -> dict[object, object]:
    rows = tables.request_rows(events)
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row["outcome"] for row in rows}


def test_every_request_has_one_outcome() -> None:
    events = [
        started(),
        *(submitted(id_, 100.0 + id_) for id_ in range(6)),
        completed(0, 101.0),
        completed(1, 102.0, "wrong"),
        completed(2, 103.0, "rejected"),
        completed(3, 104.0),
        completed(3, 104.5),
        completed(5, 120.0),
        completed(77, 105.0),
        RunEnded(t_s=115.0),
    ]
    assert outcomes(events) == {
        0: "ok",
        1: "wrong",
        2: "rejected",
        3: "doubled",
        4: "lost",
        5: "lost",  # it came after the run's end
        77: "unasked",
    }


def test_an_answer_given_twice_is_wrong_if_one_of_them_is() -> None:
    assert outcomes([submitted(1, 0.0), completed(1, 1.0), completed(1, 2.0, "wrong")]) == {1: "wrong"}


def test_a_request_row_counts_from_the_start_of_the_workload() -> None:
    (row,) = tables.request_rows([started(), submitted(4, 101.5), completed(4, 102.0)])
    assert row == {
        "id": 4,
        "submitted_s": 1.5,
        "completed_s": 2.0,
        "latency_ms": 500.0,
        "outcome": "ok",
        "answers": 1,
        "attempts": 1,
        "epoch": 1,
        "path": "a b",
        "degraded": False,
        "error_pct": None,
        "same_class": None,
    }


def test_host_counters_become_differences_and_survive_a_restart() -> None:
    def sample(t_s: float, usage_s: float, oom_kills: int = 0) -> HostSample:
        return HostSample(
            t_s=t_s,
            host="a",
            cpu_usage_s=usage_s,
            throttled_s=usage_s * 2,
            nr_throttled=0,
            memory_bytes=2**20,
            oom_kills=oom_kills,
            cpu_share=0.5,
        )

    events = [
        started(),
        HostStateChanged(t_s=99.0, host="a", state="serving"),
        sample(100.0, 5.0),
        sample(102.0, 6.0, oom_kills=1),
        HostStateChanged(t_s=102.5, host="a", state="killed"),
        sample(103.0, 0.5),
    ]
    rows = tables.host_rows(events)
    assert [row["cpu_share"] for row in rows] == [None, 0.5, None]
    assert [row["throttled_ms"] for row in rows] == [None, 2000.0, None]
    assert [row["oom_kills"] for row in rows] == [0, 1, 0]
    assert [row["state"] for row in rows] == ["serving", "serving", "killed"]


def test_link_counters_become_differences() -> None:
    def sample(t_s: float, sent_bytes: int, drops: int) -> LinkSample:
        return LinkSample(
            t_s=t_s,
            link="a-s1",
            source="a",
            target="s1",
            sent_bytes=sent_bytes,
            drops=drops,
            backlog_bytes=7,
            rate_bps=2e6,
        )

    rows = tables.link_rows([started(), sample(100.0, 1000, 1), sample(101.0, 126000, 4)])
    assert [row["sent_mbit"] for row in rows] == [None, 1.0]
    assert [row["drops"] for row in rows] == [None, 3]
    assert {row["rate_mbit_s"] for row in rows} == {2.0}


def test_deployment_times_and_bytes_are_in_the_plan(quickstart: tuple[Event, ...]) -> None:
    rows = {(row["epoch"], row["host"]): row for row in tables.plan_rows(quickstart)}
    spare = rows[2, "spare"]
    assert spare["deploy_s"] == pytest.approx(3.46)
    assert spare["deploy_mbit"] == pytest.approx(6 * 2**20 * 8 / 1e6)
    assert rows[2, "node1"]["deploy_mbit"] == pytest.approx(0.0072)


def test_stages_of_the_active_epoch_are_in_the_hosts_table(quickstart: tuple[Event, ...]) -> None:
    rows = tables.host_rows(quickstart)
    spare = [(row["t_s"], row["stage"]) for row in rows if row["host"] == "spare"]
    assert {stage for t_s, stage in spare if 0 < float(t_s or 0) < 11} == {""}
    assert {stage for t_s, stage in spare if float(t_s or 0) > 12} == {"1"}


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_rfc_4180(name: str, quickstart: tuple[Event, ...]) -> None:
    columns, rows = TABLES[name]
    data = to_csv(columns, rows(quickstart))
    assert data.count(b"\r\n") == data.count(b"\n")
    assert data.endswith(b"\r\n")
    read = list(csv.reader(io.StringIO(data.decode(), newline=""), strict=True))
    assert tuple(read[0]) == columns
    assert len(read) > 1
    assert {len(row) for row in read} == {len(columns)}


@pytest.mark.parametrize("name", TABLES)
def test_every_column_is_documented(name: str, repository: Path) -> None:
    text = (repository / "results" / "README.md").read_text()
    _, found, section = text.partition(f"\n## `{name}`")
    assert found, name
    section = section.split("\n## ")[0]
    assert [c for c in TABLES[name][0] if f"| `{c}` |" not in section] == []


def test_cells_with_commas_quotes_and_line_ends_come_back() -> None:
    rows = [{"a": 'x,"y"\r\nz', "b": None}, {"a": "plain", "b": 0.1}]
    data = to_csv(("a", "b"), rows)
    assert data.startswith(b'a,b\r\n"x,""y""\r\nz",\r\n')
    assert from_csv(data) == [{"a": 'x,"y"\r\nz', "b": ""}, {"a": "plain", "b": "0.1"}]


def test_numbers_have_a_point_and_no_exponent() -> None:
    values = [1e-7, 1e16, -0.0000001, 2.50, float("nan"), True, None]
    assert [format_cell(v) for v in values] == ["0", "10000000000000000", "0", "2.5", "", "true", ""]


def test_a_row_of_another_table_is_refused() -> None:
    with pytest.raises(ValueError, match="columns"):
        to_csv(("a", "b"), [{"a": 1}])


# Strategies by field type give any history, possible or not; names and ids repeat so that events refer to each other.
times = st.floats(min_value=0, max_value=60, allow_nan=False)
names = st.sampled_from(["a", "b", "s1"])
FIELDS = {
    "id": st.integers(0, 8),
    "fault": st.integers(0, 3),
    "epoch": st.integers(1, 4),
    "stage": st.integers(0, 3),
    "outcome": st.sampled_from(["ok", "wrong", "rejected"]),
    "how": st.sampled_from(["completed", "interrupted"]),
    "state": st.sampled_from(["serving", "killed", "dead"]),
    "level": st.sampled_from(["valid", "suspect", "invalid"]),
    **dict.fromkeys(("host", "source", "target", "subject"), names),
    **dict.fromkeys(("hosts", "ends", "path", "links"), st.lists(names, max_size=3).map(tuple)),
}
EVENTS = st.one_of(
    *(
        st.builds(cls, t_s=times, **{f: FIELDS[f] for f in cls.__dataclass_fields__ if f in FIELDS})
        for cls in [*SYSTEM_EVENT_TYPES.values(), *EXPERIMENTER_EVENTS]
    )
)


@given(st.lists(EVENTS, max_size=60))
def test_no_history_breaks_the_tables(events: list[Event]) -> None:
    for columns, rows in TABLES.values():
        from_csv(to_csv(columns, rows(events)))
    ids = {event.id for event in events if isinstance(event, RequestSubmitted)}
    ends = [event.t_s for event in events if isinstance(event, RunEnded)]
    ids |= {e.id for e in events if isinstance(e, RequestCompleted) and (not ends or e.t_s <= ends[0])}
    found = [row["id"] for row in tables.request_rows(events)]
    assert sorted(ids) == sorted(int(str(id_)) for id_ in found)
    assert summarize(events).submitted == len(ids)

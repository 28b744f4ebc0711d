"""A slowed run's events come back to the declared units."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from runner import epoch_table, fault_table, service_table, tables, verdict
from runner.events import EVENT_TYPES, Check, HostSample, RunStarted
from runner.summary import summarize
from runner.virtual_time import CPU_SECONDS, in_virtual_time, time_scale_of, virtual
from testbed.serving.events import Event


def slowed_down(event: Event, k: float) -> Event:
    """What the same event would have been in a run that is k times slower."""
    if isinstance(event, Check):
        return dataclasses.replace(event, t_s=event.t_s * k)
    slow = virtual(event, 1 / k)
    return dataclasses.replace(slow, time_scale=k) if isinstance(slow, RunStarted) else slow


def numbers(value: Any) -> Any:
    """Figures rounded, so that two ways of computing them can be compared."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if abs(value) > 1e-6 else 0.0
    if isinstance(value, dict):
        return {key: numbers(part) for key, part in value.items() if key != "time_scale"}
    if isinstance(value, (list, tuple)):
        return [numbers(part) for part in value]
    return value


def test_a_run_eight_times_slower_gives_the_same_tables_and_figures(quickstart: tuple[Event, ...]) -> None:
    slow = tuple(slowed_down(event, 8) for event in quickstart)
    assert time_scale_of(slow) == 8
    back = in_virtual_time(slow, time_scale_of(slow))
    for rows in (
        tables.request_rows,
        tables.stage_rows,
        tables.plan_rows,
        tables.host_rows,
        tables.link_rows,
        tables.fidelity_rows,
        epoch_table.epoch_rows,
        service_table.service_rows,
        fault_table.fault_rows,
    ):
        assert numbers(rows(back)) == numbers(rows(quickstart)), rows.__name__
    assert numbers(summarize(back).to_dict()) == numbers(summarize(quickstart).to_dict())
    assert verdict.judge(e for e in back if isinstance(e, Check)) == verdict.judge(
        e for e in quickstart if isinstance(e, Check)
    )


def test_a_hosts_use_of_its_cpu_is_told_as_the_declared_share() -> None:
    """At k = 8 a host with 10 % of a core has 1.25 % of a real one."""

    def sample(t_s: float, used_s: float) -> HostSample:
        return HostSample(
            t_s=t_s,
            host="a",
            cpu_usage_s=used_s,
            throttled_s=8 * used_s,
            nr_throttled=1,
            memory_bytes=1,
            oom_kills=0,
            cpu_share=0.0125,
        )

    back = in_virtual_time([sample(80.0, 1.0), sample(88.0, 1.1)], 8)
    first, second = back
    assert isinstance(first, HostSample)
    assert isinstance(second, HostSample)
    assert (first.t_s, second.t_s) == (10, 11)
    assert second.cpu_share == pytest.approx(0.1)
    assert second.cpu_usage_s == 1.1
    rows = tables.host_rows(back)
    assert rows[1]["cpu_share"] == pytest.approx(0.1)


def test_without_a_time_scale_events_stay_as_they_are(quickstart: tuple[Event, ...]) -> None:
    assert in_virtual_time(quickstart, 1) == quickstart
    assert time_scale_of(quickstart) == 1
    assert time_scale_of([]) == 1


def test_every_figure_of_every_event_is_known_to_be_a_time_a_rate_or_neither() -> None:
    """A new field with a unit must be looked at: is it a time, a rate, or work?"""
    neither = {
        "bytes_in", "bytes_out", "bytes_sent", "sent_bytes", "backlog_bytes", "memory_bytes", "weights_bytes",
        "transfer_bits", "return_bits", "moved_bytes", "error_pct",
    }  # fmt: skip
    units = ("_s", "_ms", "_us", "_bps", "_rps", "_bytes", "_bits", "_pct", "_share", "_mbit", "_mib", "_hz")
    for kind, cls in EVENT_TYPES.items():
        for field in dataclasses.fields(cls):
            if field.name.endswith(units) and not field.name.endswith(("_s", "_ms", "_bps", "_rps", "cpu_share")):
                assert field.name in neither, (kind, field.name)
    assert {"cpu_usage_s", "busy_s"} <= CPU_SECONDS

"""All faults of hosts in one run: what each does to its host, as read from outside, and that no request is lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from runner.lab_hosts import scaled
from testbed.emulation.cgroups import CpuLimit
from testbed.errors import MachineError
from tests.emulation.snapshot import difference
from tests.emulation.world import World, world
from tests.runner.real_run import NAME, RATE, RealRun, experiment, started

WORKERS = ("node1", "node2", "node3", "node4")
FAULTS = [
    {"at": "500ms", "cpu": {"stage": 0}, "share": 0.02, "for": "1s"},  # while nothing else makes plans change
    {"at": "2s", "reboot": "node2", "for": "1s"},
    {"at": "2.5s", "restart": "node3"},
    {"at": "4.5s", "memory": "node3", "limit": "2MiB", "for": "1s"},
    {"at": "5s", "join": "node4"},
    {"at": "7s", "pause": "node2", "for": "1s"},
    {"at": "8.5s", "leave": "node1"},
]


def test_a_quota_is_scaled_and_its_period_lengthened_where_the_kernel_needs_it() -> None:
    assert scaled(CpuLimit(0.2, 0.02), 0.5) == CpuLimit(0.1, 0.02)
    assert scaled(CpuLimit(0.2, 0.02), 2.0) == CpuLimit(0.4, 0.02)
    small = scaled(CpuLimit(0.1, 0.011), 0.1)
    assert small.share == pytest.approx(0.01)
    assert small.quota_us >= 1000
    with pytest.raises(MachineError):
        scaled(CpuLimit(0.1, 0.011), 0.001)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRun]:
    spec = experiment(
        hosts={
            "dispatcher": {"cpu": 0.3},
            **{name: {"cpu": 0.1, "memory": "64MiB", "storage": "64MiB"} for name in WORKERS},
        },
        links=[{"between": [name, "s1"], "rate": RATE, "delay": "1ms"} for name in ("dispatcher", *WORKERS)],
        compute={"mode": "calibrated"},
        workload={"kind": "closed", "in_flight": 2, "duration": "11s"},
        faults=FAULTS,
    )
    with world() as machine:
        assert machine.testbed("clean").returncode == 0
        before = snapshot_of(machine)
        with started(machine, tmp_path_factory.mktemp("run"), spec) as run:
            code, output = run.finish()
        assert code in (0, 4), output
        assert run.record["outcome"] == "passed", output
        assert difference(before, snapshot_of(machine)) == []
        yield run


def snapshot_of(machine: World) -> dict[str, list[str]]:
    return machine.snapshot(f"testbed-{NAME}-")


def states(run: RealRun, host: str) -> list[str]:
    """The states of a host since its server was first started."""
    return [event["state"] for event in run.events() if event["event"] == "host_state" and event["host"] == host][1:]


@pytest.mark.root
@pytest.mark.slow
def test_no_request_is_lost_and_every_fault_takes_effect(whole: RealRun) -> None:
    assert {row["outcome"] for row in whole.rows("requests.csv")} == {"ok"}
    rows = whole.rows("faults.csv")
    assert [row["kind"] for row in rows] == ["cpu", "reboot", "restart", "memory", "join", "pause", "leave"]
    assert all(row["effective_s"] for row in rows)
    assert [bool(row["healed_s"]) for row in rows] == [True, True, True, True, False, True, False]


@pytest.mark.root
@pytest.mark.slow
def test_hosts_go_through_the_states_of_their_faults(whole: RealRun) -> None:
    assert states(whole, "node2") == ["ready", "off", "starting", "ready", "paused", "ready"]
    assert states(whole, "node3") == ["ready", "killed", "starting", "ready", "killed", "starting", "ready"]
    assert states(whole, "node4") == ["absent", "starting", "ready"]
    assert states(whole, "node1") == ["ready", "leaving", "left"]
    sampled = {(row["host"], row["state"]) for row in whole.rows("hosts.csv")}
    assert {("node4", "absent"), ("node1", "left")} <= sampled  # what lasts for seconds


@pytest.mark.root
@pytest.mark.slow
def test_a_power_cut_is_noticed_by_silence_and_a_crash_by_its_connection(whole: RealRun) -> None:
    lost = [event for event in whole.events() if event["event"] == "host_lost"]
    assert next(event["how"] for event in lost if event["host"] == "node2") == "heartbeat"
    assert next(event["how"] for event in lost if event["host"] == "node3") == "connection"
    found = [event for event in whole.events() if event["event"] == "host_found"]
    # At the start, and again: after the reboot and the pause, the restart and the squeeze; after the join.
    assert len([event for event in found if event["host"] == "node2"]) >= 2
    assert len([event for event in found if event["host"] == "node3"]) == 3
    assert [event["host"] for event in found].count("node4") == 1


@pytest.mark.root
@pytest.mark.slow
def test_a_squeezed_host_is_killed_by_the_kernel_and_told_by_name(whole: RealRun) -> None:
    killed = [event for event in whole.events() if event["event"] == "host_state" and event["state"] == "killed"]
    assert any(event["host"] == "node3" and "out of memory" in event["detail"] for event in killed)
    assert sum(int(row["oom_kills"]) for row in whole.rows("hosts.csv") if row["host"] == "node3") >= 1


@pytest.mark.root
@pytest.mark.slow
def test_a_host_that_joins_is_not_in_the_first_plan(whole: RealRun) -> None:
    first = {row["host"] for row in whole.rows("plan.csv") if row["epoch"] == "1"}
    assert first
    assert "node4" not in first


@pytest.mark.root
@pytest.mark.slow
def test_a_slower_host_computes_slower(whole: RealRun) -> None:
    slow = whole.rows("faults.csv")[0]
    began_s, ended_s = float(slow["effective_s"]), float(slow["healed_s"])
    host = slow["target"]
    took_ms = [
        (float(row["started_s"]), float(row["compute_ms"]), row["epoch"])
        for row in whole.rows("stages.csv")
        if row["host"] == host
    ]
    during = [ms for started_s, ms, _ in took_ms if began_s + 0.1 < started_s < ended_s - 0.1]
    epochs = {epoch for started_s, _, epoch in took_ms if began_s < started_s < ended_s}
    before = [ms for started_s, ms, epoch in took_ms if started_s < began_s and epoch in epochs]
    assert during
    assert before
    assert min(during) > 3 * min(before)


@pytest.mark.root
@pytest.mark.slow
def test_links_of_hosts_that_were_off_are_measured_afterwards(whole: RealRun) -> None:
    measured = {
        row["subject"]: float(row["measured"])
        for row in whole.rows("fidelity.csv")
        if row["check"] == "rate_after_mbit_s"
    }
    assert len(measured) == 2 * (1 + len(WORKERS))
    assert min(measured.values()) > 10

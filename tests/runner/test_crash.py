"""Whatever is killed, and whenever: nothing is left, nothing of others is touched, nothing that was written is lost."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runner.events import RunEnded
from runner.history import read_events
from tests.emulation.snapshot import Snapshot, difference
from tests.emulation.world import World, world
from tests.runner.real_run import NAME, RATE, RealRun, experiment, started

pytestmark = [pytest.mark.root, pytest.mark.slow]

SETTLED_S = 10.0
"""For what was killed before it could be written to the journal, which ends by itself with its starter."""
PROMPT_S = 25.0
"""From the death of a part to the end of the run: its clean-up, its tables and figures included."""

WORKER = {"cpu": 0.1, "memory": "64MiB", "storage": "64MiB"}
SPEC = experiment(
    # As small as has all parts, and quick to set up: every case is a run.
    hosts={"dispatcher": {"cpu": 0.3}, **dict.fromkeys(("node1", "node2"), WORKER)},
    links=[{"between": [host, "s1"], "rate": RATE, "delay": "1ms"} for host in ("dispatcher", "node1", "node2")],
    compute={"mode": "calibrated"},
    workload={"kind": "closed", "in_flight": 4, "duration": "1500ms"},
    faults=[
        {"at": "300ms", "kill": "node2"},
        {"at": "800ms", "throttle": ["node1", "s1"], "rate": "2Mbit/s", "for": "300ms"},
    ],
)

WORDS = {"nursery": "nursery", "delayline": "delay line"}
"""What people are told of each part."""

Step = Callable[[RealRun], object]


def role(name: str) -> Step:
    return lambda run: name in run.roles()


def kind(name: str) -> Step:
    return lambda run: any(line["kind"] == name for line in run.journal())


def event(name: str, **facts: object) -> Step:
    def seen(run: RealRun) -> bool:
        return any(
            found["event"] == name and all(found.get(key) == value for key, value in facts.items())
            for found in run.events()
        )

    return seen


def file(name: str) -> Step:
    return lambda run: run.folder is not None and (run.folder / name).exists()


def holds_the_lock(run: RealRun) -> bool:
    lock = run.world.runs / "lock"
    return lock.exists() and lock.stat().st_size > 0


SET_UP: dict[str, Step] = {
    "nursery starts": role("nursery"),
    "first namespace": role("shell of dispatcher"),
    "delay line starts": role("delayline"),
    "last namespace": role("shell of s1"),
    "first disk": kind("loop"),
    "first cgroup": kind("cgroup"),
    "links measured": event("check"),
    "first server": role("node1"),
    "all servers": event("host_state", state="ready"),
    "dispatcher": role("dispatcher"),
    "plan adopted": event("plan_adopted"),
    "client": event("client_ready"),
}
FITTING: dict[str, Step] = {"quotas are fitted": event("quota_probed")}
"""Only where hosts compute for real."""
RUN: dict[str, Step] = {
    "workload": event("run_started"),
    "first answer": event("request_completed"),
    "host killed": event("fault_effective", fault=0),
    "link throttled": event("fault_effective", fault=1),
}
TEARDOWN: dict[str, Step] = {
    "workload over": event("run_ended"),
    "links measured again": lambda run: any(found.get("check") == "rtt_after_ms" for found in run.events()),
    "tables": file("requests.csv"),
    "result": file("run.json"),
}
BEFORE: dict[str, Step] = {"preparation": holds_the_lock, "journal": kind("run")}


@pytest.fixture(scope="module")
def machine() -> Iterator[World]:
    """A world that others use as well: a bridge, a named namespace and a pair of interfaces into it."""
    with world() as made:
        made.run("ip", "link", "add", "br-others", "type", "bridge")
        made.run("ip", "netns", "add", "others")
        made.run("ip", "link", "add", "veth-a", "type", "veth", "peer", "name", "veth-b", "netns", "others")
        made.run("ip", "link", "set", "veth-a", "master", "br-others", "up")
        made.run("ip", "link", "set", "br-others", "up")
        assert made.testbed("clean").returncode == 0  # makes /run/testbed and its lock, which stay
        yield made


@pytest.fixture
def before(machine: World) -> Snapshot:
    return snapshot(machine)


def snapshot(machine: World) -> Snapshot:
    return machine.snapshot(f"testbed-{NAME}-")


def assert_nothing_left(machine: World, before: Snapshot, settled_s: float = SETTLED_S) -> None:
    end_s = time.monotonic() + settled_s
    while (found := difference(before, snapshot(machine))) and time.monotonic() < end_s:
        pass
    assert not found, "\n".join(found)


def assert_cleans_up(machine: World, before: Snapshot) -> None:
    for _ in ("once", "and again, which does no harm"):
        cleaned = machine.testbed("clean")
        assert cleaned.returncode == 0, cleaned.stdout + cleaned.stderr
    assert "nothing to clean" in cleaned.stdout
    assert_nothing_left(machine, before)


@pytest.mark.parametrize("step", [*BEFORE, *SET_UP, *FITTING, *RUN, *TEARDOWN])
def test_killed_runner_leaves_what_clean_removes(step: str, machine: World, before: Snapshot, tmp_path: Path) -> None:
    spec = SPEC | {"compute": {"mode": "real"}} if step in FITTING else SPEC
    with started(machine, tmp_path, spec, "--delay-backend", "delayline") as run:
        run.wait_until({**BEFORE, **SET_UP, **FITTING, **RUN, **TEARDOWN}[step])
        told = len(run.events())
        run.kill("runner")
        code, output = run.finish()
        assert code == -signal.SIGKILL, output
        assert_cleans_up(machine, before)
        if run.folder is not None:
            assert len(read_events(run.folder / "events.jsonl")) >= told
        complete = step == "result"
        assert (run.folder is not None and (run.folder / "run.json").exists()) == complete


@pytest.mark.parametrize("step", SET_UP)
@pytest.mark.parametrize("part", WORDS)
def test_part_killed_during_set_up_ends_the_run(
    part: str, step: str, machine: World, before: Snapshot, tmp_path: Path
) -> None:
    with started(machine, tmp_path, SPEC, "--delay-backend", "delayline") as run:
        run.wait_until(role(part))
        run.wait_until(SET_UP[step])
        run.kill(part)
        code, output = run.finish(PROMPT_S)
        assert code in (1, 3), output
        assert "Traceback" not in output
        assert WORDS[part] in output.split("error:")[-1]
        assert_nothing_left(machine, before)
        assert_cleans_up(machine, before)


@pytest.mark.parametrize("step", RUN)
@pytest.mark.parametrize("part", WORDS)
def test_part_killed_during_the_workload_fails_the_run(
    part: str, step: str, machine: World, before: Snapshot, tmp_path: Path
) -> None:
    with started(machine, tmp_path, SPEC, "--delay-backend", "delayline") as run:
        run.wait_until(RUN[step])
        run.kill(part)
        code, output = run.finish(PROMPT_S)
        assert code == 1, output
        assert "Traceback" not in output
        assert_nothing_left(machine, before)
        record = run.record
        assert record["outcome"] == "failed"
        assert WORDS[part] in " ".join(record["outcome_reasons"])
        assert record["verdict"] == "invalid"
        assert any(reason.startswith(f"emulation: the {WORDS[part]}") for reason in record["verdict_reasons"])
        assert_cleans_up(machine, before)


# After the links were measured again both are ended, before the tables are written.
@pytest.mark.parametrize("step", ["workload over", "links measured again"])
@pytest.mark.parametrize("part", WORDS)
def test_part_killed_after_the_workload(part: str, step: str, machine: World, before: Snapshot, tmp_path: Path) -> None:
    with started(machine, tmp_path, SPEC, "--delay-backend", "delayline") as run:
        run.wait_until(TEARDOWN[step])
        run.kill(part)
        code, output = run.finish(PROMPT_S)
        assert code in (0, 1, 4), output
        assert "Traceback" not in output
        assert_nothing_left(machine, before)
        record = run.record
        if part == "delayline" and step == "workload over":
            assert record["verdict"] == "invalid"
            assert code != 0


def test_next_run_needs_no_cleaning_before(machine: World, before: Snapshot, tmp_path: Path) -> None:
    with started(machine, tmp_path / "killed", SPEC, "--delay-backend", "delayline") as killed:
        killed.wait_until(RUN["first answer"])
        killed.kill("runner")
        killed.finish()
    with started(machine, tmp_path / "next", SPEC, "--delay-backend", "delayline") as run:
        code, output = run.finish()
        assert code in (0, 4), output
        assert run.record["outcome"] == "passed"
    assert_cleans_up(machine, before)


@pytest.mark.parametrize(
    ("size", "filled_by"), [("16k", "the history"), ("200k", "the tables and figures")], ids=["early", "late"]
)
def test_full_disk(size: str, filled_by: str, machine: World, tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    machine.run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(results))
    before = snapshot(machine)
    with started(machine, tmp_path, SPEC, "--delay-backend", "delayline") as run:
        run.results = machine.root / results.relative_to("/")
        code, output = run.finish()
        assert code == 3, output
        assert "Traceback" not in output
        told = output.partition("error:")[2]
        assert str(results) in told
        assert "No space left on device" in told
        assert "Free some space" in told
        assert_nothing_left(machine, before)
        assert run.folder is not None
        assert not (run.folder / "run.json").exists()
        assert not list(run.folder.glob("*.part"))
        events = read_events(run.folder / "events.jsonl")
        assert events
        # What fitted before the disk was full is whole; only then can a history end before the run does.
        assert any(isinstance(found, RunEnded) for found in events) == (filled_by != "the history")
    machine.run("umount", str(results))

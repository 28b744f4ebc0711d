"""Whole runs on real emulated hosts, through the command line."""

from __future__ import annotations

import itertools
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.checker.check import check_run
from tests.conftest import REPOSITORY
from tests.emulation.snapshot import Snapshot, difference
from tests.emulation.world import World, world
from tests.runner.real_run import NAME, RealRun, experiment, started

pytestmark = [pytest.mark.root, pytest.mark.slow]

CALLER = 12345
EVERYWHERE = ["compute_mode", "time_scale"]
"""The last columns of each of a run's tables."""
ATTEMPTS = 3
DETECTED_S = 0.5
"""From a kill's effect to its detection: three missed heartbeats and a reserve."""
RATE_ERROR_PCT = 3.0
RTT_ERROR_PCT, RTT_ERROR_MS = 5.0, 0.7


@pytest.fixture(scope="module")
def machine() -> Iterator[World]:
    with world() as made:
        assert made.testbed("clean").returncode == 0  # makes /run/testbed and its lock, which stay
        yield made


@pytest.fixture(autouse=True)
def nothing_is_left(machine: World) -> Iterator[None]:
    before = snapshot(machine)
    yield
    assert difference(before, snapshot(machine)) == []


def snapshot(machine: World) -> Snapshot:
    return machine.snapshot(f"testbed-{NAME}-")


Finish = Callable[..., RealRun]


@pytest.fixture(scope="module")
def finish(machine: World, tmp_path_factory: pytest.TempPathFactory) -> Finish:
    """Runs an experiment to its end; whether the emulation was valid is another question."""

    def to_its_end(spec: dict[str, Any], **environment: str) -> RealRun:
        with started(machine, tmp_path_factory.mktemp("run"), spec, environment=environment) as run:
            code, output = run.finish()
        assert code in (0, 4), output
        assert run.record["outcome"] == "passed", output
        assert run.record["verdict"] == ("invalid" if code == 4 else run.record["verdict"])
        return run

    return to_its_end


@pytest.fixture(scope="module")
def whole(finish: Finish) -> RealRun:
    """A run with both faults, called by a user through sudo.

    A stage of the small model takes less than a quota's period, in which a host runs at the machine's full speed; only
    results that are held back take the time that they should. A machine that others load makes the emulation invalid,
    and rightly so: such a run is repeated, and those that look at it run alone.
    """
    for _ in range(ATTEMPTS):
        run = finish(experiment(compute={"mode": "calibrated"}), SUDO_UID=str(CALLER), SUDO_GID=str(CALLER))
        if run.process.returncode == 0:
            break
    return run


def documented_columns() -> dict[str, list[str]]:
    """The columns of each table, in order, as ``results/README.md`` has them."""
    tables: dict[str, list[str]] = {}
    for line in (REPOSITORY / "results" / "README.md").read_text().splitlines():
        if line.startswith("## "):
            heading = re.fullmatch(r"## `(.*\.csv)`", line)
            columns = tables.setdefault(heading[1], []) if heading else []
        elif tables and (column := re.match(r"\| `(\w+)` \|", line)):
            columns.append(column[1])
    return tables


def documented_files() -> list[str]:
    text = (REPOSITORY / "results" / "README.md").read_text().partition("## `run.json`")[0]
    return re.findall(r"^\| `([\w.]+)` \|", text, re.MULTILINE)


@pytest.mark.alone
def test_every_key_of_the_record_is_documented(whole: RealRun) -> None:
    text = (REPOSITORY / "results" / "README.md").read_text().partition("\n## `run.json`")[2].partition("\n## ")[0]
    assert [key for key in whole.record if f"`{key}`" not in text] == []


@pytest.mark.alone
def test_run_is_valid(whole: RealRun) -> None:
    assert whole.process.returncode == 0, whole.output


@pytest.mark.alone
def test_every_request_is_answered_right_exactly_once(whole: RealRun) -> None:
    rows = whole.rows("requests.csv")
    assert len(rows) >= 20
    assert {row["outcome"] for row in rows} == {"ok"}
    assert len({row["id"] for row in rows}) == len(rows)
    submitted = [found for found in whole.events() if found["event"] == "request_submitted"]
    assert len(submitted) == len(rows)


@pytest.mark.alone
def test_its_tables_are_consistent(whole: RealRun) -> None:
    assert whole.folder is not None
    checked = check_run(whole.folder)
    assert checked.ruling.errors == ()
    assert checked.summary.requests["ok"] == checked.summary.submitted
    assert whole.record["checker"]["errors"] == 0
    assert any(2.0 < since_s < until_s for since_s, until_s in checked.summary.downtime)


@pytest.mark.alone
def test_kill_is_detected_and_recovered_from(whole: RealRun) -> None:
    kill, throttle = whole.rows("faults.csv")
    assert (kill["kind"], kill["target"]) == ("kill", "node2")
    assert float(kill["detected_s"]) - float(kill["effective_s"]) <= DETECTED_S
    assert float(kill["effective_s"]) <= float(kill["replanned_s"]) <= float(kill["recovered_s"])
    assert kill["lost_requests"] == "0"
    assert (throttle["kind"], throttle["target"]) == ("throttle", "node1-s1")
    assert float(throttle["healed_s"]) - float(throttle["effective_s"]) == pytest.approx(1.0, abs=0.2)
    last = max(int(row["epoch"]) for row in whole.rows("plan.csv"))
    assert last > 1
    assert "node2" not in {row["host"] for row in whole.rows("plan.csv") if int(row["epoch"]) == last}


@pytest.mark.alone
def test_files_and_columns_are_those_that_are_documented(whole: RealRun) -> None:
    assert whole.folder is not None
    assert documented_files()
    for name in documented_files():
        assert (whole.folder / name).stat().st_size > 0, name
    tables = documented_columns()
    assert len(tables) == 10
    for name, columns in tables.items():
        place = whole.results if name == "runs.csv" else whole.folder
        header = (place / name).read_bytes().partition(b"\r\n")[0].decode()
        assert header.split(",") == (columns if name == "runs.csv" else [*columns, *EVERYWHERE]), name
        assert whole.rows(name) if name != "runs.csv" else True


@pytest.mark.alone
def test_everything_belongs_to_the_caller_of_sudo(whole: RealRun) -> None:
    paths = [whole.results, *whole.results.rglob("*")]
    assert len(paths) > 15
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in paths} == {(CALLER, CALLER)}


@pytest.mark.alone
def test_links_are_what_was_asked_for(whole: RealRun) -> None:
    rows = whole.rows("fidelity.csv")
    rates = [row for row in rows if row["check"].startswith("rate_")]
    round_trips = [row for row in rows if row["check"].startswith("rtt_")]
    assert (len(rates), len(round_trips)) == (16, 8)  # four links, before and after; rates both ways
    for row in rates:
        assert abs(float(row["error_pct"])) <= RATE_ERROR_PCT, row
    for row in round_trips:
        off_ms = abs(float(row["measured"]) - float(row["requested"]))
        assert off_ms <= max(RTT_ERROR_MS, float(row["requested"]) * RTT_ERROR_PCT / 100), row


@pytest.mark.alone
def test_weights_cross_the_network(whole: RealRun) -> None:
    first = [row for row in whole.rows("plan.csv") if row["epoch"] == "1"]
    for row in first:
        assert float(row["deploy_mbit"]) * 1e6 / 8 == pytest.approx(float(row["weights_mib"]) * 2**20, rel=0.1)
        assert float(row["deploy_s"]) > 0


def test_prestaged_weights_do_not_and_arrivals_may_be_random(finish: Finish) -> None:
    run = finish(
        experiment(
            placement={"deploy": "prestaged"},
            workload={"kind": "open", "rate": "8/s", "arrivals": "poisson", "duration": "4s"},
            faults=[],
        )
    )
    for row in run.rows("plan.csv"):
        # What crosses is the stage's program and the list of what it needs.
        assert float(row["deploy_mbit"]) * 1e6 / 8 < float(row["weights_mib"]) * 2**20 / 100
    rows = run.rows("requests.csv")
    assert {row["outcome"] for row in rows} == {"ok"}
    times = [float(row["submitted_s"]) for row in rows]
    gaps = {round(after - before, 2) for before, after in itertools.pairwise(times)}
    assert len(gaps) > len(rows) / 4


def test_even_strategy_uses_every_worker(finish: Finish) -> None:
    run = finish(
        experiment(
            placement={"strategy": "even"},
            workload={"kind": "closed", "in_flight": 3, "duration": "2s"},
            faults=[],
        )
    )
    first = [row["host"] for row in run.rows("plan.csv") if row["epoch"] == "1"]
    assert first == ["node1", "node2", "node3"]
    # A busy machine may lose a host's heartbeats; what the first plan answered went through all three.
    paths = {row["path"] for row in run.rows("requests.csv") if row["epoch"] == "1"}
    assert paths == {"node1 node2 node3"}


@pytest.mark.parametrize(("number", "words"), [(signal.SIGINT, "by Ctrl-C"), (signal.SIGTERM, "by SIGTERM")])
def test_interrupted_run_heals_and_writes_its_results(
    number: signal.Signals, words: str, machine: World, tmp_path: Path
) -> None:
    spec = experiment(faults=[{"at": "500ms", "throttle": ["node1", "s1"], "rate": "2Mbit/s"}])
    with started(machine, tmp_path, spec) as run:
        run.wait_until(lambda seen: any(found["event"] == "fault_effective" for found in seen.events()))
        # A terminal sends Ctrl-C to the whole group, the runner's helpers included; nobody is patient with it.
        for _ in range(2):
            run.signal_group(number)
        code, output = run.finish()
        assert code == 1, output
        assert "Traceback" not in output
        record = run.record
        assert record["outcome"] == "failed"
        assert f"the run was interrupted: {words}" in record["outcome_reasons"]
        assert run.rows("faults.csv")[0]["healed_s"]
        assert run.rows("requests.csv")
        assert (run.folder / "report.html").exists() if run.folder else False


def test_interrupted_set_up_ends_without_a_result(machine: World, tmp_path: Path) -> None:
    with started(machine, tmp_path, experiment()) as run:
        run.wait_until(lambda seen: "node1" in seen.roles())
        run.signal_group(signal.SIGINT)
        code, output = run.finish()
        assert code == 130, output
        assert output.splitlines()[-1] == "interrupted"
        assert run.folder is not None
        assert not (run.folder / "run.json").exists()

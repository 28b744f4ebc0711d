"""The dispatcher dies and comes back, its disk fails: every request has one outcome, and the right one."""

from __future__ import annotations

import resource
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest

from testbed.serving.events import (
    EpochActive,
    Note,
    PlanAdopted,
    RequestCompleted,
    RequestSubmitted,
    ServiceState,
    StageDeployed,
    now_s,
)
from testbed.serving.journal import EPOCH_BLOCK, EPOCH_LEAP, Journal
from tests.serving.system import DISPATCHER, System, system
from tests.serving.test_system import assert_each_answered_once, halves

pytestmark = pytest.mark.slow

UNLIMITED = resource.RLIM_INFINITY


def kill(running: System, name: str = DISPATCHER) -> None:
    running.servers[name].kill()
    running.servers[name].wait(10)


def restart(running: System) -> PlanAdopted:
    """Start the dispatcher again and wait until it serves; its first plan."""
    active = len(running.of(EpochActive))
    plans = len(running.of(PlanAdopted))
    running.start_dispatcher_again()
    running.wait_for(EpochActive, active + 1)
    plan = running.of(PlanAdopted)[plans]
    assert isinstance(plan, PlanAdopted)
    return plan


def wait_answers(running: System, more: int) -> None:
    running.wait_for(RequestCompleted, len(running.of(RequestCompleted)) + more)


def wait_outcomes(running: System, outcome: str, more: int) -> None:
    before = sum(event.outcome == outcome for event in running.of(RequestCompleted))
    running.watch.wait(
        lambda e: isinstance(e, RequestCompleted) and e.outcome == outcome, before + more, 30, f"requests {outcome}"
    )


def wait_note(running: System, text: str) -> None:
    running.watch.wait(lambda e: isinstance(e, Note) and text in e.text, 1, 30, f"the note {text!r}")


def assert_each_has_one_outcome(running: System, *outcomes: str) -> None:
    asked = Counter(event.id for event in running.of(RequestSubmitted))
    assert Counter(event.id for event in running.of(RequestCompleted)) == asked
    assert {event.outcome for event in running.of(RequestCompleted)} == set(outcomes)


def journalled(running: System) -> set[int]:
    """The requests without an outcome in a running dispatcher's journal, of which a copy is opened: opening mends."""
    with tempfile.TemporaryDirectory(dir=running.folder) as folder:
        copy = shutil.copytree(running.journal, Path(folder) / "journal")
        return {request.id for request in Journal(copy).recovered.requests}


def hold_up(running: System, name: str, in_flight: int) -> None:
    """Stop a node's process, and wait until all that is in flight is in the journal."""
    running.servers[name].stop()
    end_s = now_s() + 10
    while not running.servers[name].is_stopped or len(journalled(running)) < in_flight:
        assert now_s() < end_s, f"of {in_flight} requests in flight these are journalled: {journalled(running)}"
        time.sleep(0.005)


def test_a_killed_dispatcher_comes_back_and_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    with system(tmp_path) as running:
        running.start_nodes()
        running.start_dispatcher(halves(running))
        running.start_client(duration_s=8.0, in_flight=4)
        wait_answers(running, 5)
        hold_up(running, "node2", in_flight=4)
        kill(running)
        left = Journal(running.journal).recovered.requests
        running.servers["node2"].go_on()
        again = restart(running)
        assert (again.epoch, again.reason) == (1 + EPOCH_BLOCK, "the dispatcher was started again")
        assert [stage.host for stage in again.stages] == ["node1", "node2"]
        sent = [event.bytes_sent for event in running.of(StageDeployed) if event.epoch == again.epoch]
        assert len(sent) == 2
        assert max(sent) < 50_000  # the nodes held their stages
        assert running.of(EpochActive)[1].replayed == len(left) > 0

        wait_answers(running, 5)
        kill(running)
        kill(running, "node2")  # which nobody is there to notice
        third = restart(running)
        assert third.epoch > 2 * EPOCH_BLOCK
        assert "node2" not in {stage.host for stage in third.stages}
        wait_answers(running, 1)
        assert running.finish().unanswered == 0
        assert_each_answered_once(running.history)


def test_a_damaged_or_lost_journal_costs_no_request_and_uses_no_epoch_again(tmp_path: Path) -> None:
    with system(tmp_path, workers=2) as running:
        running.start_nodes()
        running.start_dispatcher(halves(running))
        running.start_client(duration_s=6.0)
        wait_answers(running, 5)
        kill(running)
        (path,) = running.journal.iterdir()
        data = bytearray(path.read_bytes())
        data[10] ^= 0xFF  # in the header of the first record, which says what epochs may be in use
        path.write_bytes(data)
        leapt = restart(running)
        wait_note(running, "the journal is damaged")
        assert leapt.epoch > EPOCH_LEAP

        wait_answers(running, 5)
        kill(running)
        for path in running.journal.iterdir():
            path.unlink()
        assert restart(running).epoch > leapt.epoch  # the nodes know
        wait_answers(running, 1)
        assert running.finish().unanswered == 0
        assert_each_answered_once(running.history)


def test_requests_whose_deadline_passed_meanwhile_are_rejected_not_lost(tmp_path: Path) -> None:
    with system(tmp_path, workers=2) as running:
        running.start_nodes()
        running.start_dispatcher(halves(running))
        running.start_client(duration_s=1.5, deadline_s=0.3, in_flight=None, rate_rps=40.0, arrivals="uniform")
        wait_answers(running, 5)
        kill(running)
        running.wait_for(RequestSubmitted, len(running.of(RequestSubmitted)) + 20)  # in half a second
        restart(running)
        assert running.finish().unanswered == 0
        assert_each_has_one_outcome(running, "ok", "rejected")


def test_a_run_that_ends_without_a_dispatcher_says_what_is_unanswered(tmp_path: Path) -> None:
    with system(tmp_path, workers=2) as running:
        running.start_nodes()
        running.start_dispatcher(halves(running))
        running.start_client(duration_s=0.7, drain_s=0.2)
        wait_answers(running, 5)
        kill(running)
        finished = running.finish()
        completed = {event.id for event in running.of(RequestCompleted)}
        unanswered = {event.id for event in running.of(RequestSubmitted)} - completed
        assert finished.unanswered == len(unanswered) > 0
        journalled = {request.id for request in Journal(running.journal).recovered.requests}
        assert journalled - completed <= unanswered


def test_requests_are_rejected_while_the_disk_takes_no_record_of_them(tmp_path: Path) -> None:
    with system(tmp_path, workers=2) as running:
        running.start_nodes()
        running.journal.parent.mkdir(parents=True, exist_ok=True)
        running.journal.write_text("not a folder")
        running.start_dispatcher(halves(running), wait=False)
        running.wait_state("unavailable")
        (state,) = [event for event in running.of(ServiceState) if event.state == "unavailable"]
        assert "the journal can't be written" in state.detail
        running.journal.unlink()
        running.wait_state("serving")

        running.start_client(duration_s=3.0, in_flight=2)
        wait_answers(running, 5)
        pid = running.servers[DISPATCHER].pid
        # What the process may write to a file ends here; the kernel refuses more, as a full disk does.
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, UNLIMITED))
        wait_outcomes(running, "rejected", 5)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (UNLIMITED, UNLIMITED))
        wait_note(running, "the journal takes records again")
        wait_outcomes(running, "ok", 5)
        assert running.finish().unanswered == 0
        assert_each_has_one_outcome(running, "ok", "rejected")

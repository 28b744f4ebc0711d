from __future__ import annotations

import dataclasses
import json

import pytest

from runner.events import FaultFailed, HostStateChanged, RunEnded
from runner.summary import summarize
from testbed.serving.events import EpochActive, Event, PlanAdopted, RequestCompleted, RequestSubmitted
from tests.runner.story import judged


def test_the_quickstart_passed(quickstart: tuple[Event, ...]) -> None:
    found = summarize(quickstart)
    assert found.requests["ok"] == found.submitted > 100
    assert found.latency is not None
    assert found.latency.p50_ms <= found.latency.p95_ms <= found.latency.p99_ms <= found.latency.max_ms
    first, second = found.epochs
    assert first.measured_rps == pytest.approx(5.8, abs=0.2)
    assert second.measured_rps == pytest.approx(5.8, abs=0.2)  # without the time of the throttle
    assert second.stages == ("node1", "spare")
    assert second.deploy_mbit == pytest.approx(50.3, abs=0.1)
    kill, throttle = found.faults
    assert kill.detection_ms == pytest.approx(50.0)
    assert kill.recovery_s == pytest.approx(4.0, abs=0.01)
    assert kill.deploy_mbit == pytest.approx(50.3, abs=0.1)
    assert throttle.detection_ms is None
    assert throttle.deploy_s is None
    assert found.downtime == (pytest.approx((8.075, 11.55), abs=0.05),)
    assert first.measured_bottleneck is not None
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["submitted"] == found.submitted
    assert judged(quickstart).outcome == "passed"
    assert judged(quickstart).reasons == ()


def _changed(events: tuple[Event, ...], how: str) -> list[Event]:
    answers = [event for event in events if isinstance(event, RequestCompleted)]
    one = answers[5]
    match how:
        case "lost":
            return [event for event in events if event is not one]
        case "wrong":
            return [dataclasses.replace(e, outcome="wrong") if e is one else e for e in events]  # type: ignore[call-arg]
        case "doubled":
            return [*events, dataclasses.replace(one, t_s=one.t_s + 0.1)]
        case "unasked":
            return [*events, dataclasses.replace(one, id=9999)]
        case "late":
            end = next(event.t_s for event in events if isinstance(event, RunEnded))
            return [dataclasses.replace(e, t_s=end + 1) if e is one else e for e in events]
        case "dead":
            return [*events, HostStateChanged(t_s=1010.0, host="node1", state="dead", detail="signal 11")]
        case "not applied":
            return [*events, FaultFailed(t_s=1010.0, fault=1, error="tc refused")]
        case "interrupted":
            return [dataclasses.replace(e, how="interrupted") if isinstance(e, RunEnded) else e for e in events]
        case "died":
            return [event for event in events if not isinstance(event, RunEnded)]
        case "no plan":
            return [e for e in events if not (isinstance(e, PlanAdopted) and e.epoch == 2)]
        case "no epoch":
            return [e for e in events if not (isinstance(e, EpochActive) and e.epoch == 2)]
        case "no answer":
            return [event for event in events if not isinstance(event, RequestCompleted)]
    raise AssertionError(how)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("lost", "was lost: it had no outcome when the run ended"),
        ("wrong", "was answered wrongly"),
        ("doubled", "was answered 2 times"),
        ("unasked", "request 9999 was answered though never submitted"),
        ("late", "was lost: it had no outcome when the run ended"),
        ("dead", "node1 died, and no fault had killed it: signal 11"),
        ("not applied", "fault 1 could not be applied: tc refused"),
        ("interrupted", "the run was interrupted"),
        ("died", "the run has no end"),
        ("no plan", "no recovery from kill node2: no new plan was made"),
        ("no epoch", "was answered by epoch 2 before that served"),
        ("no answer", "no request was answered"),
    ],
)
def test_each_failure_is_found_and_named(quickstart: tuple[Event, ...], how: str, reason: str) -> None:
    found = judged(_changed(quickstart, how))
    assert found.outcome == "failed"
    assert any(reason in text for text in found.reasons), found.reasons


def test_a_rejection_is_no_failure(quickstart: tuple[Event, ...]) -> None:
    id_ = summarize(quickstart).submitted
    request = RequestSubmitted(t_s=1003.0, id=id_, due_s=1003.0)
    answer = RequestCompleted(t_s=1003.1, id=id_, submitted_s=1003.0, outcome="rejected", attempts=0, epoch=1, path=())
    events = [*quickstart, request, answer]
    assert summarize(events).requests["rejected"] == 1
    assert judged(events, deadline_s=0.1).outcome == "passed"
    assert judged(events, deadline_s=0.2).outcome == "failed"

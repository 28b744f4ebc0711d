"""What the dispatcher plans with: what it measured, while that is fresh; not what failed lately."""

from __future__ import annotations

import dataclasses
import queue
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from testbed.planning.plan import Assignment, Plan
from testbed.planning.problem import Problem
from testbed.serving.estimates import WINDOW, Estimates
from testbed.serving.messages import Message, Planned
from testbed.serving.patience import Patience
from testbed.serving.planner import Planner, lacks_of
from testbed.serving.policy import Policy
from tests.serving.test_recovery import BEFORE, MB, problem

ADAPTIVE = Policy(adaptive=True, drift=0.3, gain=0.1, horizon_s=600.0)


class Package:
    """A chunk for each ten operations, named after the first."""

    def chunk_sizes(self, first_op: int, last_op: int) -> dict[str, int]:
        return {str(first): 10 * MB for first in range(first_op, last_op, 10)}


def planner(
    found: Problem, policy: Policy = ADAPTIVE, *, patience: Patience | None = None
) -> tuple[Planner, queue.Queue[Message]]:
    posted: queue.Queue[Message] = queue.Queue()
    config = SimpleNamespace(
        strategy="exact",
        survey=found,
        policy=policy,
        patience=patience or Patience(),
        host="dispatcher",
        package=Package(),
    )
    names = frozenset(worker.name for worker in found.workers)
    member = SimpleNamespace(holdings={"0", "10", "20", "30"})
    nodes = SimpleNamespace(usable=lambda: names, members=dict.fromkeys(names, member), shunned_until_s=lambda: ())
    return Planner(cast(Any, config), cast(Any, nodes), posted.put), posted


def throttle(planner: Planner, source: str, target: str, rate_bps: float) -> None:
    for _ in range(WINDOW):
        planner.estimates.observe_transfer(source, target, bits=1e6, transfer_s=0.001 + 1e6 / rate_bps)


def proposal(posted: queue.Queue[Message]) -> Planned:
    found = posted.get(timeout=20)
    assert isinstance(found, Planned)
    return found


def hosts(plan: Plan | None) -> set[str]:
    assert plan is not None
    return {stage.host for stage in plan.stages}


def test_hosts_lack_the_chunks_that_they_do_not_hold() -> None:
    found = lacks_of(problem("a"), cast(Any, Package()), {"a": {"0", "30"}})
    assert found == {"a": (0, 10 * MB, 10 * MB, 0)}


def test_a_drift_is_told_once_and_a_wobble_never() -> None:
    thinker, _ = planner(problem("a", "b"))
    thinker.settle(BEFORE)
    bottleneck_s = thinker.priced(BEFORE).bottleneck_s
    throttle(thinker, "a", "b", 1e5 / (1.2 * bottleneck_s))
    assert thinker.drift(BEFORE) == ""
    throttle(thinker, "a", "b", 1e5 / (2 * bottleneck_s))
    assert "link a → b" in thinker.drift(BEFORE)
    assert thinker.drift(BEFORE) == ""
    throttle(thinker, "a", "b", 1e7)
    assert thinker.drift(BEFORE) != "", "the way back is a drift too"


def test_a_change_is_proposed_when_a_measured_rate_makes_it_pay() -> None:
    found = problem("a", "b", "c", memory_bytes=25 * MB)
    thinker, posted = planner(found)
    thinker.weigh(1, BEFORE, "looked", forced=False)
    calm = proposal(posted)
    assert calm.change is not None
    assert not calm.change.pays
    throttle(thinker, "a", "b", 1e4)
    thinker.weigh(1, BEFORE, "drifted", forced=False)
    changed = proposal(posted)
    assert changed.change is not None
    assert changed.change.pays
    assert "c" in hosts(changed.plan)
    assert changed.change.moved_bytes == 0


def test_a_path_that_failed_is_left_out_for_a_while() -> None:
    thinker, _ = planner(problem("a", "b"), patience=dataclasses.replace(Patience(), shun_s=0.05))
    thinker.shun("a", "b")
    assert ("a", "b") not in thinker.problem().paths
    until_s = thinker.shunning_until_s()
    assert until_s is not None
    time.sleep(max(0.0, until_s - time.monotonic()))
    assert ("a", "b") in thinker.problem().paths
    assert thinker.shunning_until_s() is None


def test_what_was_measured_too_long_ago_no_longer_counts() -> None:
    survey = problem("a", "b")
    now_s = 100.0
    estimates = Estimates(survey, clock=lambda: now_s)
    for _ in range(WINDOW):
        estimates.observe_transfer("a", "b", bits=1e6, transfer_s=1.001)
        estimates.observe_compute("b", 0, 2, 0.4)
    assert estimates.problem(["a", "b"], since_s=90.0).paths["a", "b"].rate_bps == pytest.approx(1e6)
    assert estimates.problem(["a", "b"], since_s=100.5) == survey
    now_s = 101.0
    estimates.observe_transfer("a", "b", bits=1e6, transfer_s=0.501)
    fresh = estimates.problem(["a", "b"], since_s=100.5)
    assert fresh.paths["a", "b"].rate_bps == pytest.approx(2e6)
    assert fresh.workers == survey.workers


WHOLE = tuple(Assignment(host, place, place + 1) for place, host in enumerate("abcd"))
"""Of a model whose two segments in the middle are residual."""


def residual(*names: str) -> Problem:
    """No host has room for more than a segment."""
    found = problem(*names, memory_bytes=12 * MB)
    return dataclasses.replace(found, chain=dataclasses.replace(found.chain, streams=(None, 1, 1, 1, None)))


def test_a_bridge_leaves_out_what_was_lost_and_is_priced() -> None:
    thinker, _ = planner(residual("a", "b", "d"))
    found = thinker.bridge(WHOLE)
    assert found is not None
    assert (found.strategy, found.skipped) == ("skip", ((20, 30),))
    assert [stage.host for stage in found.stages] == ["a", "b", "d"]
    assert 0 < found.planning_s < 0.0168
    assert thinker.priced([WHOLE[0], WHOLE[3]]).skipped == ((10, 30),)
    assert planner(residual("b", "c", "d"))[0].bridge(WHOLE) is None


def test_a_bridge_ends_with_the_whole_model_or_else_with_a_shorter_one() -> None:
    bridge = (WHOLE[0], WHOLE[3])
    thinker, posted = planner(residual("a", "b", "c", "d"), Policy(name="skip"))
    thinker.weigh(1, bridge, "c was found", forced=True, whole=WHOLE)
    found = proposal(posted)
    assert found.plan is not None
    assert found.plan.skipped == ()
    assert [stage.host for stage in found.plan.stages] == ["a", "b", "c", "d"], "what runs already is not moved"
    thinker, posted = planner(residual("a", "b", "d"), Policy(name="skip"))
    thinker.weigh(1, bridge, "b was found", forced=True, whole=WHOLE)
    shorter = proposal(posted)
    assert shorter.plan is not None
    assert shorter.plan.skipped == ((20, 30),)
    thinker.weigh(2, (*WHOLE[:2], WHOLE[3]), "once more", forced=True, whole=WHOLE)
    assert proposal(posted).plan is None

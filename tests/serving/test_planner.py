"""What the dispatcher plans with: what it measured, while that is fresh; not what failed lately."""

from __future__ import annotations

import dataclasses
import queue
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from testbed.planning.plan import Assignment, Plan
from testbed.planning.problem import Path, Problem, Worker
from testbed.planning.strategies import STRATEGIES
from testbed.serving.estimates import ARRIVALS, WINDOW, Estimates
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
    found: Problem, policy: Policy = ADAPTIVE, *, patience: Patience | None = None, strategy: str = "exact"
) -> tuple[Planner, queue.Queue[Message]]:
    posted: queue.Queue[Message] = queue.Queue()
    config = SimpleNamespace(
        strategy=strategy,
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


def tiers() -> Problem:
    """A slow device where the inputs arise, and a fast server behind a link of 4 Mbit/s."""
    found = problem("device", "server")
    chain = dataclasses.replace(found.chain, boundary_bits=(4e6, 8e6, 1e6, 1e6, 1e3))
    paths = {pair: dataclasses.replace(path, rate_bps=4e6) for pair, path in found.paths.items()}
    paths["dispatcher", "device"] = paths["device", "dispatcher"] = Path(1e12)
    workers = (Worker("device", 0.5, tier=0), Worker("server", 5.0, tier=3))
    return dataclasses.replace(found, chain=chain, paths=paths, workers=workers)


SPLIT = (Assignment("device", 0, 2), Assignment("server", 2, 4))


def where(found: Planned) -> list[tuple[str, int]]:
    assert found.plan is not None
    return [(stage.host, stage.last) for stage in found.plan.stages]


@pytest.mark.parametrize("strategy", ["dnnsplit", "dynamic", "min-latency"])
def test_a_strategy_for_latency_adapts_by_latency(strategy: str) -> None:
    """A slower link: all on the device answers sooner, though the device's compute is then the larger bottleneck."""
    found = tiers()
    thinker, posted = planner(found, strategy=strategy)
    assert [(stage.host, stage.last) for stage in STRATEGIES[strategy](found).stages] == [("device", 2), ("server", 4)]
    thinker.settle(SPLIT)
    for _ in range(WINDOW):
        thinker.estimates.observe_transfer("device", "server", bits=1e6, transfer_s=0.001 + 1e6 / 1.5e6)
    told = thinker.drift(SPLIT)
    assert "a request alone" in told
    thinker.weigh(1, SPLIT, told, forced=False)
    answer = proposal(posted)
    assert where(answer) == [("device", 4)]
    assert answer.change is not None
    assert answer.change.present is not None
    assert answer.change.pays
    assert answer.plan is not None
    assert answer.plan.bottleneck_s > answer.change.present.bottleneck_s
    assert answer.plan.latency_s < answer.change.present.latency_s / 1.1


def test_dynamic_follows_the_load_that_it_measures() -> None:
    found = dataclasses.replace(tiers(), demand_rps=0.1)
    slow = {pair: Path(1.5e6, 0.001) if "dispatcher" not in pair else path for pair, path in found.paths.items()}
    alone = (Assignment("device", 0, 4),)
    found = dataclasses.replace(found, paths=slow)
    thinker, posted = planner(found, strategy="dynamic")
    thinker.settle(alone)
    assert thinker.drift(alone) == ""
    thinker.weigh(1, alone, "looked", forced=False)
    calm = proposal(posted)
    assert calm.change is not None
    assert not calm.change.pays
    ask(
        thinker, found, 1.4
    )  # the device alone takes 0.8 s for a request; two hosts take 0.67 s at most, and 1.13 s in sum
    told = thinker.drift(alone)
    assert "requests/s are asked for; 0.1 were expected" in told
    assert thinker.drift(alone) == ""
    thinker.weigh(1, alone, told, forced=False)
    busy = proposal(posted)
    assert busy.change is not None
    assert busy.change.pays
    assert where(busy) == [("device", 2), ("server", 4)]


def test_exact_minds_no_load() -> None:
    found = tiers()
    thinker, _ = planner(found, strategy="exact")
    thinker.settle(SPLIT)
    ask(thinker, found, 1.4)
    assert thinker.drift(SPLIT) == ""


def ask(thinker: Planner, found: Problem, rate_rps: float) -> None:
    """Requests up to now, at that rate."""
    now_s = time.monotonic()
    at_s = now_s
    thinker.estimates = Estimates(found, clock=lambda: at_s)
    for number in range(ARRIVALS, 0, -1):
        at_s = now_s - number / rate_rps
        thinker.estimates.observe_request(1)
    at_s = now_s

"""The dispatcher's planning: what it knows of its cluster, and the threads that think about it.

A part of the dispatcher: the methods run on its one controlling thread; what takes long runs on threads that get
copies of what they need, and posts :class:`~testbed.serving.messages.Planned`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
import threading
from collections.abc import Collection, Mapping, Sequence

from testbed.errors import InfeasibleError
from testbed.planning.advantage import MINDS_DEMAND, advantage
from testbed.planning.evaluate import evaluate, violations
from testbed.planning.plan import Assignment, Plan, Strategy
from testbed.planning.problem import Problem
from testbed.planning.strategies import STRATEGIES
from testbed.serving.connection import Arrival
from testbed.serving.estimates import Estimates
from testbed.serving.events import ChangeWeighed, now_s
from testbed.serving.membership import Membership
from testbed.serving.messages import Change, Planned, Post
from testbed.serving.package import Package
from testbed.serving.process import DispatcherConfig
from testbed.serving.recovery import TOLERANCE, Lacks, moved_bytes, pays, replan, takeover, transfer_s
from testbed.serving.skipping import bridge, left_out_s

HURRY_S = 1.0
"""Where loads may add up a proof may take long, and requests would wait for it: the best plan so far serves."""


def _hurried(strategy: Strategy) -> Strategy:
    """The strategy as it is used while requests wait; it takes its time where it finds nothing in a hurry."""

    def solve(problem: Problem) -> Plan:
        if problem.time_limit_s > HURRY_S and problem.loads_may_add_up:
            with contextlib.suppress(InfeasibleError):
                return strategy(dataclasses.replace(problem, time_limit_s=HURRY_S))
        return strategy(problem)

    return solve


def lacks_of(problem: Problem, package: Package, holdings: Mapping[str, Collection[str]]) -> Lacks:
    """For each host, of each segment the bytes of chunks that it doesn't hold.

    Raises:
        ModelError: If the model's folder is damaged.
    """
    bounds = problem.chain.boundary_ops
    segments = [package.chunk_sizes(first, last) for first, last in itertools.pairwise(bounds)]
    return {
        host: tuple(sum(size for chunk, size in sizes.items() if chunk not in held) for sizes in segments)
        for host, held in holdings.items()
    }


def weighed(epoch: int, found: Planned, change: Change, *, changes: bool) -> ChangeWeighed:
    """The event that tells of a change that was considered, and whether it is made."""
    return ChangeWeighed(
        t_s=now_s(),
        epoch=epoch,
        reason=found.reason,
        throughput_rps=None if change.present is None else change.present.throughput_rps,
        new_throughput_rps=None if found.plan is None else found.plan.throughput_rps,
        latency_s=None if change.present is None else change.present.latency_s,
        new_latency_s=None if found.plan is None else found.plan.latency_s,
        moved_bytes=change.moved_bytes,
        move_s=change.move_s,
        changes=changes,
    )


class Planner:
    """Plans for the hosts that are there, from what was measured.

    Attributes:
        estimates: Rates and speeds as measured.
    """

    def __init__(self, config: DispatcherConfig, nodes: Membership, post: Post) -> None:
        self._config = config
        self._nodes = nodes
        self._post = post
        self._strategy = _hurried(STRATEGIES[config.strategy])
        self._broken: dict[tuple[str, str], float] = {}
        self._settled: Plan | None = None
        self._settled_demand_rps = 0.0
        self.estimates = Estimates(config.survey)

    # What is known ---------------------------------------------------------------------------------------------------

    def problem(self) -> Problem:
        """The problem of now: the usable hosts, without paths that failed lately."""
        now = now_s()
        self._broken = {pair: until_s for pair, until_s in self._broken.items() if until_s > now}
        # What carries nothing is never measured again: who adapts believes in the survey rather than in old figures.
        policy = self._config.policy
        since_s = now - policy.horizon_s if policy.adaptive else -math.inf
        problem = self.estimates.problem(self._nodes.usable(), since_s)
        paths = {pair: path for pair, path in problem.paths.items() if pair not in self._broken}
        alone_s = 0.0 if self._settled is None else self._settled.latency_s
        demand_rps = self.estimates.demand_rps(alone_s)
        return dataclasses.replace(problem, paths=paths, demand_rps=demand_rps)

    def priced(self, decision: Sequence[Assignment]) -> Plan:
        """A decision with what is expected of it now."""
        everybody = self.estimates.problem([worker.name for worker in self._config.survey.workers])
        return evaluate(everybody, decision, self._config.strategy, None, 0.0, skipping=True)

    def shun(self, source: str, target: str) -> None:
        """Don't plan with a path for a while: nothing came through."""
        self._broken[source, target] = now_s() + self._config.patience.shun_s

    def shunning_until_s(self) -> float | None:
        """When the next path or host is forgiven; None if none has to be."""
        now = now_s()
        paths = (until_s for until_s in self._broken.values() if until_s > now)
        return min([*paths, *self._nodes.shunned_until_s()], default=None)

    def learn(self, plan: Plan, arrival: Arrival) -> None:
        """What an answer tells of the paths and hosts of its plan."""
        source, frame = self._config.host, arrival.frame
        for hop, stage in zip(frame.meta.get("hops", []), plan.stages, strict=False):
            if hop["transfer_s"] is not None:
                self.estimates.observe_transfer(source, hop["host"], hop["bytes"] * 8, hop["transfer_s"])
            self.estimates.observe_compute(hop["host"], stage.first, stage.last, hop["compute_s"])
            source = hop["host"]
        if arrival.transfer_s is not None:
            self.estimates.observe_transfer(source, self._config.host, frame.payload_bytes * 8, arrival.transfer_s)

    def toils(self, plan: Plan, host: str, busy_s: float) -> None:
        """A host has been at a stage for that long, and isn't done; at which of its stages, it doesn't tell."""
        longest = max((stage for stage in plan.stages if stage.host == host), key=lambda stage: stage.compute_s)
        self.estimates.observe_compute(host, longest.first, longest.last, busy_s)

    # Drift -----------------------------------------------------------------------------------------------------------

    def settle(self, decision: Sequence[Assignment]) -> None:
        """From now on drift is measured against what is expected of a decision now."""
        self._settled = self.priced(decision)
        self._settled_demand_rps = self.problem().demand_rps

    def drift(self, decision: Sequence[Assignment]) -> str:
        """How a decision has changed since it was settled, in words; empty if little.

        What counts is what its strategy is for: the bottleneck, or the latency of a request; and for a strategy that
        minds the load how many requests are asked for. Once told, drift is measured from there: the same change isn't
        told twice.
        """
        was, now, problem = self._settled, self.priced(decision), self.problem()
        if was is None:
            return ""
        asked_rps, expected_rps = problem.demand_rps, self._settled_demand_rps
        if self._config.strategy in MINDS_DEMAND and self._drifted(asked_rps, expected_rps):
            self.settle(decision)
            return f"{asked_rps:.3g} requests/s are asked for; {expected_rps:.3g} were expected"
        if not self._drifted(1.0, advantage(problem, self._config.strategy, now, was)):
            return ""
        self.settle(decision)
        return (
            f"{now.bottleneck} takes {now.bottleneck_s * 1000:.0f} ms, a request alone {now.latency_s * 1000:.0f} ms; "
            f"{was.bottleneck_s * 1000:.0f} ms and {was.latency_s * 1000:.0f} ms were expected"
        )

    def _drifted(self, now: float, was: float) -> bool:
        """Whether a figure has changed by more than a wobble."""
        return abs(now - was) >= self._config.policy.drift * was if was else now > 0

    # Thinking --------------------------------------------------------------------------------------------------------

    def _holdings(self) -> dict[str, frozenset[str]]:
        return {host: frozenset(member.holdings) for host, member in self._nodes.members.items()}

    def bridge(self, whole: Sequence[Assignment]) -> Plan | None:
        """What to serve with at once, without some operations, where a decision has lost hosts; None if nothing.

        Raises:
            ModelError: If the model's folder is damaged.
        """
        began_s = now_s()
        problem = self.problem()
        lacks = functools.cache(lambda: lacks_of(problem, self._config.package, self._holdings()))
        decision = bridge(problem, whole, lacks)
        if decision is None:
            return None
        return evaluate(problem, decision, "skip", None, now_s() - began_s, skipping=True)

    def plan(self, epoch: int, previous: Sequence[Assignment], reason: str, *, bridging: bool) -> None:
        """Seek the plan of an epoch that has none.

        Args:
            epoch: The epoch.
            previous: The decision before.
            reason: Why a plan is needed, for people.
            bridging: Whether the least movement of weights counts rather than speed; where none is needed, nothing else
                is sought.
        """
        problem, holdings, tolerance = self.problem(), self._holdings(), math.inf if bridging else TOLERANCE

        def think() -> None:
            began_s = now_s()
            try:
                lacks = lacks_of(problem, self._config.package, holdings)
                ready = takeover(problem, self._config.strategy, previous, lacks) if bridging else None
                if ready is not None:
                    plan = dataclasses.replace(ready, planning_s=now_s() - began_s)
                else:
                    plan = replan(problem, self._strategy, previous, lacks, tolerance=tolerance)
            except InfeasibleError as error:
                self._post(Planned(epoch, None, str(error)))
            else:
                self._post(Planned(epoch, plan, reason))

        threading.Thread(target=think, name=f"plan epoch {epoch}", daemon=True).start()

    def weigh(
        self,
        epoch: int,
        current: Sequence[Assignment],
        reason: str,
        *,
        forced: bool,
        whole: Sequence[Assignment] | None = None,
    ) -> None:
        """Seek a better plan than the one that serves, or any other one if ``forced``.

        Args:
            epoch: The epoch that serves.
            current: Its decision.
            reason: Why a change may be wanted, for people.
            forced: Whether there has to be one.
            whole: Where the present decision is a bridge, the one that it stands for: what is sought then is whatever
                serves the whole model again with the least movement of weights, which is soonest; or else a bridge that
                leaves less out.
        """
        problem, holdings, policy = self.problem(), self._holdings(), self._config.policy
        name = self._config.strategy

        def think() -> None:
            possible = not violations(problem, current, skipping=True)
            present = evaluate(problem, current, name, None, 0.0, skipping=True) if possible else None
            lacks = lacks_of(problem, self._config.package, holdings)
            plan = self._other(problem, current, whole, lacks)
            if plan is None:
                self._post(Planned(epoch, None, reason, Change(present, 0, 0.0, pays=False, forced=forced)))
                return
            decision = tuple(Assignment(stage.host, stage.first, stage.last) for stage in plan.stages)
            moved, move_s = moved_bytes(problem, lacks, decision), transfer_s(problem, lacks, decision)
            times_better = math.inf if present is None else advantage(problem, name, plan, present)
            better = decision != tuple(current) and pays(times_better, move_s, policy.horizon_s, policy.gain)
            self._post(Planned(epoch, plan, reason, Change(present, moved, move_s, better, forced)))

        threading.Thread(target=think, name=f"weigh epoch {epoch}", daemon=True).start()

    def _other(
        self, problem: Problem, current: Sequence[Assignment], whole: Sequence[Assignment] | None, lacks: Lacks
    ) -> Plan | None:
        """What may take the place of what serves: the best plan; of a bridge, a whole plan or a shorter bridge."""
        try:
            if whole is None:
                return replan(problem, self._strategy, current, lacks)
            return replan(problem, self._strategy, whole, lacks, tolerance=math.inf)
        except InfeasibleError:
            decision = None if whole is None else bridge(problem, whole, lambda: lacks)
        if decision is None or left_out_s(problem, decision) >= left_out_s(problem, current):
            return None
        return evaluate(problem, decision, "skip", None, 0.0, skipping=True)

    def deploy_limit_s(self, decision: Sequence[Assignment]) -> float:
        """Time enough for a deployment: threefold what all weights of the decision take, and to spare."""
        problem = self.estimates.problem([worker.name for worker in self._config.survey.workers])
        return 3 * transfer_s(problem, {}, decision) + self._config.patience.stall_s

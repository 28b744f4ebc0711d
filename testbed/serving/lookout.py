"""Looking after an epoch that serves: is a host slow, and may another plan be better by now?

A part of the dispatcher: everything here runs on its one controlling thread.
"""

from __future__ import annotations

from collections.abc import Sequence

from testbed.planning.plan import Assignment, Plan
from testbed.serving.events import Reporter, now_s
from testbed.serving.membership import Membership
from testbed.serving.planner import Planner
from testbed.serving.process import DispatcherConfig
from testbed.serving.slowness import Slowness


class Lookout:
    """What has changed since it last looked."""

    def __init__(self, config: DispatcherConfig, report: Reporter, nodes: Membership, planner: Planner) -> None:
        self._policy = config.policy
        self._nodes = nodes
        self._planner = planner
        self._slowness = Slowness(report, config.misses * config.heartbeat_s)
        self._was_shunning = False

    def look(self, plan: Plan, weighed_s: float) -> str:
        """Why another plan may be worth a change, in words; empty if nothing has happened.

        Args:
            plan: The one that serves.
            weighed_s: When a change was considered last.
        """
        busy_s = self._nodes.busy_s()
        for host in self._slowness.watch(plan, busy_s):
            self._planner.toils(plan, host, busy_s[host])
        forgiven = self._planner.shunning_until_s() is None
        was_shunning, self._was_shunning = self._was_shunning, not forgiven
        if was_shunning and forgiven:
            return "what had failed may work again"
        if self._policy.adaptive and now_s() - weighed_s > self._policy.horizon_s:
            return "what was measured has aged"
        return ""

    def drift(self, decision: Sequence[Assignment]) -> str:
        """How a decision's bottleneck has changed, where that counts; each change is told once."""
        return self._planner.drift(decision) if self._policy.adaptive else ""

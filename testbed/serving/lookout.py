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

    def look(self, plan: Plan) -> str:
        """Which of the hosts may serve better or worse than before, in words; empty if nothing has happened.

        Args:
            plan: The one that serves.
        """
        busy_s = self._nodes.busy_s()
        for host in self._slowness.watch(plan, busy_s):
            self._planner.toils(plan, host, busy_s[host])
        forgiven = self._planner.shunning_until_s() is None
        was_shunning, self._was_shunning = self._was_shunning, not forgiven
        return "what had failed may work again" if was_shunning and forgiven else ""

    def drift(self, decision: Sequence[Assignment], weighed_s: float) -> str:
        """Why an adaptive policy should weigh a decision anew, in words; each change of its figures is told once.

        Args:
            decision: The one that serves.
            weighed_s: When a change was considered last.
        """
        if not self._policy.adaptive:
            return ""
        if drift := self._planner.drift(decision):
            return drift
        return "what was measured has aged" if now_s() - weighed_s > self._policy.horizon_s else ""

"""Telling a slow host from a dead one: its heartbeats go on while its stage stands still."""

from __future__ import annotations

from collections.abc import Mapping

from testbed.planning.plan import Plan
from testbed.serving.events import HostSlow, HostSteady, Reporter, now_s

SLOW = 5.0
"""A host that takes this many times what was expected of its stage is slow."""


class Slowness:
    """Which hosts of the plan are slow.

    Args:
        report: Told when a host becomes slow, and when it no longer is.
        least_s: Nobody is slow who takes less than this, whatever was expected.
    """

    def __init__(self, report: Reporter, least_s: float) -> None:
        self._report = report
        self._least_s = least_s
        self._slow: set[str] = set()

    def watch(self, plan: Plan, busy_s: Mapping[str, float]) -> tuple[str, ...]:
        """Compare what hosts are at with what was expected of them; returns those that are slow."""
        # A host is at one of its stages; which, it doesn't tell.
        longest = {stage.host: stage for stage in sorted(plan.stages, key=lambda stage: stage.compute_s)}
        found = {
            host: stage
            for host, stage in longest.items()
            if busy_s.get(host, 0.0) > max(self._least_s, SLOW * stage.compute_s)
        }
        for host in sorted(self._slow - found.keys()):
            self._report(HostSteady(t_s=now_s(), host=host))
        for host in sorted(found.keys() - self._slow):
            self._report(
                HostSlow(
                    t_s=now_s(),
                    host=host,
                    stage=found[host].index,
                    busy_s=busy_s[host],
                    expected_s=found[host].compute_s,
                )
            )
        self._slow = set(found)
        return tuple(found)

"""Whose fault it is that a stage can't be served: its host's, the next one's, or that of the path between them.

A part of the dispatcher: everything here runs on its one controlling thread.
"""

from __future__ import annotations

from dataclasses import dataclass

from testbed.serving.events import now_s
from testbed.serving.membership import Membership
from testbed.serving.messages import Gone, Post
from testbed.serving.planner import Planner
from testbed.serving.process import DispatcherConfig


@dataclass(frozen=True, slots=True)
class _Suspicion:
    """A host that can't reach another one, and when the path between them is to blame unless that host was lost."""

    source: str
    target: str
    reason: str
    due_s: float


class Blame:
    """Has hosts and paths that are to blame shunned.

    While a host's heartbeats go on it would be found again at once, and fail again.
    """

    def __init__(self, config: DispatcherConfig, nodes: Membership, planner: Planner, post: Post) -> None:
        self._nodes = nodes
        self._planner = planner
        self._post = post
        self._allowance_s = 2 * config.misses * config.heartbeat_s
        self._suspicion: _Suspicion | None = None

    def forget(self) -> None:
        """What was suspected was of an epoch that is over."""
        self._suspicion = None

    def failed(self, host: str, suspect: str, reason: str) -> None:
        """A host says that its stage can't be served, and whom it suspects.

        If that is the next host, its heartbeats will soon tell; if they go on, it is the path.
        """
        if suspect == host:
            self._nodes.shun(host)
            self._post(Gone(host, "failed", reason, self._nodes.members.get(host)))
        else:
            self._suspicion = _Suspicion(host, suspect, reason, now_s() + self._allowance_s)

    @property
    def due_s(self) -> float | None:
        """When a path will be to blame; None while none is suspected."""
        return None if self._suspicion is None else self._suspicion.due_s

    def verdict(self) -> str:
        """Why the epoch has to end, if a suspected path is to blame by now; else empty."""
        found = self._suspicion
        if found is None or now_s() < found.due_s:
            return ""
        self._planner.shun(found.source, found.target)
        return f"{found.source}: {found.reason}"

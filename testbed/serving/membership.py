"""Which nodes the dispatcher has: found, watched, lost.

A part of the dispatcher: everything here runs on its one controlling thread, but for the detector's, which only posts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from testbed.serving.detector import Detector
from testbed.serving.events import HostFound, HostLeaving, HostLost, Reporter, now_s
from testbed.serving.inlets import Inlets
from testbed.serving.members import Liaison, Member
from testbed.serving.messages import Gone, Post
from testbed.serving.process import DispatcherConfig


class Membership:
    """The nodes.

    Attributes:
        members: Those that are connected.
        expected: Those that have not been heard of since the start.
        leaving: Those that have asked to go; they still serve.
    """

    def __init__(
        self,
        config: DispatcherConfig,
        report: Reporter,
        post: Post,
        inlets: Inlets,
        note: Callable[[str, str], None],
    ) -> None:
        self._config = config
        self._report = report
        self._post = post
        self.members: dict[str, Member] = {}
        self.expected = set(config.nodes)
        self.leaving: set[str] = set()
        self._shunned: dict[str, float] = {}
        self._detector = Detector(
            config.token,
            config.address,
            config.heartbeat_s,
            config.misses,
            self._on_silence,
            note,
            threshold=config.policy.threshold,
            heard=inlets.heard,
        )

    def _on_silence(self, host: str, silent_s: float) -> None:
        anew = silent_s < self._config.heartbeat_s
        detail = "its server was started anew" if anew else f"silent for {silent_s * 1000:.0f} ms"
        self._post(Gone(host, "heartbeat", detail))

    def seek(self) -> None:
        """Connect to every node, and again whenever one is lost."""
        config = self._config
        for host, address in config.nodes.items():
            Liaison(host, address, config.token, config.host, self._post, config.patience)

    @property
    def newest_epoch(self) -> int:
        """The latest epoch that a node told of when it was greeted."""
        return max((member.newest_epoch for member in self.members.values()), default=0)

    def usable(self) -> frozenset[str]:
        """Hosts that a new plan may use."""
        now = now_s()
        self._shunned = {host: until_s for host, until_s in self._shunned.items() if until_s > now}
        return frozenset(self.members) - self.leaving - self._shunned.keys()

    def join(self, member: Member) -> None:
        """A node has answered."""
        self.expected.discard(member.host)
        self.leaving.discard(member.host)
        self.members[member.host] = member
        self._detector.watch(member.host, member.start)
        self._report(HostFound(t_s=now_s(), host=member.host))

    def lose(self, gone: Gone) -> bool:
        """Give a node up; False if this is no news, or news of a connection that was replaced since."""
        host = gone.host
        member = self.members.get(host)
        if gone.member is not None and gone.member is not member:
            return False
        if gone.how == "heartbeat" and self._detector.watches(host):
            return False  # of before it was found again
        if member is None and host not in self.expected:
            return False
        self.members.pop(host, None)
        self.expected.discard(host)
        left = host in self.leaving and gone.how == "connection"
        self.leaving.discard(host)
        self._detector.forget(host)
        self._report(HostLost(t_s=now_s(), host=host, how="left" if left else gone.how, detail=gone.detail))
        if member is not None:
            member.close()
        return True

    def shun(self, host: str) -> None:
        """Don't plan with a host for a while: it failed at its stage."""
        self._shunned[host] = now_s() + self._config.patience.shun_s

    def shunned_until_s(self) -> tuple[float, ...]:
        """When each host that is shunned is forgiven."""
        now = now_s()
        return tuple(until_s for until_s in self._shunned.values() if until_s > now)

    def wants_to_leave(self, host: str) -> bool:
        """A node has asked to go; False if it had asked before."""
        if host in self.leaving:
            return False
        self.leaving.add(host)
        self._report(HostLeaving(t_s=now_s(), host=host))
        return True

    def busy_s(self) -> dict[str, float]:
        """For how long each node has been computing on one request, as it tells itself."""
        return self._detector.busy_s()

    def send(self, host: str, item: Any) -> None:
        """Queue frames on a node's control connection; one that doesn't drain is lost."""
        member = self.members.get(host)
        if member is not None and not member.send(item):
            self._post(Gone(host, "connection", "its control connection doesn't drain", member))

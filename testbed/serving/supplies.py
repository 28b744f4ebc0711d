"""Which weights travel ahead of need, and to whom: copies for standbys, and what a coming plan lacks.

A part of the dispatcher: everything here runs on its one controlling thread; couriers have threads of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from testbed.planning.plan import Assignment
from testbed.planning.problem import Problem
from testbed.serving.couriers import Courier
from testbed.serving.events import Reporter, WeightsSupplied, now_s
from testbed.serving.membership import Membership
from testbed.serving.messages import Post, Supplied
from testbed.serving.process import DispatcherConfig
from testbed.serving.recovery import standbys

BACKGROUND = 0.2
"""The share of the slowest of its paths that copies for standbys may take, together."""


class Supplies:
    """The couriers on their way."""

    def __init__(self, config: DispatcherConfig, nodes: Membership, post: Post, report: Reporter) -> None:
        self._config = config
        self._nodes = nodes
        self._post = post
        self._report = report
        self._couriers: dict[Courier, tuple[str, str]] = {}

    def move(self, decision: Sequence[Assignment]) -> bool:
        """Bring the hosts of a decision what they lack, as fast as it goes; False if they lack nothing."""
        self.stop()
        for host in dict.fromkeys(at.host for at in decision):
            lacked = self._lacked(host, [at for at in decision if at.host == host])
            if lacked:
                self._send(host, lacked, None, "move")
        return bool(self._couriers)

    def provide(self, decision: Sequence[Assignment], problem: Problem) -> None:
        """Have stages copied to the storage of other hosts, slowly, in the background."""
        if self._config.policy.name != "standby":
            return
        keeping = standbys(problem, decision, self._config.policy.replicas)
        wanted = {host: self._lacked(host, stages) for host, stages in keeping.items()}
        wanted = {host: sizes for host, sizes in wanted.items() if sizes and not self._is_supplied(host)}
        rates = [
            path.rate_bps
            for (source, target), path in problem.paths.items()
            if source == problem.dispatcher and target in wanted
        ]
        for host, sizes in wanted.items():
            self._send(host, sizes, BACKGROUND * min(rates) / len(wanted), "standby")

    def _is_supplied(self, host: str) -> bool:
        return any(target == host for target, _ in self._couriers.values())

    def _lacked(self, host: str, stages: Sequence[Assignment]) -> Mapping[str, int]:
        """Chunks of these stages that a host doesn't hold."""
        member = self._nodes.members.get(host)
        if member is None:
            return {}
        bounds = self._config.survey.chain.boundary_ops
        sizes: dict[str, int] = {}
        for at in stages:
            sizes |= self._config.package.chunk_sizes(bounds[at.first], bounds[at.last])
        return {chunk_id: size for chunk_id, size in sizes.items() if chunk_id not in member.holdings}

    def _send(self, host: str, sizes: Mapping[str, int], pace_bps: float | None, purpose: str) -> None:
        config = self._config
        courier = Courier(
            host,
            config.nodes[host],
            config.token,
            config.host,
            config.package,
            sizes,
            pace_bps,
            self._post,
            config.patience,
        )
        self._couriers[courier] = host, purpose

    def ended(self, supplied: Supplied) -> bool:
        """A courier has ended; tells whether it was the last one of a move."""
        found = self._couriers.pop(supplied.courier, None)
        if found is None:
            return False  # it was cancelled
        host, purpose = found
        self._report(
            WeightsSupplied(
                t_s=now_s(), host=host, purpose=purpose, bytes_sent=supplied.sent_bytes, failure=supplied.detail
            )
        )
        return purpose == "move" and not any(other == "move" for _, other in self._couriers.values())

    def lost(self, host: str) -> None:
        """A host was lost: what was on its way to it goes nowhere."""
        self._cancel([courier for courier, (target, _) in self._couriers.items() if target == host])

    def stop(self) -> None:
        """Nothing travels ahead any more."""
        self._cancel(list(self._couriers))

    def _cancel(self, couriers: Sequence[Courier]) -> None:
        for courier in couriers:
            courier.cancel()
            del self._couriers[courier]

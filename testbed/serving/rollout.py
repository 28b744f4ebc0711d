"""Bringing a plan to its hosts: each is told its stages, sent the weights that it lacks, and heard to be ready.

A part of the dispatcher: everything here runs on its one controlling thread.
"""

from __future__ import annotations

from testbed.errors import ProtocolError
from testbed.planning.plan import Plan
from testbed.serving.deployment import Deployment, adopted
from testbed.serving.estimates import Estimates
from testbed.serving.events import Reporter, StageDeployed, now_s
from testbed.serving.members import open_pipeline
from testbed.serving.membership import Membership
from testbed.serving.messages import Post
from testbed.serving.process import DispatcherConfig
from testbed.serving.wire import Frame, FrameKind


class Rollout:
    """The deployment of one epoch; ends with :class:`~testbed.serving.messages.PipelineOpened`.

    Args:
        config: The dispatcher's.
        nodes: Who is connected.
        estimates: Told how long transfers took.
        report: For events.
        post: Takes messages.
        epoch, plan, reason: What is deployed, and why, for people.

    Attributes:
        deployment: What each host is sent and who is ready.
    """

    def __init__(
        self,
        config: DispatcherConfig,
        nodes: Membership,
        estimates: Estimates,
        report: Reporter,
        post: Post,
        epoch: int,
        plan: Plan,
        reason: str,
    ) -> None:
        self._config = config
        self._nodes = nodes
        self._estimates = estimates
        self._report = report
        self._post = post
        report(adopted(epoch, plan, reason))
        self.deployment = Deployment(epoch, plan, config.package)
        addresses = {**config.nodes, config.host: config.address}
        for host in dict.fromkeys(stage.host for stage in plan.stages):
            nodes.send(host, self.deployment.prepare(host, addresses, config.host))

    def take(self, host: str, frame: Frame) -> None:
        """Take what one of the plan's hosts says of its stages.

        Raises:
            ProtocolError: If it isn't something that it may say.
        """
        match frame.kind, frame.meta:
            case FrameKind.WANT, meta:
                self._nodes.send(host, self.deployment.chunks(host, meta.get("chunks")))
            case FrameKind.READY, {"bytes": int(received), "transfer_s": float(transfer_s)} if transfer_s > 0:
                self._estimates.observe_transfer(self._config.host, host, received * 8, transfer_s)
                self._ready(host)
            case FrameKind.READY, _:
                self._ready(host)
            case kind, _:
                raise ProtocolError(f"{kind.name} on a control connection")

    def _ready(self, host: str) -> None:
        config, deployment = self._config, self.deployment
        for stage in deployment.stages_of(host):
            self._report(
                StageDeployed(
                    t_s=now_s(),
                    epoch=deployment.epoch,
                    stage=stage.index,
                    host=host,
                    started_s=deployment.started_s,
                    bytes_sent=deployment.sent_bytes(stage.index),
                )
            )
        if deployment.ready(host):
            first = deployment.plan.stages[0].host
            open_pipeline(
                first,
                config.nodes[first],
                config.token,
                config.host,
                deployment.epoch,
                config.window,
                self._post,
                config.patience,
            )

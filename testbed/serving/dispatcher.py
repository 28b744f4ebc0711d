"""The dispatcher: admits requests, plans, deploys, feeds the pipeline, and recovers it.

One thread controls everything: it takes messages from one mailbox and alone changes the state. All waiting (reading,
sending, connecting, planning) happens on other threads, which post messages. So there is no lock around the state, and
each handler below is a step of the protocol.

States: *deploying* (first epoch) → *serving* ⇄ *recovering* → *unavailable* when too few hosts are left.
An epoch is fenced off the moment a host of its pipeline is lost: its answers don't count any more, everything in
flight goes back to the front of the queue and is sent again in the next epoch.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Mapping
from typing import Any

from testbed.errors import InfeasibleError, ProtocolError
from testbed.planning.evaluate import evaluate
from testbed.planning.plan import Plan
from testbed.planning.strategies import STRATEGIES
from testbed.serving.auth import Greeting
from testbed.serving.connection import Arrival, Listener, Writer, arrivals
from testbed.serving.deployment import Deployment, adopted
from testbed.serving.detector import Detector
from testbed.serving.estimates import Estimates
from testbed.serving.events import (
    EpochActive,
    HostFound,
    HostLost,
    Note,
    Reporter,
    ServerListening,
    ServiceState,
    StageDeployed,
    now_s,
)
from testbed.serving.ledger import Ledger, Request
from testbed.serving.mailbox import Mailbox
from testbed.serving.members import (
    Answered,
    ClientGone,
    ClientJoined,
    FromClient,
    FromNode,
    Gone,
    Joined,
    Member,
    Message,
    PipelineOpened,
    Planned,
    join,
    open_pipeline,
)
from testbed.serving.process import DispatcherConfig, reporter
from testbed.serving.recovery import replan
from testbed.serving.wire import Frame, FrameKind, Limits

CLIENT_DEPTH = 1024
DATA_LIMITS = Limits(meta_bytes=1 << 20, payload_bytes=1 << 30)


class Dispatcher:
    """See the module; :meth:`run` serves until the process ends."""

    def __init__(self, config: DispatcherConfig, report: Reporter) -> None:
        self._config = config
        self._report = report
        self._mail: Mailbox[Message] = Mailbox()
        self._state = ""
        self._epoch = 0
        self._members: dict[str, Member] = {}
        self._expected = set(config.nodes)
        self._clients: dict[str, Writer] = {}
        self._ledger = Ledger(config.window, config.queue)
        self._estimates = Estimates(config.survey)
        self._replays = 0
        self._deployment: Deployment | None = None
        self._pipeline: Writer | None = None
        self._detector = Detector(config.token, config.address, config.heartbeat_s, config.misses, self._on_silence)

    def run(self) -> None:
        """Listen, gather the nodes, deploy, serve."""
        config = self._config
        roles = {"data": self._serve_data, "client": self._serve_client}
        about = {"host": config.host}
        listener = Listener(config.address, config.token, about, roles, self._note, patience=config.patience)
        self._report(ServerListening(t_s=now_s(), host=config.host, port=listener.port))
        self._enter("deploying")
        for host, address in config.nodes.items():
            join(host, address, config.token, config.host, self._mail.put, config.patience)
        while True:
            deadline_s = self._ledger.next_deadline_s()
            with contextlib.suppress(TimeoutError):
                self._handle(self._mail.get(None if deadline_s is None else max(0.0, deadline_s - now_s())))
            self._reject_expired()

    # Peers -----------------------------------------------------------------------------------------------------------

    def _note(self, text: str) -> None:
        self._report(Note(t_s=now_s(), source=self._config.host, text=text))

    def _on_silence(self, host: str, silent_s: float) -> None:
        self._mail.put(Gone(host, "heartbeat", f"silent for {silent_s * 1000:.0f} ms"))

    def _serve_data(self, connection: socket.socket, greeting: Greeting) -> None:
        for arrival in arrivals(connection, DATA_LIMITS):
            if arrival.frame.kind is not FrameKind.DATA:
                raise ProtocolError(f"{arrival.frame.kind.name} on a data connection")
            self._mail.put(Answered(arrival))

    def _serve_client(self, connection: socket.socket, greeting: Greeting) -> None:
        writer = Writer(connection, depth=CLIENT_DEPTH, name=f"client {greeting.name}")
        self._mail.put(ClientJoined(greeting.name, writer))
        try:
            for arrival in arrivals(connection, DATA_LIMITS):
                if arrival.frame.kind is not FrameKind.SUBMIT:
                    raise ProtocolError(f"{arrival.frame.kind.name} on a client's connection")
                self._mail.put(FromClient(greeting.name, arrival.frame))
        finally:
            self._mail.put(ClientGone(greeting.name))

    # Control ---------------------------------------------------------------------------------------------------------

    def _handle(self, message: Message) -> None:
        match message:
            case Answered(arrival):
                self._answer(arrival)
            case FromClient(client, frame):
                self._submit(client, frame)
            case FromNode(host, arrival):
                self._node_frame(host, arrival)
            case Joined(member):
                self._join(member)
            case Gone(host, how, detail):
                self._lose(host, how, detail)
            case Planned(epoch, plan, reason) if epoch == self._epoch:
                self._deploy(plan, reason)
            case PipelineOpened(epoch, host, writer, detail):
                self._open(epoch, host, writer, detail)
            case ClientJoined(name, writer):
                self._clients[name] = writer
                self._tell(writer)
            case ClientGone(name):
                self._clients.pop(name).close()
                self._ledger.forget_client(name)
            case Planned():
                pass  # for an epoch that was fenced off while it was being planned

    def _enter(self, state: str, detail: str = "") -> None:
        if state != self._state:
            self._state = state
            self._report(ServiceState(t_s=now_s(), state=state, detail=detail))
            for writer in self._clients.values():
                self._tell(writer)

    def _tell(self, client: Writer) -> None:
        client.offer(Frame(FrameKind.STATE, self._epoch, meta={"state": self._state}))

    # Members ---------------------------------------------------------------------------------------------------------

    def _join(self, member: Member) -> None:
        self._members[member.host] = member
        self._detector.watch(member.host)
        self._report(HostFound(t_s=now_s(), host=member.host))
        self._gathered(member.host)

    def _lose(self, host: str, how: str, detail: str) -> None:
        member = self._members.pop(host, None)
        if member is None and host not in self._expected:
            return  # its connection broke after its heartbeats had stopped, or the other way round
        self._detector.forget(host)
        self._report(HostLost(t_s=now_s(), host=host, how=how, detail=detail))
        if member is not None:
            member.close()
        if host in self._expected:
            self._gathered(host)
        elif self._deployment is not None and host in self._deployment.hosts:
            self._fence(f"{host} was lost")

    def _gathered(self, host: str) -> None:
        """Start to plan once every node has answered or was given up."""
        self._expected.discard(host)
        if self._expected or self._epoch:
            return
        if {assignment.host for assignment in self._config.first_plan} <= self._members.keys():
            self._epoch = 1
            plan = evaluate(self._config.survey, self._config.first_plan, self._config.strategy, None, 0.0)
            self._deploy(plan, "start")
        else:
            self._fence("hosts were missing at the start")

    # Epochs ----------------------------------------------------------------------------------------------------------

    def _fence(self, reason: str) -> None:
        """End the current epoch and plan the next one."""
        self._epoch += 1
        previous = self._deployment.assignments if self._deployment is not None else self._config.first_plan
        self._deployment = None
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None
        self._replays = self._ledger.fence()
        self._enter("recovering", reason)
        problem = self._estimates.problem(self._members.keys())
        holdings = {host: tuple(member.holdings) for host, member in self._members.items()}
        epoch, strategy = self._epoch, STRATEGIES[self._config.strategy]

        def think() -> None:
            try:
                plan = replan(problem, strategy, previous, holdings)
            except InfeasibleError as error:
                self._mail.put(Planned(epoch, None, str(error)))
            else:
                self._mail.put(Planned(epoch, plan, reason))

        threading.Thread(target=think, name=f"plan epoch {epoch}", daemon=True).start()

    def _deploy(self, plan: Plan | None, reason: str) -> None:
        if plan is None:
            self._enter("unavailable", reason)
            return
        if not {stage.host for stage in plan.stages} <= self._members.keys():
            self._fence("a host was lost while planning")
            return
        self._report(adopted(self._epoch, plan, reason))
        deployment = Deployment(self._epoch, plan, self._config.package)
        self._deployment = deployment
        addresses = {**self._config.nodes, self._config.host: self._config.address}
        for index, stage in enumerate(plan.stages):
            next_host = plan.stages[index + 1].host if index + 1 < len(plan.stages) else self._config.host
            self._send(stage.host, deployment.prepare(stage.host, next_host, addresses[next_host]))

    def _send(self, host: str, item: Any) -> None:
        if not self._members[host].send(item):
            self._mail.put(Gone(host, "connection", "its control connection doesn't drain"))

    def _node_frame(self, host: str, arrival: Arrival) -> None:
        frame, deployment = arrival.frame, self._deployment
        if deployment is None or frame.epoch != deployment.epoch or host not in deployment.hosts:
            return
        match frame.kind:
            case FrameKind.WANT:
                try:
                    self._send(host, deployment.chunks(host, frame.meta.get("chunks")))
                except ProtocolError as error:
                    self._lose(host, "protocol", str(error))
            case FrameKind.READY:
                self._ready(host, deployment, frame.meta)
            case FrameKind.FAILED:
                suspect = str(frame.meta.get("suspect", host))
                self._lose(suspect, "failed", f"{host}: {frame.meta.get('reason')}")
            case _:
                self._note(f"{frame.kind.name} from {host} on its control connection")

    def _ready(self, host: str, deployment: Deployment, meta: Mapping[str, Any]) -> None:
        stage = deployment.stage_of(host)
        self._members[host].holdings.append((stage.first, stage.last))
        match meta:
            case {"bytes": int(received), "transfer_s": float(transfer_s)} if transfer_s > 0:
                self._estimates.observe_transfer(self._config.host, host, received * 8, transfer_s)
        self._report(
            StageDeployed(
                t_s=now_s(),
                epoch=deployment.epoch,
                stage=stage.index,
                host=host,
                started_s=deployment.started_s,
                bytes_sent=deployment.sent_bytes(host),
            )
        )
        if deployment.ready(host):
            first = deployment.plan.stages[0].host
            open_pipeline(
                first,
                self._config.nodes[first],
                self._config.token,
                self._config.host,
                deployment.epoch,
                self._config.window,
                self._mail.put,
                self._config.patience,
            )

    def _open(self, epoch: int, host: str, writer: Writer | None, detail: str) -> None:
        if epoch != self._epoch:
            if writer is not None:
                writer.close()
        elif writer is None:
            self._lose(host, "connection", detail)
        else:
            self._pipeline = writer
            self._report(EpochActive(t_s=now_s(), epoch=epoch, replayed=self._replays))
            self._enter("serving")
            self._feed()

    # Requests --------------------------------------------------------------------------------------------------------

    def _submit(self, client: str, frame: Frame) -> None:
        within_s = frame.meta.get("deadline_s")
        request = Request(
            id=frame.request_id,
            client=client,
            tensors=list(frame.meta.get("tensors", ())),
            payload=frame.payload[0],
            deadline_s=now_s() + within_s if isinstance(within_s, float) else None,
        )
        if self._ledger.accept(request):
            self._feed()
        else:
            self._reject(request, "the queue is full")

    def _feed(self) -> None:
        if self._pipeline is None:
            return
        for request in self._ledger.send(self._epoch):
            # A pipeline that has broken takes no more; its host will be reported as lost and the request sent again.
            self._pipeline.offer(
                Frame(FrameKind.DATA, self._epoch, request.id, {"tensors": request.tensors}, (request.payload,))
            )

    def _answer(self, arrival: Arrival) -> None:
        frame = arrival.frame
        hops = frame.meta.get("hops", [])
        if frame.epoch == self._epoch and self._deployment is not None:
            self._learn(self._deployment, hops, arrival)
        request = self._ledger.answer(frame.request_id, frame.epoch)
        if request is None:
            self._note(f"fenced off an answer to request {frame.request_id} of epoch {frame.epoch}")
            return
        meta = {
            "tensors": frame.meta.get("tensors"),
            "attempts": request.attempts,
            "epoch": frame.epoch,
            "path": [hop["host"] for hop in hops],
        }
        self._reply(request, Frame(FrameKind.ANSWER, frame.epoch, request.id, meta, frame.payload))
        self._feed()

    def _learn(self, deployment: Deployment, hops: list[Mapping[str, Any]], arrival: Arrival) -> None:
        source = self._config.host
        for hop, stage in zip(hops, deployment.plan.stages, strict=True):
            if hop["transfer_s"] is not None:
                self._estimates.observe_transfer(source, hop["host"], hop["bytes"] * 8, hop["transfer_s"])
            self._estimates.observe_compute(hop["host"], stage.first, stage.last, hop["compute_s"])
            source = hop["host"]
        if arrival.transfer_s is not None:
            bits = arrival.frame.payload_bytes * 8
            self._estimates.observe_transfer(source, self._config.host, bits, arrival.transfer_s)

    def _reject_expired(self) -> None:
        for request in self._ledger.expire(now_s()):
            self._reject(request, "its deadline has passed")

    def _reject(self, request: Request, reason: str) -> None:
        meta = {"reason": reason, "attempts": request.attempts}
        self._reply(request, Frame(FrameKind.REJECTED, self._epoch, request.id, meta))

    def _reply(self, request: Request, frame: Frame) -> None:
        client = self._clients.get(request.client)
        if client is not None and not client.offer(frame):
            client.close()  # it doesn't read its answers


def main(config: dict[str, Any], fds: list[int]) -> None:
    """Entry of the dispatcher's process.

    Args:
        config: A :class:`DispatcherConfig` as JSON.
        fds: The socket for events.
    """
    Dispatcher(DispatcherConfig.from_json(config), reporter(fds)).run()

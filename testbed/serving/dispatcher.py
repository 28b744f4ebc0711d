"""The dispatcher: admits requests, plans, deploys, feeds the pipeline, and recovers it.

One thread controls everything: it takes messages from one mailbox and alone changes the state. All waiting (reading,
sending, connecting, planning) happens on other threads, which post messages. So there is no lock around the state, and
each step of the protocol is a method of one of the three parts that share this thread: requests
(:mod:`testbed.serving.requests`), the nodes (:mod:`testbed.serving.membership`) and the epochs
(:mod:`testbed.serving.epochs`).

States: *deploying* (first epoch) → *serving* ⇄ *recovering* → *unavailable* when too few hosts are left, which ends by
itself when hosts return: the dispatcher keeps trying to reach every node that it has lost or never met. *degraded* is
serving without some of the model's operations, with the policy ``skip``; it ends by itself too.
An epoch is fenced off the moment a host of its pipeline is lost: its answers don't count any more, everything in
flight goes back to the front of the queue and is sent again in the next epoch.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from testbed.errors import ProtocolError
from testbed.serving.allocator import share_one_arena
from testbed.serving.auth import Greeting
from testbed.serving.connection import Listener, Writer, arrivals
from testbed.serving.epochs import Epochs
from testbed.serving.events import Reporter, ServerListening, ServiceState, now_s
from testbed.serving.inlets import Inlets
from testbed.serving.mailbox import Mailbox
from testbed.serving.membership import Membership
from testbed.serving.messages import (
    Answered,
    ClientGone,
    ClientJoined,
    EpochsReserved,
    FromClient,
    FromNode,
    Gone,
    Joined,
    Journalled,
    JournalNews,
    JournalOpened,
    JournalUnready,
    Message,
    PipelineOpened,
    Planned,
    Supplied,
    Unjournalled,
)
from testbed.serving.notes import Notes
from testbed.serving.process import DispatcherConfig, reporter
from testbed.serving.requests import Requests
from testbed.serving.scribe import Scribe
from testbed.serving.wire import FrameKind, Limits

CLIENT_DEPTH = 1024
PEERS_DEPTH = 16
"""Messages in the mailbox at which readers of requests and answers wait; all others never do."""

DATA_LIMITS = Limits(meta_bytes=1 << 20, payload_bytes=1 << 30)


class Dispatcher:
    """See the module; :meth:`run` serves until the process ends."""

    def __init__(self, config: DispatcherConfig, report: Reporter) -> None:
        self._config = config
        self._report = report
        self._note = Notes(report, config.host)
        self._mail: Mailbox[Message] = Mailbox()
        self._state = ""
        self._scribe = Scribe(config.journal, self._mail.put, self._note)
        self._requests = Requests(config.window, config.queue, config.package, self._scribe, self._note)
        self._inlets = Inlets()
        self._nodes = Membership(config, report, self._mail.put, self._inlets, self._note)
        self._epochs = Epochs(
            config, report, self._mail.put, self._nodes, self._requests, self._inlets, self._scribe, self._enter
        )

    def run(self) -> None:
        """Listen, gather the nodes, deploy, serve."""
        config = self._config
        roles = {"data": self._serve_data, "client": self._serve_client}
        about = {"host": config.host}
        listener = Listener(config.address, config.token, about, roles, self._note, patience=config.patience)
        self._report(ServerListening(t_s=now_s(), host=config.host, port=listener.port))
        self._enter("deploying")
        self._nodes.seek()
        while True:
            due = [
                due_s for due_s in (self._requests.next_deadline_s(), self._epochs.next_due_s()) if due_s is not None
            ]
            with contextlib.suppress(TimeoutError):
                self._handle(self._mail.get(max(0.0, min(due) - now_s()) if due else None))
            self._requests.expire()
            self._epochs.tick()

    def _handle(self, message: Message) -> None:
        match message:
            case Answered(arrival):
                self._epochs.learn(arrival)
                self._requests.answer(arrival.frame)
            case FromClient(client, frame):
                if self._requests.submit(client, frame):
                    self._epochs.asked(self._requests.unanswered)
            case FromNode(host, arrival):
                try:
                    self._epochs.node_frame(host, arrival.frame)
                except ProtocolError as error:
                    self._lose(Gone(host, "protocol", str(error)))
            case Joined(member):
                self._nodes.join(member)
                self._epochs.joined(member.host)
            case Gone():
                self._lose(message)
            case Planned():
                self._epochs.planned(message)
            case Supplied():
                self._epochs.supplied(message)
            case PipelineOpened():
                self._epochs.opened(message)
            case ClientJoined(name, writer):
                self._requests.join(name, writer)
            case ClientGone(name, writer):
                self._requests.leave(name, writer)
            case _:
                self._journal_news(message)

    def _journal_news(self, news: JournalNews) -> None:
        match news:
            case Journalled(request_ids):
                self._requests.journalled(request_ids)
            case Unjournalled(request_id, reason):
                self._requests.unjournalled(request_id, reason)
            case JournalOpened(recovered, epoch_limit):
                self._enter("deploying")
                self._requests.restore(recovered.requests)
                self._epochs.begin(recovered.standing, epoch_limit)
            case JournalUnready(reason):
                self._enter("unavailable", reason)
            case EpochsReserved(limit):
                self._epochs.reserved(limit)

    def _lose(self, gone: Gone) -> None:
        if self._nodes.lose(gone):
            self._epochs.lost(gone.host)

    def _enter(self, state: str, detail: str = "") -> None:
        if state != self._state:
            self._state = state
            self._report(ServiceState(t_s=now_s(), state=state, detail=detail))
            self._requests.tell(state)

    # What other threads do -------------------------------------------------------------------------------------------

    def _serve_data(self, connection: socket.socket, greeting: Greeting) -> None:
        with self._inlets.admit(connection, greeting.name, greeting.epoch):
            for arrival in arrivals(connection, DATA_LIMITS):
                if arrival.frame.kind is not FrameKind.DATA:
                    raise ProtocolError(f"{arrival.frame.kind.name} on a data connection")
                self._mail.put(Answered(arrival), PEERS_DEPTH)

    def _serve_client(self, connection: socket.socket, greeting: Greeting) -> None:
        writer = Writer(connection, depth=CLIENT_DEPTH, name=f"client {greeting.name}")
        self._mail.put(ClientJoined(greeting.name, writer))
        try:
            for arrival in arrivals(connection, DATA_LIMITS):
                if arrival.frame.kind is not FrameKind.SUBMIT:
                    raise ProtocolError(f"{arrival.frame.kind.name} on a client's connection")
                self._mail.put(FromClient(greeting.name, arrival.frame), PEERS_DEPTH)
        finally:
            self._mail.put(ClientGone(greeting.name, writer))


def main(config: dict[str, Any], fds: list[int]) -> None:
    """Entry of the dispatcher's process.

    Args:
        config: A :class:`DispatcherConfig` as JSON.
        fds: The socket for events.
    """
    share_one_arena()
    Dispatcher(DispatcherConfig.from_json(config), reporter(fds)).run()

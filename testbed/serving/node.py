"""The partition server: what runs on every emulated host that may hold a stage.

One control connection comes from the dispatcher and carries stages; a data connection comes from the stage before each
of them and carries tensors. A stage has threads that receive and send, one thread computes for all stages, and between
them stand bounded queues (:mod:`testbed.serving.intake`): receive → compute → send. A slow next hop fills them and so
stops the reading.

A node serves one epoch at a time. Preparing a new one ends the old one first, because a small host has no memory for
both; frames of any other epoch are dropped. Stages that are ready are connected to their next hops on a thread of its
own: a host that was lost a moment ago answers nothing for seconds, and what the control connection brings next is the
epoch that does without it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from testbed.errors import ProtocolError
from testbed.model.executor import StageExecutor
from testbed.serving.allocator import keep_freed_memory, release_freed_memory
from testbed.serving.assembly import Assembly, Shipment
from testbed.serving.auth import Greeting
from testbed.serving.computing import Stage, StageRun, computing_of
from testbed.serving.connection import Arrival, Listener, Writer, arrivals, connect
from testbed.serving.detector import Heart, Pulse
from testbed.serving.events import OutputMismatch, Reporter, ServerListening, StageExecuted, StorageTrouble, now_s
from testbed.serving.inlets import Inlets
from testbed.serving.intake import OUTBOX_DEPTH, Intake, Slot
from testbed.serving.larder import stock
from testbed.serving.mailbox import Closed
from testbed.serving.notes import Notes
from testbed.serving.process import NodeConfig, reporter
from testbed.serving.store import ChunkStore, StorageFull
from testbed.serving.wire import Frame, FrameKind, Limits

SWITCH_INTERVAL_S = 5e-4
NODE_LIMITS = Limits(meta_bytes=1 << 20, payload_bytes=1 << 30)


@dataclass(slots=True)
class Output(Frame):
    """A frame on its way out, with what the experimenter (and nobody else) is told of how it came to be."""

    computed: bool = True
    overshoot_s: float | None = None


class Node:
    """A partition server; :meth:`run` serves until the process is killed."""

    def __init__(self, config: NodeConfig, report: Reporter) -> None:
        self._config = config
        self._report = report
        self._note = Notes(report, config.host)
        self._computing = computing_of(config.pace, config.outputs, self._note)
        self._store = ChunkStore(config.store, config.storage_bytes, self._tell_of_storage)
        self._intake = Intake()
        self._ready: tuple[Slot, ...] = ()
        """Stages that are not connected to their next hops yet."""
        self._control: Writer | None = None
        self._inlets = Inlets()
        self._start = secrets.token_bytes(8)
        self._busy_since_s: float | None = None
        self._leaving = False
        self._released = threading.Event()
        self._lock = threading.Lock()
        self._at_work = threading.Lock()

    def run(self) -> None:
        """Listen, beat, and compute on the calling thread."""
        torch.set_num_threads(1)
        keep_freed_memory()
        # The heart must not wait its turn behind five milliseconds of Python, which are fifty on a tenth of a core.
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        listener = Listener(
            self._config.address,
            self._config.token,
            {"host": self._config.host, "start": self._start.hex()},
            {"control": self._serve_control, "data": self._serve_data, "storage": self._serve_storage},
            self._note,
            patience=self._config.patience,
        )
        config = self._config
        Heart(config.token, config.host, config.dispatcher, config.heartbeat_s, self._feel, self._start)
        self._report(ServerListening(t_s=now_s(), host=self._config.host, port=listener.port))
        with torch.inference_mode():
            while True:
                self._compute(*self._intake.take())

    def _tell_of_storage(self, detail: str, over: bool) -> None:
        self._report(StorageTrouble(t_s=now_s(), host=self._config.host, detail=detail, over=over))

    def _feel(self) -> Pulse:
        """What to tell with the next heartbeat; notices, too, when nothing gets through to the next hop."""
        for slot in self._intake.slots:
            writer = slot.writer
            if writer is not None and not slot.cut_off and writer.is_cut_off(self._config.patience.cut_off_s):
                slot.cut_off = True
                self._fail(slot.epoch, f"{slot.next_host} acknowledges nothing", slot.next_host)
        busy_since_s = self._busy_since_s
        busy_s = 0.0 if busy_since_s is None else now_s() - busy_since_s
        return Pulse(busy_s, self._inlets.heard(self._config.heartbeat_s))

    # Data ------------------------------------------------------------------------------------------------------------

    def _serve_data(self, connection: socket.socket, greeting: Greeting) -> None:
        with self._inlets.admit(connection, greeting.name, greeting.epoch):
            for arrival in arrivals(connection, NODE_LIMITS):
                if arrival.frame.kind is not FrameKind.DATA:
                    raise ProtocolError(f"{arrival.frame.kind.name} on a data connection")
                if not self._intake.put(arrival):
                    self._drop(arrival.frame)

    def _drop(self, frame: Frame) -> None:
        self._note(f"dropped request {frame.request_id} of epoch {frame.epoch}", "dropped")

    def _compute(self, arrival: Arrival, since_s: float) -> None:
        with self._at_work:
            slot = self._intake.slot_for(arrival)
            writer = None if slot is None else slot.writer  # the control thread may end the epoch at any moment
            if slot is None or writer is None:
                self._drop(arrival.frame)
            elif (output := self._run_stage(slot, arrival, since_s)) is None:
                self._intake.sent(slot.epoch, slot.index)
            else:
                self._hand_on(slot, writer, output)

    def _run_stage(self, slot: Slot, arrival: Arrival, since_s: float) -> Output | None:
        """What a stage makes of a request, which could have been computed since then; None if it fails."""
        frame = arrival.frame
        self._busy_since_s = now_s()
        try:
            ran = self._computing.run(slot.stage, frame, since_s)
        except ProtocolError as error:
            self._fail(slot.epoch, f"request {frame.request_id} failed in stage {slot.index}: {error}")
            return None
        finally:
            self._busy_since_s = None
        finished_s = now_s()
        self._compare(slot, frame, ran)
        hop = {
            "host": self._config.host,
            "stage": slot.index,
            "bytes": frame.payload_bytes,
            "transfer_s": arrival.transfer_s,
            "received_s": arrival.received_s,
            "compute_s": finished_s - ran.started_s,
            "started_s": ran.started_s,
            "finished_s": finished_s,
        }
        meta = {"tensors": ran.tensors, "hops": [*frame.meta.get("hops", ()), hop]}
        return Output(FrameKind.DATA, slot.epoch, frame.request_id, meta, ran.payload, ran.computed, ran.overshoot_s)

    def _hand_on(self, slot: Slot, writer: Writer, output: Output) -> None:
        try:
            writer.put(output)
        except Closed:
            self._note(f"request {output.request_id} has nowhere to go: the next hop of epoch {slot.epoch} has gone")

    def _compare(self, slot: Slot, frame: Frame, ran: StageRun) -> None:
        if ran.mismatch:
            host = self._config.host
            self._note(f"stage {slot.index} computed another output for request {frame.request_id} than was kept")
            self._report(
                OutputMismatch(t_s=now_s(), id=frame.request_id, stage=slot.index, host=host, epoch=slot.epoch)
            )

    def _on_sent(self, frame: Frame, began_s: float, ended_s: float) -> None:
        hop = frame.meta["hops"][-1]
        self._intake.sent(frame.epoch, hop["stage"])
        self._report(
            StageExecuted(
                t_s=ended_s,
                id=frame.request_id,
                stage=hop["stage"],
                host=self._config.host,
                epoch=frame.epoch,
                received_s=hop["received_s"],
                started_s=hop["started_s"],
                finished_s=hop["finished_s"],
                sent_s=ended_s,
                bytes_in=hop["bytes"],
                bytes_out=frame.payload_bytes,
                computed=not isinstance(frame, Output) or frame.computed,
                overshoot_s=frame.overshoot_s if isinstance(frame, Output) else None,
            )
        )

    # Control ---------------------------------------------------------------------------------------------------------

    def _serve_control(self, connection: socket.socket, greeting: Greeting) -> None:
        writer = Writer(connection, depth=16, name="control")
        with self._lock:
            previous, self._control = self._control, writer
        if previous is not None:
            previous.close()
        self._tell_holdings(writer)
        if self._leaving:
            writer.put(Frame(FrameKind.LEAVE))
        try:
            self._obey(connection, writer)
        finally:
            writer.close()

    def _obey(self, connection: socket.socket, writer: Writer) -> None:
        """Take stages; an illegal one ends the connection, of one that this host can't hold the dispatcher is told."""
        shipment: Shipment | None = None
        for arrival in arrivals(connection, NODE_LIMITS):
            frame = arrival.frame
            if self._control is not writer:
                return  # what a dispatcher had sent that has been started again since
            try:
                match frame.kind:
                    case FrameKind.PREPARE:
                        shipment = self._prepare(frame, writer)
                    case FrameKind.CHUNK if shipment is not None and frame.epoch == shipment.epoch:
                        shipment.add(arrival)
                    case FrameKind.CHUNK:
                        continue  # of a deployment that a newer one has replaced
                    case FrameKind.FENCED:
                        self._retire(frame.epoch)
                        if shipment is not None and shipment.epoch < frame.epoch:
                            shipment = None
                    case FrameKind.RELEASED:
                        self._released.set()
                    case _:
                        raise ProtocolError(f"{frame.kind.name} on a control connection")
                if shipment is not None and shipment.complete:
                    self._activate(shipment, writer)
                    shipment = None
            except ProtocolError as error:
                self._refuse(writer, frame.epoch, str(error))
                raise
            except (OSError, StorageFull, RuntimeError, MemoryError) as error:
                self._fail(frame.epoch, str(error))
                shipment = None

    def _tell_holdings(self, writer: Writer) -> None:
        writer.put(Frame(FrameKind.HOLDINGS, self._inlets.epoch, meta={"chunks": sorted(self._store.holdings())}))

    def _prepare(self, frame: Frame, writer: Writer) -> Shipment:
        """Start to put stages together; of those that are the same as one that the node holds, that one serves on."""
        self._retire(frame.epoch)
        shipment = Shipment(frame, self._store)
        held = self._held()
        for assembly in shipment.stages:
            assembly.executor = held.get(assembly.digest)
        if not shipment.held or held.keys() - {assembly.digest for assembly in shipment.stages}:
            held.clear()
            # What is being computed holds an old stage to its end, and there is no memory for that and a new one.
            with self._at_work:
                self._intake.serve(())
            gc.collect()
            release_freed_memory()
        missing = shipment.begin()
        if not shipment.held:
            writer.put(Frame(FrameKind.WANT, shipment.epoch, meta={"chunks": missing}))
        return shipment

    def _held(self) -> dict[str, StageExecutor]:
        """The stages that are here, by their digests; those that were not connected yet never will be."""
        with self._lock:
            held = {slot.stage.digest: slot.stage.executor for slot in (*self._intake.slots, *self._ready)}
            self._ready = ()
        return held

    def _activate(self, shipment: Shipment, writer: Writer) -> None:
        """Make the stages ready, and have them serve as soon as each is connected to its next hop."""
        epoch, slots = shipment.epoch, []
        for assembly in shipment.stages:
            executor = assembly.executor or self._warm(assembly)
            stage = Stage(executor, assembly.first_op, assembly.last_op, assembly.digest, self._config.codec)
            slots.append(Slot(epoch, assembly.stage, stage, assembly.next_host))
        with self._lock:
            self._ready = tuple(slots)
        # The thread has no hold on the stages, for which there may be no room any more when it comes to its end.
        hops = [(assembly.next_host, assembly.next_address) for assembly in shipment.stages]
        arguments = (epoch, hops, shipment.received(), writer)
        threading.Thread(target=self._launch, args=arguments, name=f"launch epoch {epoch}", daemon=True).start()

    def _launch(
        self, epoch: int, hops: Sequence[tuple[str, tuple[str, int]]], received: dict[str, Any], control: Writer
    ) -> None:
        """Connect the stages that are ready to their next hops and serve, unless a newer epoch has begun meanwhile."""
        connections: list[socket.socket] = []
        for host, address in hops:
            connection = self._connection(epoch, host, address)
            if connection is None:
                break
            connections.append(connection)
        with self._lock:
            slots = [slot for slot in self._ready if slot.epoch == epoch]
            serves = len(slots) == len(connections) == len(hops) and epoch >= self._inlets.epoch
            if serves:
                for slot, connection in zip(slots, connections, strict=True):
                    slot.writer = self._outlet(slot, connection)
                self._ready = ()
                self._intake.serve(slots)
        if serves:
            with contextlib.suppress(Closed):  # the dispatcher has gone, and will ask its next epoch of this node
                self._tell_holdings(control)
                control.put(Frame(FrameKind.READY, epoch, meta=received))
        else:
            for connection in connections:
                connection.close()

    def _warm(self, assembly: Assembly) -> StageExecutor:
        executor = StageExecutor(assembly.program, assembly.weights())
        release_freed_memory()  # the chunks' buffers
        # The first run of a stage takes several times as long as the others: kernels are chosen, memory is faulted in.
        # A stage that says it is ready has that behind it.
        executor.run([torch.zeros(spec.shape, dtype=spec.torch_dtype) for spec in assembly.program.inputs])
        return executor

    def _connection(self, epoch: int, host: str, address: tuple[str, int]) -> socket.socket | None:
        """A data connection to a next hop; None, and the dispatcher is told, where there can't be one."""
        greeting = Greeting("data", self._config.host, epoch)
        try:
            connection, _ = connect(address, self._config.token, greeting, self._config.patience)
        except (OSError, ProtocolError) as error:
            self._fail(epoch, f"can't reach {host}: {error}", suspect=host)
            return None
        return connection

    def _outlet(self, slot: Slot, connection: socket.socket) -> Writer:
        epoch, host = slot.epoch, slot.next_host
        return Writer(
            connection,
            depth=OUTBOX_DEPTH,
            name=f"stage {slot.index} of epoch {epoch}",
            on_sent=self._on_sent,
            on_error=lambda error: self._fail(epoch, f"nothing more can be sent to {host}: {error}", host),
            owns=True,
        )

    def _serve_storage(self, connection: socket.socket, greeting: Greeting) -> None:
        def stocked() -> None:
            control = self._control
            if control is not None:
                self._tell_holdings(control)

        stock(connection, self._store, NODE_LIMITS, stocked)

    def _retire(self, epoch: int) -> None:
        """End the traffic of earlier epochs; the stages stay until it is known whether they are needed."""
        with self._lock:
            self._intake.retire(epoch)
            self._inlets.fence(epoch)

    # Leaving ---------------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Ask the dispatcher for leave and end the process with status 0 when it is given, or after a time."""
        if not self._leaving:
            self._leaving = True
            threading.Thread(target=self._leave, name="leave", daemon=True).start()

    def _leave(self) -> None:
        control = self._control
        asked = control is not None and control.offer(Frame(FrameKind.LEAVE))
        if asked and not self._released.wait(self._config.patience.leave_s):
            self._note("leaves although its stage was not moved in time")
        os._exit(0)  # the interpreter's own end would wait for the computation under way

    def _fail(self, epoch: int, reason: str, suspect: str | None = None) -> None:
        """Tell the dispatcher that this epoch can't be served, and which host is to blame if not this one."""
        self._note(f"epoch {epoch}: {reason}")
        control = self._control
        if control is not None:
            control.offer(self._failure(epoch, reason, suspect or self._config.host))

    def _refuse(self, writer: Writer, epoch: int, reason: str) -> None:
        """Tell whoever sent an illegal stage so, before its connection ends."""
        sent = threading.Event()

        def frames() -> Iterator[Frame]:
            yield self._failure(epoch, reason, self._config.host)
            sent.set()

        if writer.offer(frames()):
            sent.wait(self._config.patience.greeting_s)

    @staticmethod
    def _failure(epoch: int, reason: str, suspect: str) -> Frame:
        return Frame(FrameKind.FAILED, epoch, meta={"reason": reason[:500], "suspect": suspect})


def main(config: dict[str, Any], fds: list[int]) -> None:
    """Entry of the server's process.

    Args:
        config: A :class:`NodeConfig` as JSON.
        fds: The socket for events.
    """
    node = Node(NodeConfig.from_json(config), reporter(fds))
    signal.signal(signal.SIGTERM, lambda *_: node.leave())
    node.run()

"""DEFER's chain: the protocol of its published code, with our cuts and stage programs.

A node listens on three ports: 5000 for activations, 5001 for the model and the address of the next node, 5002 for
weights. The dispatcher sends each node its weights (their number in 8 bytes, then each array), its model and next hop,
and waits for the byte 0x06. Then activations flow from the dispatcher through the chain and back to it. Every message
is its length in 8 bytes, big-endian, and its bytes in pieces of 512,000, by sockets that don't block, and ``select``
without a time-out. A node has four threads, and a queue of 1,000 between those for incoming and outgoing data.

What DEFER does when a node fails is kept too, which is nothing: each port accepts one connection and never another,
nobody connects again, there are no request numbers, and a connection that ended is read again and again. Its bugs that
keep it from answering at all are not kept, nor is its ``sleep(2)`` in place of a condition. Arrays go through ZFP,
without loss, and LZ4, as DEFER's do.
"""

from __future__ import annotations

import queue
import select
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lz4.frame
import torch
import zfpy

from benchmarks.peers.asking import Asker, stage_weights, tell_error, warmed_up
from testbed.model.executor import StageExecutor
from testbed.model.program import StageProgram, TensorSpec
from testbed.serving.events import Reporter, ServerListening, now_s
from testbed.serving.package import Package
from testbed.serving.process import reporter
from testbed.serving.wire import Buffer

DATA_PORT, MODEL_PORT, WEIGHTS_PORT = 5000, 5001, 5002
PIECE_BYTES = 512_000
QUEUE_DEPTH = 1000
ACKNOWLEDGED = b"\x06"


def encode(tensor: torch.Tensor) -> Buffer:
    """A tensor's bytes as they travel; ZFP is told of three dimensions at most, as it pads each to four."""
    array = tensor.detach().contiguous().squeeze().numpy()
    if not 1 <= array.ndim <= 3:
        array = array.reshape(-1)
    squeezed: bytes = lz4.frame.compress(zfpy.compress_numpy(array))
    return squeezed


def decode(data: Buffer, spec: TensorSpec) -> torch.Tensor:
    """The tensor that `encode` made bytes of; its shape and type are known from the program."""
    return torch.from_numpy(zfpy.decompress_numpy(lz4.frame.decompress(bytes(data)))).reshape(spec.shape)


def send(connection: socket.socket, data: Buffer) -> None:
    """A message: its length, then its bytes. Waits without end.

    Raises:
        OSError: If the connection breaks.
    """
    for part in (len(data).to_bytes(8, "big"), data):
        left = memoryview(part)
        while left:
            try:
                left = left[connection.send(left[:PIECE_BYTES]) :]
            except BlockingIOError:
                select.select([], [connection], [])


def receive(connection: socket.socket) -> bytes:
    """The next message. Waits without end, also when the peer has closed the connection, as DEFER does.

    Raises:
        OSError: If the connection breaks.
    """
    return _read(connection, int.from_bytes(_read(connection, 8), "big"))


def _read(connection: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        try:
            data += connection.recv(min(PIECE_BYTES, count - len(data)))
        except BlockingIOError:
            select.select([connection], [], [])
    return bytes(data)


def _accept(server: socket.socket) -> socket.socket:
    connection, _ = server.accept()
    connection.setblocking(False)
    return connection


def _connect(address: str, port: int) -> socket.socket:
    connection = socket.create_connection((address, port))
    connection.setblocking(False)
    return connection


def start(name: str, work: Callable[[], None], failed: Callable[[BaseException], None]) -> None:
    """A thread whose exception is told."""

    def run() -> None:
        try:
            work()
        except Exception as error:  # whatever it is, the thread ends by it
            failed(error)

    threading.Thread(target=run, name=name, daemon=True).start()


class ChainNode:
    """A node of the chain.

    Args:
        host: Its name.
        address: Its IP address.
        report: Where its events go.
    """

    def __init__(self, host: str, address: str, report: Reporter) -> None:
        self._servers = {port: socket.create_server((address, port)) for port in (DATA_PORT, MODEL_PORT, WEIGHTS_PORT)}
        self._arrays: queue.Queue[list[bytes]] = queue.Queue(1)
        self._models: queue.Queue[tuple[StageExecutor, str]] = queue.Queue(1)
        self._activations: queue.Queue[list[torch.Tensor]] = queue.Queue(QUEUE_DEPTH)
        self._program: queue.Queue[StageProgram] = queue.Queue(1)
        for work in (self._take_weights, self._take_model, self._take_data, self._give_data):
            start(work.__name__, work, lambda error: tell_error(report, host, error))
        report(ServerListening(t_s=now_s(), host=host, port=DATA_PORT))

    def _take_weights(self) -> None:
        connection = _accept(self._servers[WEIGHTS_PORT])
        count = int.from_bytes(_read(connection, 8), "big")
        self._arrays.put([receive(connection) for _ in range(count)])

    def _take_model(self) -> None:
        connection = _accept(self._servers[MODEL_PORT])
        program = StageProgram.from_json(receive(connection))
        next_address = receive(connection).decode()
        arrays = self._arrays.get()
        weights = {spec.name: decode(data, spec) for spec, data in zip(program.weight_specs, arrays, strict=True)}
        executor = warmed_up(StageExecutor(program, weights))
        self._program.put(program)
        self._models.put((executor, next_address))
        connection.sendall(ACKNOWLEDGED)

    def _take_data(self) -> None:
        connection = _accept(self._servers[DATA_PORT])
        program = self._program.get()
        while True:
            self._activations.put([decode(receive(connection), spec) for spec in program.inputs])

    def _give_data(self) -> None:
        executor, next_address = self._models.get()
        connection = _connect(next_address, DATA_PORT)
        while True:
            for tensor in executor.run(self._activations.get()):
                send(connection, encode(tensor))


def node(config: dict[str, Any], fds: list[int]) -> None:
    """Entry of a node's process; ``config`` has ``host`` and ``address``, ``fds`` the socket for events."""
    torch.set_num_threads(1)
    ChainNode(config["host"], config["address"], reporter(fds))
    threading.Event().wait()


def deploy(address: str, program: bytes, weights: Sequence[Buffer], next_address: str) -> None:
    """Send a node its stage; waits without end for its acknowledgement."""
    with _connect(address, WEIGHTS_PORT) as connection:
        connection.setblocking(True)
        connection.sendall(len(weights).to_bytes(8, "big"))
        for data in weights:
            send(connection, data)
    with _connect(address, MODEL_PORT) as connection:
        send(connection, program)
        send(connection, next_address.encode())
        _read(connection, 1)


def dispatcher(config: Mapping[str, Any], fds: list[int]) -> None:
    """Entry of the dispatcher's process: deploys, then asks.

    Args:
        config: ``host``, ``address``, ``package`` (folder of the model), ``stages`` (address, first and last operation
            of each), and what :class:`~benchmarks.peers.asking.Asker` wants.
        fds: The socket for events, and the pipe that tells the start.
    """
    torch.set_num_threads(1)
    report = reporter(fds[:1])
    package = Package(Path(config["package"]))
    stages = [(str(address), int(first), int(last)) for address, first, last in config["stages"]]
    results = socket.create_server((config["address"], DATA_PORT))
    hops = [*(address for address, _, _ in stages[1:]), config["address"]]
    for (address, first, last), next_address in zip(stages, hops, strict=True):
        program = package.parcel(first, last).program
        weights = stage_weights(package, first, last)
        names = StageProgram.from_json(program).weights
        deploy(address, program, [encode(weights[name]) for name in names], next_address)
    outputs = StageProgram.from_json(package.parcel(*stages[-1][1:]).program).outputs
    asker = Asker(config, report, config["host"])

    def take_results() -> None:
        connection = _accept(results)
        while True:
            asker.take([decode(receive(connection), spec) for spec in outputs])

    start("results", take_results, asker.fail)
    connection = _connect(stages[0][0], DATA_PORT)

    def ask(inputs: Sequence[torch.Tensor]) -> None:
        for tensor in inputs:
            send(connection, encode(tensor))

    asker.run(fds[1], ask)

"""Strangers, and peers that have gone mad: the connection is dropped, a line is written, serving goes on.

``benchmarks/hostile_input.py`` does the same with 100,000 frames.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.hostile_frames import (
    Broken,
    Mutator,
    attack_as_insider,
    attack_as_stranger,
    attack_with_datagrams,
    send_and_await_end,
)
from benchmarks.hostile_input import MEMORY_BAR_BYTES, Footprint, settled
from testbed.errors import ProtocolError
from testbed.model.chunks import ChunkSource
from testbed.model.graph import ModelGraph
from testbed.model.program import Instruction, StageProgram, TensorSpec
from testbed.model.signature import Input
from testbed.serving.auth import Greeting, new_token
from testbed.serving.connection import arrivals, connect
from testbed.serving.detector import Beat, encode_beat
from testbed.serving.events import HostLost, Note, RequestCompleted, ServerListening
from testbed.serving.package import Package, write_package
from testbed.serving.wire import Frame, FrameKind, Limits, encode_head, receive_frame, send_frame
from tests.serving.system import DISPATCHER, System, system
from tests.serving.test_system import assert_each_answered_once, halves

FRAMES = 1500


def test_the_same_seed_breaks_frames_in_the_same_ways() -> None:
    first, second = Mutator(7), Mutator(7)
    sequence = [first.broken() for _ in range(300)]
    assert sequence == [second.broken() for _ in range(300)]
    assert {broken.how for broken in sequence} == set(first.ways)


def read_all(broken: Broken) -> int:
    """How many frames a reader of a connection makes of it; only what is documented may be raised."""
    left, right = socket.socketpair()
    with left, right:
        left.sendall(broken.data)
        left.close()
        with contextlib.suppress(ProtocolError, OSError):
            return sum(1 for _ in arrivals(right, Limits(1 << 16, 1 << 20)))
    return 0


def test_a_reader_makes_frames_or_one_error_of_whatever_comes() -> None:
    mutator = Mutator(1)
    made = Counter[str]()
    for _ in range(FRAMES):
        broken = mutator.broken()
        made[broken.how] += read_all(broken)
    whole = made.pop("wrong place")
    assert whole > 0
    # Flipped bits may leave a legal frame, and keys may be optional; what is illegal by its form never gets through.
    for how in ("random bytes", "truncated", "foreign magic", "unknown kind", "oversized meta", "oversized payload"):
        assert made[how] == 0, how


def program_of(op: str) -> bytes:
    return (
        StageProgram(
            (TensorSpec("x", (1, 4), "float32"),),
            (TensorSpec("w", (1, 4), "float32"),),
            (Instruction("aten.add.Tensor", (), {}),),
            (TensorSpec("y", (1, 4), "float32"),),
            (2,),
        )
        .to_json()
        .replace(b'"args":[]', b'"args":[{"v":0},{"v":1}]')
        .replace(b"aten.add.Tensor", op.encode())
    )


WEIGHTS = ChunkSource({"w": torch.ones(1, 4)})


def prepare(op: str = "aten.add.Tensor", **changed: Any) -> Frame:
    program = program_of(op)
    manifest = WEIGHTS.manifest.to_json()
    meta = {
        "stage": 0,
        "first_op": 0,
        "last_op": 1,
        "next_host": "nobody",
        "next_address": ["127.0.0.1", 9],
        "program_bytes": len(program),
        "manifest_bytes": len(manifest),
    }
    return Frame(FrameKind.PREPARE, 9, meta={"stages": [{**meta, **changed}]}, payload=(program, manifest))


@pytest.fixture
def hermit(tmp_path: Path) -> Any:
    """A system that serves, and beside it a node of the run that has no part in it: someone to deploy mad stages to."""
    with system(tmp_path) as running:
        running.start_nodes()
        running.start_dispatcher(halves(running))
        running.addresses["hermit"] = ("127.0.7.99", running.addresses["node1"][1])
        running.start_node("hermit")
        running.watch.wait(lambda e: isinstance(e, ServerListening) and e.host == "hermit", 1, 20, "the hermit's start")
        running.start_client(duration_s=60.0, in_flight=1)
        running.wait_for(RequestCompleted, 5)
        yield running


def footprints(running: System) -> dict[str, Footprint]:
    return {name: Footprint.of(running.servers[name].pid) for name in ("node1", "hermit", DISPATCHER)}


def lines_about(running: System, text: str) -> int:
    return sum(text in note.text for note in running.of(Note))


def deploy(running: System, name: str, *frames: Frame) -> None:
    """As a dispatcher of that name would; returns when the node has dropped the connection."""
    connection, _ = connect(running.addresses["hermit"], running.token, Greeting("control", name))
    with connection:
        assert send_and_await_end(
            connection, b"".join(b"".join((encode_head(f), *map(bytes, f.payload))) for f in frames)
        )


@pytest.mark.slow
def test_serving_goes_on_whatever_comes(hermit: System, tmp_path: Path) -> None:
    running = hermit
    before = footprints(running)
    mutator = Mutator(3)
    node, hermits, dispatcher = (running.addresses[name] for name in ("node1", "hermit", DISPATCHER))

    def attack(number: int) -> bool:
        data = broken[number].data
        match number % 5:
            case 0:
                return attack_as_stranger(node, data)
            case 1:
                return attack_as_stranger(dispatcher, data)
            case 2:
                return attack_as_insider(node, running.token, "data", data)
            case 3:
                return attack_as_insider(dispatcher, running.token, ("data", "client")[number % 2], data)
        return attack_as_insider(hermits, running.token, "control", data)

    broken = [mutator.broken() for _ in range(300)]
    held = [socket.create_connection(node, timeout=10) for _ in range(100)]
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(attack, range(len(broken))))
    attack_with_datagrams(dispatcher, 2000, mutator)
    for connection in held:
        connection.close()

    # A stranger can't deploy; who holds the token can't deploy what is illegal. Each costs a connection and a line.
    with pytest.raises((ProtocolError, ConnectionError)):
        connect(hermits, new_token(), Greeting("control", DISPATCHER))
    wrong = bytes(len(WEIGHTS.chunk(next(iter(WEIGHTS.manifest.sizes)))))
    chunk = Frame(FrameKind.CHUNK, 9, meta={"chunk": next(iter(WEIGHTS.manifest.sizes))}, payload=(wrong,))
    for frames, line in (
        ([prepare("aten.system.default")], "isn't on the allow-list"),
        ([prepare(stage=77, next_address=["localhost", 9])], "whose 'stages' is \"[{'stage': 77"),
        ([prepare(program_bytes=10**9)], "a PREPARE whose programs and manifests are longer"),
        ([prepare(), chunk], "is corrupt"),
    ):
        deploy(running, f"mad because of {line}", *frames)  # a name of its own: its lines are summed up by name
        running.watch.wait(lambda e, line=line: isinstance(e, Note) and line in e.text, 1, 20, line)
        assert lines_about(running, line) == 1

    # A request that the model can't take is rejected before it can make a stage fail.
    connection, _ = connect(dispatcher, running.token, Greeting("client", "wrong"))
    with connection:
        connection.settimeout(20)
        meta = {"tensors": [["float32", [1, 4]]]}
        send_frame(connection, Frame(FrameKind.SUBMIT, 0, 10**6, meta, (bytes(16),)))
        while (frame := receive_frame(connection, Limits())) is not None and frame.kind is not FrameKind.REJECTED:
            pass
        assert frame is not None
        assert "not the model's inputs" in frame.meta["reason"]

    # Nobody's answers were touched, nobody was lost, nothing was left behind.
    answered = len(running.of(RequestCompleted))
    running.wait_for(RequestCompleted, answered + 5)
    assert {event.outcome for event in running.of(RequestCompleted)} == {"ok"}
    assert {event.attempts for event in running.of(RequestCompleted)} == {1}
    assert running.of(HostLost) == []
    for name, footprint in before.items():
        after = settled(running.servers[name].pid, footprint)
        assert after.threads <= footprint.threads, name
        assert after.descriptors <= footprint.descriptors, name
        assert after.memory_bytes - footprint.memory_bytes <= MEMORY_BAR_BYTES, name
    assert len(running.of(Note)) < 150
    for log in tmp_path.glob("*.log"):
        assert "Traceback" not in log.read_text(), log.name


def test_a_request_is_what_the_model_takes_or_it_is_not_taken(tmp_path: Path) -> None:
    inputs = (Input((1, 3, 8), "float32"), Input((1, 5), "float32", "late"))
    write_package(ModelGraph.trace(Late().eval(), inputs), tmp_path / "model")
    package = Package(tmp_path / "model")
    first, second = ["float32", [1, 3, 8]], ["float32", [1, 5]]
    whole = 128 + 20
    assert package.describes_input([first, second], whole)
    assert package.describes_input([[*first, "zstd", 10, []], second], 64 + 20)
    for tensors, length in (
        ([first, second], whole - 1),
        ([first], 96),
        ([second, first], whole),
        ([["float64", [1, 3, 8]], second], whole),
        ([[*first, "zstd", -10, []], second], whole),
        ([[*first, 5, 10, []], second], 64 + 20),
        ([["float32", {}], second], whole),
        ([None, second], whole),
        ("float32", whole),
        (None, whole),
    ):
        assert not package.describes_input(tensors, length), tensors


class Late(torch.nn.Module):
    """Two inputs of different sizes."""

    def forward(self, x: torch.Tensor, late: torch.Tensor) -> torch.Tensor:
        return x.sum() + late


@pytest.mark.slow
def test_a_foreign_process_injects_no_answer_and_no_heartbeat(tmp_path: Path) -> None:
    with system(tmp_path, workers=2) as running:
        running.start_nodes()
        running.start_dispatcher(halves(running))
        dispatcher = running.addresses[DISPATCHER]
        foreign = new_token()
        with pytest.raises((ProtocolError, ConnectionError)):
            connect(dispatcher, foreign, Greeting("data", "node2", 1))
        running.start_client(duration_s=4.0)
        running.wait_for(RequestCompleted, 3)
        stop = threading.Event()

        def lie() -> None:
            """Heartbeats in the name of a node that hangs."""
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                for sequence in range(100_000):
                    sender.sendto(encode_beat(foreign, Beat("node2", b"thestart", sequence, 0.0)), dispatcher)
                    if stop.wait(0.02):
                        return

        liar = threading.Thread(target=lie)
        liar.start()
        try:
            os.kill(running.servers["node2"].pid, signal.SIGSTOP)
            running.watch.wait(
                lambda e: isinstance(e, HostLost) and (e.host, e.how) == ("node2", "heartbeat"), 1, 20, "its loss"
            )
        finally:
            stop.set()
            liar.join(10)
        assert running.finish().unanswered == 0
        assert_each_answered_once(running.history)

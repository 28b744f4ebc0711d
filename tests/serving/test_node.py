"""A partition server by itself; the test is its dispatcher."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed.serving.auth import Greeting
from testbed.serving.connection import Listener, arrivals, connect
from testbed.serving.wire import Frame, FrameKind, Limits, send_frame
from tests.serving.system import DISPATCHER, System, system
from tests.serving.test_hostile_input import WEIGHTS, prepare

LIMITS = Limits(1 << 20, 1 << 20)
DEADLINE_S = 20.0


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[System]:
    """Nodes without a dispatcher."""
    with system(tmp_path) as running:
        running.start_nodes()
        yield running


@contextlib.contextmanager
def next_hop(token: str, served: queue.Queue[int]) -> Iterator[tuple[str, int]]:
    """Someone to send results to; puts the epoch of each connection."""
    ended = threading.Event()

    def serve(_: socket.socket, greeting: Greeting) -> None:
        served.put(greeting.epoch)
        ended.wait(DEADLINE_S)

    with contextlib.closing(Listener(("127.0.0.1", 0), token, {}, {"data": serve}, lambda *_: None)) as listener:
        try:
            yield "127.0.0.1", listener.port
        finally:
            ended.set()


def stage(epoch: int, address: tuple[str, int], host: str) -> Frame:
    frame = prepare(next_host=host, next_address=list(address))
    frame.epoch = epoch
    return frame


def test_a_next_hop_that_answers_nothing_does_not_hold_up_the_next_epoch(nodes: System) -> None:
    """As when two hosts lose their power: the first plan after the one loss still counts with the other host."""
    chunk_id = next(iter(WEIGHTS.manifest.sizes))
    served: queue.Queue[int] = queue.Queue()
    with contextlib.ExitStack() as stack:
        mute = stack.enter_context(socket.create_server(("127.0.0.1", 0)))  # it never accepts
        alive = stack.enter_context(next_hop(nodes.token, served))
        control, _ = connect(nodes.addresses["node1"], nodes.token, Greeting("control", DISPATCHER))
        stack.enter_context(control)
        control.settimeout(DEADLINE_S)
        send_frame(control, stage(1, mute.getsockname(), "gone"))
        send_frame(control, Frame(FrameKind.CHUNK, 1, meta={"chunk": chunk_id}, payload=(WEIGHTS.chunk(chunk_id),)))
        send_frame(control, Frame(FrameKind.FENCED, 2))
        send_frame(control, stage(2, alive, "alive"))
        told: list[tuple[FrameKind, int, Any]] = []
        for arrival in arrivals(control, LIMITS):
            frame = arrival.frame
            told.append((frame.kind, frame.epoch, frame.meta))
            if frame.kind in (FrameKind.READY, FrameKind.FAILED):
                break
        assert told[-1][:2] == (FrameKind.READY, 2), told
        assert served.get(timeout=DEADLINE_S) == 2
        # The stage is the same, and was here: its weights are not asked for again.
        assert [meta["chunks"] for kind, _, meta in told if kind is FrameKind.WANT] == [[chunk_id]]

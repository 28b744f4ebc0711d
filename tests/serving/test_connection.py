"""Greetings, listeners and writers on loopback."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from testbed.errors import ProtocolError
from testbed.serving.auth import Greeting, admit, new_token
from testbed.serving.connection import Listener, Writer, arrivals, connect
from testbed.serving.events import now_s
from testbed.serving.mailbox import Closed, Mailbox
from testbed.serving.patience import Patience
from testbed.serving.wire import HEADER, MAGIC, Frame, FrameKind, Limits, encode_head

TOKEN = new_token()
PATIENCE = Patience(greeting_s=2.0)
PLACES = 8


class Hall:
    """A listener that notes who was served and who was turned away; peers are served until they close."""

    def __init__(self) -> None:
        self.peers: queue.Queue[Greeting] = queue.Queue()
        self.refused: queue.Queue[str] = queue.Queue()
        self.listener = Listener(
            ("127.0.0.1", 0),
            TOKEN,
            {"host": "h"},
            {"data": self.serve, "control": self.serve},
            lambda text, topic: self.refused.put(text),
            patience=PATIENCE,
            max_greetings=PLACES,
        )
        self.address = ("127.0.0.1", self.listener.port)

    def serve(self, connection: socket.socket, greeting: Greeting) -> None:
        self.peers.put(greeting)
        connection.recv(1)


@pytest.fixture
def hall() -> Iterator[Hall]:
    hall = Hall()
    yield hall
    hall.listener.close()


def test_who_holds_the_token_is_admitted_and_told_who_answers(hall: Hall) -> None:
    connection, about = connect(hall.address, TOKEN, Greeting("data", "node1", 4))
    with connection:
        greeting = hall.peers.get(timeout=5)
    assert about == {"host": "h"}
    assert greeting == Greeting("data", "node1", 4)


def test_who_does_not_is_turned_away(hall: Hall) -> None:
    with pytest.raises((ProtocolError, ConnectionError)):
        connect(hall.address, new_token(), Greeting("data", "node1"))
    assert "signature" in hall.refused.get(timeout=5)
    assert hall.peers.empty()


def test_a_peer_with_an_unknown_role_is_turned_away(hall: Hall) -> None:
    connection, _ = connect(hall.address, TOKEN, Greeting("king", "arthur"))
    with connection:
        assert "no such role" in hall.refused.get(timeout=5)
        assert connection.recv(1) == b""


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n" + bytes(64), bytes(32), b"\xff" * 4096])
def test_strangers_are_turned_away_and_the_next_peer_is_served(hall: Hall, data: bytes) -> None:
    with socket.create_connection(hall.address, timeout=5) as stranger:
        stranger.sendall(data)
        hall.refused.get(timeout=5)
    connection, _ = connect(hall.address, TOKEN, Greeting("control", "d"))
    with connection:
        hall.peers.get(timeout=5)


def test_a_silent_peer_holds_up_nobody(hall: Hall) -> None:
    with socket.create_connection(hall.address, timeout=5):
        connection, _ = connect(hall.address, TOKEN, Greeting("control", "d"))
        with connection:
            hall.peers.get(timeout=5)


@pytest.mark.parametrize(("broken_off", "admitted"), [(2, True), (3, False)])
def test_a_greeting_that_is_broken_off_is_tried_again_a_few_times(broken_off: int, admitted: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)

        def accept() -> None:
            for _ in range(broken_off):
                server.accept()[0].close()
            if admitted:
                with server.accept()[0] as connection:
                    admit(connection, TOKEN, {"host": "h"}, PATIENCE)

        accepting = threading.Thread(target=accept)
        accepting.start()
        if admitted:
            connection, about = connect(server.getsockname(), TOKEN, Greeting("data", "node1"))
            connection.close()
            assert about == {"host": "h"}
        else:
            with pytest.raises(ConnectionResetError):
                connect(server.getsockname(), TOKEN, Greeting("data", "node1"))
        accepting.join(10)


def test_silent_peers_in_any_number_hold_up_nobody_and_have_to_go(hall: Hall) -> None:
    silent = [socket.create_connection(hall.address, timeout=5) for _ in range(5 * PLACES)]
    connection, _ = connect(hall.address, TOKEN, Greeting("control", "d"))
    with connection:
        hall.peers.get(timeout=5)
    reasons = [hall.refused.get(timeout=10) for _ in silent]
    assert sum("shown out" in reason for reason in reasons) >= 4 * PLACES
    for peer in silent:
        with contextlib.suppress(ConnectionError):
            while peer.recv(4096):
                pass
        peer.close()


def test_who_sends_a_byte_now_and_then_has_to_go_when_the_time_for_greeting_is_over(hall: Hall) -> None:
    with socket.create_connection(hall.address, timeout=5) as slow:
        started_s = time.monotonic()
        ended = threading.Event()
        with contextlib.suppress(OSError):
            while hall.refused.empty() and time.monotonic() - started_s < 30:
                slow.send(b"E")
                ended.wait(0.1)
    assert "took too long" in hall.refused.get(timeout=5) or time.monotonic() - started_s >= PATIENCE.greeting_s


def test_frames_that_say_nonsense_end_the_connection_that_they_came_on() -> None:
    left, right = socket.socketpair()
    with left, right:
        left.sendall(encode_head(Frame(FrameKind.DATA, meta={"tensors": 5})))
        with pytest.raises(ProtocolError, match="tensors"):
            next(arrivals(right, Limits()))


def test_a_frame_that_announces_more_than_its_kind_may_is_refused_before_its_body() -> None:
    left, right = socket.socketpair()
    with left, right:
        left.sendall(HEADER.pack(MAGIC, FrameKind.CHUNK, 1, 0, 0, 1 << 29))
        with pytest.raises(ProtocolError, match="CHUNK frame with a payload"):
            next(arrivals(right, Limits()))


def test_a_refused_connection_is_an_error_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        connect(("127.0.0.1", port), TOKEN, Greeting("control", "d"))


def test_a_writer_stamps_frames_and_arrivals_tell_how_long_they_took() -> None:
    left, right = socket.socketpair()
    with left, right:
        writer = Writer(left, depth=4, name="test")
        writer.put(Frame(FrameKind.CHUNK, meta={"chunk": "0" * 64}, payload=(bytes(100_000),)))
        arrival = next(arrivals(right, Limits()))
        writer.close()
    assert arrival.frame.meta["chunk"] == "0" * 64
    assert arrival.frame.meta["sent_s"] <= arrival.received_s


def test_frames_that_are_made_as_they_are_sent() -> None:
    left, right = socket.socketpair()
    with left, right:
        writer = Writer(left, depth=1, name="test")
        writer.put(Frame(FrameKind.READY, request_id=n) for n in range(5))
        incoming = arrivals(right, Limits())
        assert [next(incoming).frame.request_id for _ in range(5)] == list(range(5))
        writer.close()


def test_a_writer_whose_peer_has_gone_tells_and_takes_no_more() -> None:
    left, right = socket.socketpair()
    errors: queue.Queue[OSError] = queue.Queue()
    right.close()
    with left:
        writer = Writer(left, depth=1, name="test", on_error=errors.put)
        writer.put(Frame(FrameKind.CHUNK, payload=(bytes(1 << 20),)))
        assert isinstance(errors.get(timeout=5), ConnectionError)
        with pytest.raises(Closed):
            writer.put(Frame(FrameKind.CHUNK))
        assert not writer.offer(Frame(FrameKind.CHUNK))


@pytest.mark.parametrize("owns", [True, False])
@pytest.mark.parametrize("gone", [True, False], ids=["failed", "closed"])
def test_a_writer_closes_what_it_owns(owns: bool, gone: bool) -> None:
    """At once, not when the collector comes to what a failure has tied together: descriptors would pile up."""
    left, right = socket.socketpair()
    with left, right:
        writer = Writer(left, depth=1, name="whose", owns=owns)
        (thread,) = [one for one in threading.enumerate() if one.name == "write whose"]
        if gone:
            right.close()
            writer.put(Frame(FrameKind.CHUNK, payload=(bytes(1 << 20),)))
        else:
            writer.close()
        thread.join(5)
        assert not thread.is_alive()
        assert (left.fileno() == -1) == owns
        assert not writer.is_cut_off(3.0)


def test_closing_a_mailbox_wakes_who_waits_on_either_side() -> None:
    full: Mailbox[int] = Mailbox(1)
    full.put(1)
    empty: Mailbox[int] = Mailbox(1)
    woken: queue.Queue[str] = queue.Queue()

    def put() -> None:
        with pytest.raises(Closed):
            full.put(2)
        woken.put("put")

    def get() -> None:
        with pytest.raises(Closed):
            empty.get()
        woken.put("get")

    threads = [threading.Thread(target=put), threading.Thread(target=get)]
    for thread in threads:
        thread.start()
    full.close()
    empty.close()
    assert {woken.get(timeout=5), woken.get(timeout=5)} == {"put", "get"}
    for thread in threads:
        thread.join(5)


def test_a_mailbox_keeps_its_order_and_its_depth() -> None:
    box: Mailbox[int] = Mailbox(2)
    assert [box.offer(n) for n in range(3)] == [True, True, False]
    assert [box.get(), box.get()] == [0, 1]
    with pytest.raises(TimeoutError):
        box.get(0.01)


def encoded(size: int) -> bytes:
    frame = Frame(FrameKind.DATA, 1, meta={"tensors": [], "sent_s": now_s()}, payload=(bytes(size),))
    return encode_head(frame) + bytes(size)


def test_a_transfer_is_timed_though_its_head_came_with_the_tail_of_the_one_before() -> None:
    """As on a slow link that frames queue for."""
    sending, receiving = socket.socketpair()
    with sending, receiving:
        first, second = encoded(8_000), encoded(8_000)
        head, slow_s = 1_000, 0.2
        sending.sendall(first + second[:head])
        found = arrivals(receiving, Limits())
        timer = threading.Timer(slow_s, sending.sendall, [second[head:]])
        timer.start()
        next(found)
        timed = next(found)
        timer.join()
        assert timed.transfer_s is not None
        assert slow_s / 2 < timed.transfer_s < slow_s + 1


def test_a_transfer_is_not_timed_by_who_comes_to_read_it_too_late() -> None:
    sending, receiving = socket.socketpair()
    with sending, receiving:
        sending.sendall(encoded(8_000) + encoded(8_000))
        found = arrivals(receiving, Limits())
        assert [next(found).transfer_s for _ in range(2)] == [None, None]

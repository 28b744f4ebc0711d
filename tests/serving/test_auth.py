"""The greeting against those who don't hold the token, and those who have heard others use it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from testbed.errors import ProtocolError
from testbed.serving.auth import Greeting, admit, greet, new_token
from testbed.serving.patience import Patience
from testbed.serving.wire import GREETING_LIMITS, Frame, FrameKind, receive_frame, send_frame

TOKEN = new_token()
PATIENCE = Patience(greeting_s=5.0)
ME = Greeting("control", "dispatcher", 3)

Door = tuple[tuple[str, int], Callable[[], Greeting | Exception]]


def open_door(address: str = "127.0.0.1") -> Door:
    """An acceptor for one peer: where it listens, and who it admitted or why it didn't."""
    server = socket.create_server((address, 0))
    outcome: list[Greeting | Exception] = []

    def run() -> None:
        with server, server.accept()[0] as connection:
            try:
                outcome.append(admit(connection, TOKEN, {"host": "node1"}, PATIENCE))
            except (OSError, ProtocolError) as error:
                outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def result() -> Greeting | Exception:
        thread.join(20)
        return outcome[0]

    return server.getsockname(), result


@pytest.fixture
def client() -> Iterator[Callable[[tuple[str, int]], socket.socket]]:
    opened: list[socket.socket] = []

    def connect(address: tuple[str, int]) -> socket.socket:
        opened.append(socket.create_connection(address, timeout=10))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


Connect = Callable[[tuple[str, int]], socket.socket]


def receive(connection: socket.socket) -> Frame:
    frame = receive_frame(connection, GREETING_LIMITS)
    assert frame is not None
    return frame


def test_both_sides_know_each_other_afterwards(client: Connect) -> None:
    address, result = open_door()
    assert greet(client(address), TOKEN, ME, PATIENCE) == {"host": "node1"}
    assert result() == ME


def greet_in_vain(connection: socket.socket) -> None:
    with contextlib.suppress(OSError, ProtocolError):
        greet(connection, TOKEN, ME, PATIENCE)
        raise AssertionError("nobody here can sign a welcome")


def recorded_hello() -> Frame:
    """A true greeting, as somebody on the network would have recorded it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        thread = threading.Thread(target=greet_in_vain, args=(ours,))
        thread.start()
        send_frame(theirs, Frame(FrameKind.CHALLENGE, meta={"nonce": "00"}))
        hello = receive(theirs)
        theirs.close()
        thread.join(10)
    return hello


def test_a_recorded_greeting_opens_no_door(client: Connect) -> None:
    address, result = open_door()
    connection = client(address)
    assert receive(connection).kind is FrameKind.CHALLENGE
    send_frame(connection, recorded_hello())
    assert "signature" in str(result())


def test_a_greeting_passed_on_to_another_host_is_refused_there(client: Connect) -> None:
    """Somebody has taken a dead node's address, and passes what the dispatcher says there on to a living one."""
    living, result = open_door("127.0.0.2")
    to_living = client(living)
    challenge = receive(to_living)
    with socket.create_server(("127.0.0.1", 0)) as dead:
        mine = client(dead.getsockname())
        thread = threading.Thread(target=greet_in_vain, args=(mine,))
        thread.start()
        with dead.accept()[0] as heard:
            send_frame(heard, challenge)
            send_frame(to_living, receive(heard))
            assert "meant for" in str(result())
        thread.join(10)


@pytest.mark.parametrize(
    "welcome", [{"host": "node1"}, {"host": "node1", "mac": "00"}, {"mac": None}, {"mac": "\ud800"}]
)
def test_who_can_not_sign_a_welcome_is_believed_nothing(welcome: dict[str, Any]) -> None:
    ours, theirs = socket.socketpair()
    errors: list[Exception] = []

    def run() -> None:
        try:
            greet(ours, TOKEN, ME, PATIENCE)
        except ProtocolError as error:
            errors.append(error)

    with ours, theirs:
        thread = threading.Thread(target=run)
        thread.start()
        send_frame(theirs, Frame(FrameKind.CHALLENGE, meta={"nonce": "00"}))
        receive(theirs)
        send_frame(theirs, Frame(FrameKind.WELCOME, meta=welcome))
        thread.join(10)
    assert "welcome" in str(errors[0])


@pytest.mark.parametrize(
    "hello",
    [
        {},
        {"mac": 5},
        {"mac": "\ud800"},
        {"mac": None, "role": []},
        {"role": "data", "name": "x", "epoch": 1, "mac": ""},
    ],
)
def test_a_greeting_that_is_nonsense_is_refused(client: Connect, hello: dict[str, Any]) -> None:
    address, result = open_door()
    connection = client(address)
    receive(connection)
    send_frame(connection, Frame(FrameKind.HELLO, meta=hello))
    assert isinstance(result(), ProtocolError)

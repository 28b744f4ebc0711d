"""The lobby: a bounded number of strangers, of whom none keeps the others out."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from testbed.serving.lobby import Lobby

Ends = list[tuple[socket.socket, socket.socket]]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """Connections: ours and theirs."""
    made = [socket.socketpair() for _ in range(6)]
    yield made
    for ours, theirs in made:
        ours.close()
        theirs.close()


def leave_when_shown_out(lobby: Lobby, ours: socket.socket) -> threading.Thread:
    """What a greeting's thread does: it reads until the connection ends."""

    def run() -> None:
        ours.recv(1)
        lobby.leave(ours)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_the_oldest_of_the_address_with_most_peers_has_to_go(ends: Ends) -> None:
    lobby = Lobby(3)
    (quiet, _), (first, _), (second, second_end), (new, _), *_ = ends
    lobby.enter(quiet, "10.0.0.1")
    lobby.enter(first, "10.0.0.9")
    lobby.enter(second, "10.0.0.9")
    thread = leave_when_shown_out(lobby, first)
    assert lobby.enter(new, "10.0.0.2") == 1
    thread.join(5)
    assert len(lobby) == 3
    assert not lobby.leave(quiet)
    assert not lobby.leave(second)
    second.send(b"x")  # it is still connected
    assert second_end.recv(1) == b"x"


def test_a_peer_that_was_shown_out_learns_it_when_it_leaves(ends: Ends) -> None:
    lobby = Lobby(1)
    (first, first_end), (new, _), *_ = ends
    lobby.enter(first, "10.0.0.9")
    told: list[bool] = []

    def leave() -> None:
        first.recv(1)
        told.append(lobby.leave(first))

    thread = threading.Thread(target=leave)
    thread.start()
    assert lobby.enter(new, "10.0.0.9") == 1
    thread.join(5)
    assert told == [True]
    assert first_end.recv(1) == b""
    assert not lobby.leave(first)


def test_room_is_used_before_anybody_has_to_go(ends: Ends) -> None:
    lobby = Lobby(len(ends))
    assert [lobby.enter(ours, "10.0.0.9") for ours, _ in ends] == [0] * len(ends)
    assert not lobby.leave(ends[0][0])
    assert lobby.enter(ends[0][0], "10.0.0.9") == 0

"""A power cut on the emulated network: no frame leaves the host, and none comes when it is back."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from testbed.emulation.cluster import Cluster
from testbed.emulation.connections import connections
from testbed.emulation.namespace import entered
from tests.emulation.emulated import cluster, star

pytestmark = pytest.mark.root

PORT = 7000
WAIT_S = 20.0
SILENCE_S = 1.5
"""An unanswered FIN is sent again after 0.2 s, 0.4 s …"""
ETH_P_ALL = 3
FIN, RST = 0x01, 0x04


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(star(2, rate="20Mbit/s"), tmp_path_factory.mktemp("run")) as started:
        yield started


@contextlib.contextmanager
def connected(made: Cluster) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The ends of a connection: of h1, which will lose its power, and of h2."""
    with entered(made.host_pid("h1")):
        listener = socket.create_server((made.network.address("h1"), PORT))
    with listener:
        with entered(made.host_pid("h2")):
            other = socket.create_connection(listener.getsockname(), timeout=WAIT_S)
        own, _ = listener.accept()
    with own, other:
        own.settimeout(WAIT_S)
        yield own, other


@contextlib.contextmanager
def overheard(made: Cluster) -> Iterator[socket.socket]:
    """Hears all frames at the switch."""
    with entered(made.switch_pid("s1")):
        ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    with ear:
        yield ear


def frames_of(ear: socket.socket, address: str, quiet_s: float) -> list[int]:
    """The TCP flags of all frames that come from an address within a time."""
    found, until_s = [], time.monotonic() + quiet_s
    while (left_s := until_s - time.monotonic()) > 0:
        ear.settimeout(left_s)
        try:
            frame = ear.recv(65536)
        except TimeoutError:
            break
        if frame[12:14] == b"\x08\x00" and frame[26:30] == socket.inet_aton(address):
            header = 14 + (frame[14] & 0x0F) * 4
            found.append(frame[header + 13] if frame[23] == socket.IPPROTO_TCP else 0)
    return found


def test_a_crash_is_told_to_the_peer(made: Cluster) -> None:
    # What a power cut is compared with: so much is heard of a process that dies with its links up.
    with connected(made) as (own, other), overheard(made) as ear:
        own.close()
        assert other.recv(10) == b""
        assert any(flags & FIN for flags in frames_of(ear, made.network.address("h1"), 0.3))


def test_a_power_cut_is_silent_and_is_not_told_afterwards(made: Cluster) -> None:
    address = made.network.address("h1")
    with connected(made) as (own, other):
        other.sendall(b"unread")
        made.disconnect_host("h1")
        try:
            with overheard(made) as ear:
                own.sendall(b"never sent")
                own.close()  # as at the end of its process
                assert frames_of(ear, address, 0.5) == []
                assert connections(made.host_pid("h1"), address)
                made.forget_connections("h1")
                assert connections(made.host_pid("h1"), address) == ()
        finally:
            made.reconnect_host("h1")
        other.settimeout(SILENCE_S)
        with pytest.raises(TimeoutError):
            other.recv(10)
        # A machine that has just been switched on knows of no connection.
        other.settimeout(WAIT_S)
        other.sendall(b"are you there?")
        with pytest.raises(ConnectionResetError):
            other.recv(10)


def test_what_a_host_has_with_itself_stays(made: Cluster) -> None:
    with entered(made.host_pid("h1")):
        listener = socket.create_server((made.network.address("h1"), PORT + 1))
        with listener:
            own = socket.create_connection(listener.getsockname(), timeout=WAIT_S)
            other, _ = listener.accept()
    with own, other:
        made.disconnect_host("h1")
        try:
            made.forget_connections("h1")
        finally:
            made.reconnect_host("h1")
        own.sendall(b"here")
        other.settimeout(WAIT_S)
        assert other.recv(10) == b"here"

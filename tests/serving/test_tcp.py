"""What the kernel tells of connections."""

from __future__ import annotations

import socket
import struct
import time
from typing import cast

import pytest

from testbed.emulation.namespace import entered
from testbed.serving.tcp import is_cut_off
from tests.emulation.world import world

AFTER_S = 3.0
DEADLINE_S = 30.0


class Told:
    """A socket of which only struct tcp_info is known."""

    def __init__(self, time_outs: int, time_out_s: float, last_sent_s: float) -> None:
        words = [0] * 24
        words[0], words[9] = round(1e6 * time_out_s), round(1e3 * last_sent_s)
        self._info = struct.pack("=8B24I", 1, 4, time_outs, 0, time_outs, 0, 0, 0, *words)

    def getsockopt(self, *_: int) -> bytes:
        return self._info


@pytest.mark.parametrize(
    ("time_outs", "time_out_s", "last_sent_s", "cut_off"),
    [
        (0, 0.2, 60.0, False),
        (1, 0.4, 60.0, False),
        (3, 1.6, 0.1, False),  # 0.2 + 0.4 + 0.8 s so far
        (3, 1.6, 1.59, False),
        (4, 3.2, 0.0, True),
        (3, 4.8, 0.0, True),  # 0.6 + 1.2 + 2.4 s: three are enough
        (2, 9.6, 9.0, False),  # two are not
    ],
)
def test_a_path_is_cut_off_once_time_outs_in_a_row_have_taken_so_long(
    time_outs: int, time_out_s: float, last_sent_s: float, cut_off: bool
) -> None:
    told = cast(socket.socket, Told(time_outs, time_out_s, last_sent_s))
    assert is_cut_off(told, AFTER_S) is cut_off


@pytest.mark.root
def test_a_path_that_lets_nothing_through_is_told_from_one_that_does() -> None:
    with world() as machine:
        with entered(machine.init_pid):
            server = socket.create_server(("127.0.0.1", 0))
            sender = socket.create_connection(server.getsockname(), timeout=10)
        receiver, _ = server.accept()
        with server, sender, receiver:
            sender.sendall(b"acknowledged")
            receiver.recv(64)
            assert not is_cut_off(sender, 0.0)
            machine.run("iptables", "--append", "INPUT", "--protocol", "tcp", "--jump", "DROP")
            sender.sendall(b"lost")
            end_s = time.monotonic() + DEADLINE_S
            while not is_cut_off(sender, AFTER_S):
                assert time.monotonic() < end_s, "never told"
                time.sleep(0.01)
            machine.run("iptables", "--flush", "INPUT")
            assert receiver.recv(64) == b"lost"
            while is_cut_off(sender, AFTER_S):
                assert time.monotonic() < end_s, "told although it was acknowledged"
                time.sleep(0.01)

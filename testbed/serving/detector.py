"""Failure detection by heartbeats.

Every node sends a small datagram to the dispatcher at a fixed period, over the emulated network and marked for low
delay so that it doesn't wait behind data. A host that has missed its allowance of periods is taken for lost.
"""

from __future__ import annotations

import contextlib
import hmac
import select
import socket
import struct
import threading
from collections.abc import Callable

from testbed.serving.auth import MAC_BYTES, sign
from testbed.serving.events import now_s
from testbed.serving.mailbox import Closed, Mailbox

_BEAT = struct.Struct("!4sQd")  # magic, sequence number, time sent
_MAGIC = b"EIB1"
_MAX_DATAGRAM = 512
_LOW_DELAY = 0x10  # IP_TOS; SO_PRIORITY 6 is what Linux derives from it
_PRIORITY = 6


def encode_beat(token: str, host: str, sequence: int, sent_s: float) -> bytes:
    """A signed heartbeat."""
    beat = _BEAT.pack(_MAGIC, sequence, sent_s) + host.encode()
    return sign(token, beat) + beat


def decode_beat(token: str, data: bytes) -> tuple[str, int, float] | None:
    """Host, sequence number and time sent; None if it is no heartbeat or its signature is wrong."""
    mac, beat = data[:MAC_BYTES], data[MAC_BYTES:]
    if len(beat) <= _BEAT.size or not hmac.compare_digest(sign(token, beat), mac):
        return None
    magic, sequence, sent_s = _BEAT.unpack_from(beat)
    if magic != _MAGIC:
        return None
    return beat[_BEAT.size :].decode(errors="replace"), sequence, sent_s


class Heart:
    """A node's side: beats on a thread of its own until closed."""

    def __init__(self, token: str, host: str, dispatcher: tuple[str, int], period_s: float) -> None:
        self._token = token
        self._host = host
        self._period_s = period_s
        self._stop: Mailbox[None] = Mailbox()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, _LOW_DELAY)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, _PRIORITY)
        self._socket.setblocking(False)
        self._socket.connect(dispatcher)
        threading.Thread(target=self._run, name="heart", daemon=True).start()

    def close(self) -> None:
        """Stop beating."""
        self._stop.close()

    def _run(self) -> None:
        due_s = now_s()
        sequence = 0
        while True:
            with contextlib.suppress(OSError):  # a full queue or an unreachable peer loses this beat, as networks do
                self._socket.send(encode_beat(self._token, self._host, sequence, now_s()))
            sequence += 1
            due_s = max(due_s + self._period_s, now_s())
            try:
                self._stop.get(due_s - now_s())
            except TimeoutError:
                continue
            except Closed:
                self._socket.close()
                return


class Detector:
    """The dispatcher's side.

    A host is watched from :meth:`watch` until it is lost or forgotten. Before a host is declared lost, every datagram
    that has already arrived is read: a dispatcher that was itself delayed must not blame the hosts.

    Args:
        token: The run's token.
        address: Where heartbeats arrive.
        period_s: The heartbeats' period.
        misses: How many periods may pass without one.
        on_lost: Called with the host's name and how long it was silent, on the detector's thread.
    """

    def __init__(
        self,
        token: str,
        address: tuple[str, int],
        period_s: float,
        misses: int,
        on_lost: Callable[[str, float], None],
    ) -> None:
        self._token = token
        self._allowance_s = misses * period_s
        self._on_lost = on_lost
        self._last_s: dict[str, float] = {}
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)
        self._wake_reader, self._wake_writer = socket.socketpair()
        threading.Thread(target=self._run, name="detector", daemon=True).start()

    def watch(self, host: str) -> None:
        """Expect heartbeats of a host from now on."""
        with self._lock:
            self._last_s[host] = now_s()
        self._wake_writer.send(b"w")

    def forget(self, host: str) -> None:
        """Expect nothing more of a host."""
        with self._lock:
            self._last_s.pop(host, None)

    def watches(self, host: str) -> bool:
        """Whether heartbeats of a host are expected."""
        with self._lock:
            return host in self._last_s

    def close(self) -> None:
        """Stop."""
        self._wake_writer.close()

    def _run(self) -> None:
        while True:
            with self._lock:
                due_s = min(self._last_s.values(), default=None)
            timeout_s = None if due_s is None else max(0.0, due_s + self._allowance_s - now_s())
            readable, _, _ = select.select([self._socket, self._wake_reader], [], [], timeout_s)
            if self._wake_reader in readable and not self._wake_reader.recv(64):
                self._socket.close()
                self._wake_reader.close()
                return
            self._drain()
            self._declare()

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                beat = decode_beat(self._token, self._socket.recv(_MAX_DATAGRAM))
                if beat is None:
                    continue
                with self._lock:
                    if beat[0] in self._last_s:
                        self._last_s[beat[0]] = now_s()

    def _declare(self) -> None:
        now = now_s()
        with self._lock:
            lost = {host: now - last for host, last in self._last_s.items() if now - last >= self._allowance_s}
            for host in lost:
                del self._last_s[host]
        for host, silent_s in lost.items():
            self._on_lost(host, silent_s)

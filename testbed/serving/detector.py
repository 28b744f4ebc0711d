"""Failure detection by heartbeats.

Every node sends a small datagram to the dispatcher at a fixed period, over the emulated network and marked for low
delay. A host that is silent for longer than :mod:`testbed.serving.suspicion` allows is taken for lost.

Heartbeats may starve behind data all the same: the mark helps only where a queue minds it, and a link that is suddenly
slow has a long queue before it. But where data keeps a heartbeat from getting through, data gets through, and bytes are
as good a sign of life. So a heartbeat also names the hosts whose data comes in at its sender, and what comes in at the
dispatcher itself counts likewise. The server of a host that hangs sends no bytes once its buffers are empty.
"""

from __future__ import annotations

import contextlib
import hmac
import math
import secrets
import select
import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from testbed.serving.auth import MAC_BYTES, sign
from testbed.serving.events import now_s
from testbed.serving.mailbox import Closed, Mailbox
from testbed.serving.suspicion import judge_of

_BEAT = struct.Struct("!4s8sQdd")  # magic, which start of the host's server, sequence number, time sent, time at work
_MAGIC = b"EIB3"
_MAX_DATAGRAM = 512
_MOST_HEARD = 4
_PATIENCE = 4
"""How many allowances a host gets when it is this host's own link that seems to be clogged."""
_MOST_AT_ONCE = 4096
"""More datagrams than a socket's usual buffer holds: a flood mustn't keep the detector from declaring a loss."""
_LOW_DELAY = 0x10  # IP_TOS; SO_PRIORITY 6 is what Linux derives from it
_PRIORITY = 6


@dataclass(frozen=True, slots=True)
class Beat:
    """A heartbeat.

    Attributes:
        host: Whose.
        start: Of which start of its server: 8 random bytes.
        sequence: The how-manieth.
        sent_s: When it was sent, on the sender's clock.
        busy_s: For how long the host has been computing on one request; 0 when it waits for one.
        heard: Hosts whose data has come in at the sender within the last period.
    """

    host: str
    start: bytes
    sequence: int
    sent_s: float
    busy_s: float = 0.0
    heard: tuple[str, ...] = ()


def encode_beat(token: str, beat: Beat) -> bytes:
    """A signed heartbeat."""
    names = "\0".join((beat.host, *beat.heard[:_MOST_HEARD])).encode()
    data = _BEAT.pack(_MAGIC, beat.start, beat.sequence, beat.sent_s, beat.busy_s) + names
    return sign(token, data) + data


def decode_beat(token: str, data: bytes) -> Beat | None:
    """None if it is no heartbeat or its signature is wrong."""
    mac, beat = data[:MAC_BYTES], data[MAC_BYTES:]
    if len(beat) <= _BEAT.size or not beat.startswith(_MAGIC) or not hmac.compare_digest(sign(token, beat), mac):
        return None
    _, start, sequence, sent_s, busy_s = _BEAT.unpack_from(beat)
    host, *heard = beat[_BEAT.size :].decode(errors="replace").split("\0")
    return Beat(host, start, sequence, sent_s, busy_s, tuple(heard))


class Novelty:
    """Tells new heartbeats from repeated ones: who records a host's heartbeats can't make it seem alive with them.

    Sequence numbers of a start only grow, and once a newer start of a host's server was heard, an older one never
    counts again.
    """

    def __init__(self) -> None:
        self._current: dict[str, tuple[bytes, int]] = {}
        self._ended: defaultdict[str, set[bytes]] = defaultdict(set)

    def is_new(self, beat: Beat) -> bool:
        """Whether this heartbeat was never heard before, nor a later one."""
        start, sequence = self._current.get(beat.host, (beat.start, -1))
        if beat.start in self._ended[beat.host] or (beat.start == start and beat.sequence <= sequence):
            return False
        if beat.start != start:
            self._ended[beat.host].add(start)
        self._current[beat.host] = (beat.start, beat.sequence)
        return True


@dataclass(frozen=True, slots=True)
class Pulse:
    """What a host tells of itself with a heartbeat; see :class:`Beat`."""

    busy_s: float = 0.0
    heard: tuple[str, ...] = ()


class Heart:
    """A node's side: beats on a thread of its own until closed.

    Args:
        token: The run's token.
        host: The node's name.
        dispatcher: Where heartbeats go.
        period_s: Between two of them.
        feel: Asked before each what to tell with it.
        start: Tells this start of the server from others: 8 random bytes, drawn unless given.
    """

    def __init__(
        self,
        token: str,
        host: str,
        dispatcher: tuple[str, int],
        period_s: float,
        feel: Callable[[], Pulse] = Pulse,
        start: bytes = b"",
    ) -> None:
        self._token = token
        self._host = host
        self._period_s = period_s
        self._feel = feel
        self._stop: Mailbox[None] = Mailbox()
        self._start = start or secrets.token_bytes(8)
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
            pulse = self._feel()
            beat = Beat(self._host, self._start, sequence, now_s(), pulse.busy_s, pulse.heard)
            with contextlib.suppress(OSError):  # a full queue or an unreachable peer loses this beat, as networks do
                self._socket.send(encode_beat(self._token, beat))
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
        note: Told a line for people, and its topic, when a datagram is no new heartbeat of this run.
        threshold: Of φ, where that judges instead of ``misses``.
        heard: Tells of which hosts data has come in at the dispatcher within a time in seconds.
    """

    def __init__(
        self,
        token: str,
        address: tuple[str, int],
        period_s: float,
        misses: int,
        on_lost: Callable[[str, float], None],
        note: Callable[[str, str], None] = lambda text, topic: None,
        *,
        threshold: float | None = None,
        heard: Callable[[float], tuple[str, ...]] = lambda within_s: (),
    ) -> None:
        self._token = token
        self._period_s = period_s
        self._judge = judge_of(period_s, misses, threshold)
        self._heard = heard
        self._on_lost = on_lost
        self._note = note
        self._novelty = Novelty()
        self._watched: dict[str, _Watched] = {}
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)
        self._wake_reader, self._wake_writer = socket.socketpair()
        threading.Thread(target=self._run, name="detector", daemon=True).start()

    def watch(self, host: str, start: str | None = None) -> None:
        """Expect heartbeats of a host from now on, of one start of its server (in hexadecimal) if that is given."""
        with self._lock:
            now = now_s()
            self._watched[host] = _Watched(start, now, now)
            self._judge.begin(host)
        self._wake_writer.send(b"w")

    def forget(self, host: str) -> None:
        """Expect nothing more of a host."""
        with self._lock:
            self._watched.pop(host, None)

    def watches(self, host: str) -> bool:
        """Whether heartbeats of a host are expected."""
        with self._lock:
            return host in self._watched

    def busy_s(self) -> dict[str, float]:
        """For how long each watched host has been computing on one request, as its last heartbeat told."""
        with self._lock:
            return {host: watched.busy_s for host, watched in self._watched.items()}

    def close(self) -> None:
        """Stop."""
        self._wake_writer.close()

    def _run(self) -> None:
        while True:
            with self._lock:
                due_s = min((self._due_s(host, watched) for host, watched in self._watched.items()), default=None)
            timeout_s = None if due_s is None else max(0.0, due_s - now_s())
            readable, _, _ = select.select([self._socket, self._wake_reader], [], [], timeout_s)
            if self._wake_reader in readable and not self._wake_reader.recv(64):
                self._socket.close()
                self._wake_reader.close()
                return
            self._drain()
            self._declare()

    def _due_s(self, host: str, watched: _Watched) -> float:
        """When a host is lost unless it is heard before."""
        return watched.heard_s + self._judge.allowance_s(host)

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(_MOST_AT_ONCE):
                data, peer = self._socket.recvfrom(_MAX_DATAGRAM)
                beat = decode_beat(self._token, data)
                if beat is None or not self._novelty.is_new(beat):
                    what = "no heartbeat of this run" if beat is None else f"a repeated heartbeat of {beat.host}"
                    self._note(f"{peer[0]}: {what}", f"heartbeats of {peer[0]}")
                    continue
                with self._lock:
                    self._take(beat)

    def _take(self, beat: Beat) -> None:
        now = now_s()
        watched = self._watched.get(beat.host)
        if watched is not None and watched.start in (None, beat.start.hex()):
            self._judge.beat(beat.host, now - watched.beat_s)
            watched.heard_s = watched.beat_s = now
            watched.busy_s = beat.busy_s
        elif watched is not None:
            watched.heard_s = -math.inf  # its server was started anew: what was connected has gone
        for host in beat.heard:
            if host in self._watched and host != beat.host:
                self._watched[host].heard_s = max(self._watched[host].heard_s, now - self._period_s)

    def _declare(self) -> None:
        with self._lock:
            now = now_s()
            overdue = {host for host, watched in self._watched.items() if self._due_s(host, watched) <= now}
            if not overdue:
                return
            heard = self._heard(self._period_s)
            # With all hosts silent at once and data coming in, the heartbeats are stuck on their way in.
            clogged = bool(heard) and len(overdue) == len(self._watched)
            for host in tuple(overdue):
                watched = self._watched[host]
                patient = clogged and now - watched.beat_s < _PATIENCE * self._judge.allowance_s(host)
                if watched.heard_s > -math.inf and (host in heard or patient):
                    watched.heard_s = now
                    overdue.discard(host)
            lost = {host: now - self._watched.pop(host).beat_s for host in overdue}
        for host, silent_s in lost.items():
            self._on_lost(host, silent_s)


@dataclass(slots=True)
class _Watched:
    """A host that is watched.

    ``heard_s`` is when it last gave a sign of life, ``beat_s`` when its last heartbeat came.
    """

    start: str | None
    heard_s: float
    beat_s: float
    busy_s: float = 0.0

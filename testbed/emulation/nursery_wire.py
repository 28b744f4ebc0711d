"""What the nursery and its client say to each other: JSON records with descriptors beside them.

The connection is a Unix sequenced-packet socket: one ``sendmsg`` is one record. The client sends orders, the nursery
answers with reports. A config travels as an anonymous file, so its size is bounded by memory only and the nursery
never parses it.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass

MAX_RECORD_BYTES = 64 * 1024
MAX_FDS = 253  # the kernel's SCM_MAX_FD
ENTRY_FAILED = os.EX_SOFTWARE  # 70: the entry raised an exception
SET_UP_FAILED = os.EX_OSERR  # 71: the child couldn't get its namespace or cgroup; the entry wasn't called


@dataclass(frozen=True, slots=True)
class SpawnOrder:
    """Fork a child. With it come the descriptors: config, log, the namespace if there is one, and those to pass on.

    Attributes:
        id: Number of the order, for the answer.
        name: Name of the child.
        entry: ``package.module:function``.
        cgroup_paths: Files to join, in this order.
        in_netns: Whether a network namespace is among the descriptors.
    """

    id: int
    name: str
    entry: str
    cgroup_paths: tuple[str, ...]
    in_netns: bool


@dataclass(frozen=True, slots=True)
class Ready:
    """All modules are imported; orders are obeyed from now on."""

    imports_s: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The nursery can't work and ends."""

    error: str


@dataclass(frozen=True, slots=True)
class Spawned:
    """A child was forked; its pidfd comes with the record."""

    id: int
    pid: int
    start_time_ticks: int


@dataclass(frozen=True, slots=True)
class Refused:
    """No child could be forked."""

    id: int
    error: str


@dataclass(frozen=True, slots=True)
class Exited:
    """A child has ended.

    Attributes:
        id: Number of the order that started it.
        status: Exit status, or minus the number of the signal that killed it.
        t_s: When the nursery learned of it, CLOCK_MONOTONIC.
        detail: What the child said of its failure; empty if nothing.
    """

    id: int
    status: int
    t_s: float
    detail: str


Record = SpawnOrder | Ready | Failed | Spawned | Refused | Exited
_TYPES = {cls.__name__: cls for cls in (SpawnOrder, Ready, Failed, Spawned, Refused, Exited)}


def send(connection: socket.socket, record: Record, fds: Sequence[int] = ()) -> None:
    """Send one record with its descriptors.

    Raises:
        OSError: If the other side has gone.
    """
    text = json.dumps([type(record).__name__, asdict(record)], separators=(",", ":"))
    socket.send_fds(connection, [text.encode()], list(fds))


def receive(connection: socket.socket) -> tuple[Record, list[int]] | None:
    """The next record with its descriptors (closed on exec), or None when the other side has gone."""
    try:
        data, fds, _, _ = socket.recv_fds(connection, MAX_RECORD_BYTES, MAX_FDS, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        return None
    if not data:
        return None
    name, fields = json.loads(data)
    if name == "SpawnOrder":
        fields["cgroup_paths"] = tuple(fields["cgroup_paths"])
    return _TYPES[name](**fields), fds

"""The lobby: peers in their greeting, of whom nobody knows yet whether they belong to the run.

It has a bounded number of places. When it is full, the newcomer still gets one: whoever has been there longest of the
address with most peers in it is shown out. So peers that connect and say nothing, however many, can't keep the others
waiting, and an address that sends many crowds out its own first.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter

LEAVE_S = 1.0
"""How long somebody who was shown out may take to leave before another one is."""


def shut_down(connection: socket.socket) -> None:
    """End both directions, which wakes whoever reads or writes; closing alone would not."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class Lobby:
    """Shared by the thread that accepts and the threads that greet.

    Args:
        places: Peers that may be in it at a time.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._waiting: dict[socket.socket, str] = {}  # in order of arrival
        self._shown_out: set[socket.socket] = set()
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._waiting)

    def enter(self, connection: socket.socket, address: str) -> int:
        """Take a place, for which others may have to go; returns how many were shown out.

        It waits until they have left, so that there are never more peers than places.
        """
        shown_out = 0
        with self._changed:
            while len(self._waiting) >= self._places:
                if self._show_out_one():
                    shown_out += 1
                self._changed.wait_for(lambda: len(self._waiting) < self._places, LEAVE_S)
            self._waiting[connection] = address
        return shown_out

    def _show_out_one(self) -> bool:
        staying = [(peer, address) for peer, address in self._waiting.items() if peer not in self._shown_out]
        if not staying:
            return False
        crowd = Counter(address for _, address in staying)
        most = max(crowd.values())
        oldest = next(peer for peer, address in staying if crowd[address] == most)
        self._shown_out.add(oldest)
        shut_down(oldest)
        return True

    def leave(self, connection: socket.socket) -> bool:
        """Give the place up, admitted or not; tells whether the peer had been shown out. Harmless when repeated."""
        with self._changed:
            was_shown_out = connection in self._shown_out
            self._waiting.pop(connection, None)
            self._shown_out.discard(connection)
            self._changed.notify_all()
        return was_shown_out

"""A bounded queue that can be closed, which wakes everybody who waits on it."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Closed(Exception):  # noqa: N818 - a state of the queue, not an error
    """The mailbox was closed: nothing more comes out of it or goes into it."""


class Mailbox(Generic[Item]):
    """First in, first out, between threads.

    Args:
        depth: How many items may wait; None means any number.
    """

    def __init__(self, depth: int | None = None) -> None:
        self._items: deque[Item] = deque()
        self._depth = depth
        self._closed = False
        self._changed = threading.Condition()

    def put(self, item: Item, depth: int | None = None) -> None:
        """Add an item; blocks while the mailbox is full, or holds ``depth`` items, whichever is less.

        Raises:
            Closed: If it is closed, also while waiting.
        """
        with self._changed:
            most = min((limit for limit in (depth, self._depth) if limit is not None), default=None)
            self._changed.wait_for(lambda: self._closed or most is None or len(self._items) < most)
            if self._closed:
                raise Closed
            self._items.append(item)
            self._changed.notify_all()

    def offer(self, item: Item) -> bool:
        """Add an item unless the mailbox is full or closed; tells whether it was added."""
        with self._changed:
            if self._closed or (self._depth is not None and len(self._items) >= self._depth):
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def get(self, timeout_s: float | None = None) -> Item:
        """Take the oldest item.

        Raises:
            Closed: If the mailbox is closed.
            TimeoutError: If nothing came in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._closed or self._items, timeout_s):
                raise TimeoutError
            if self._closed:
                raise Closed
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def wait_empty(self, timeout_s: float) -> bool:
        """Wait until everything was taken; tells whether it was."""
        with self._changed:
            return self._changed.wait_for(lambda: self._closed or not self._items, timeout_s) and not self._items

    def close(self) -> None:
        """Drop what waits and wake everybody."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

"""The nursery: a process that imports the heavy modules once and forks a child for each server.

Started by :class:`testbed.emulation.nursery.Nursery` as ``python -m testbed.emulation.nursery_process``. It has one
thread, for a fork copies only the calling one: a lock held by another would be held in the child for ever (and
libgomp's pool hangs in the child's first parallel operation).

Nothing outlives it. The runner's end closes the socket and also sends SIGKILL (PR_SET_PDEATHSIG); the nursery's end
sends SIGKILL to every child. A child writes itself to the journal as its first act, before it has joined, opened or
started anything; a child killed before that has done nothing.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from testbed.emulation import syscalls
from testbed.emulation.manifest import RunManifest
from testbed.emulation.nursery_wire import (
    ENTRY_FAILED,
    SET_UP_FAILED,
    Exited,
    Failed,
    Ready,
    Refused,
    Spawned,
    SpawnOrder,
    receive,
    send,
)
from testbed.emulation.processes import ProcessIdentity
from testbed.errors import TestbedError

_DETAIL_BYTES = 4096


@dataclass(frozen=True, slots=True)
class _Child:
    """A living child: the order it came from and the pipe on which it tells of a failure."""

    order_id: int
    detail_fd: int


def resolve(entry: str) -> Callable[[dict[str, Any], list[int]], object]:
    """The function of ``package.module:function``.

    Raises:
        ImportError: If there is no such module.
        AttributeError: If it has no such function.
    """
    module, _, function = entry.partition(":")
    found = getattr(importlib.import_module(module), function)
    if not callable(found):
        raise AttributeError(f"{entry} is no function")
    return found  # type: ignore[no-any-return]


class NurseryProcess:
    """The process's one loop: orders from the socket, ends of children from SIGCHLD."""

    def __init__(self, connection: socket.socket, manifest: RunManifest) -> None:
        self._connection = connection
        self._manifest = manifest
        self._pid = os.getpid()
        self._children: dict[int, _Child] = {}

    def serve(self) -> None:
        """Obey orders until the client has gone; then end every child."""
        wake_reader, wake_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        # The handler does nothing; it is there so that Python writes the signal's number to the pipe.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_writer)
        with selectors.DefaultSelector() as selector:
            selector.register(self._connection, selectors.EVENT_READ)
            selector.register(wake_reader, selectors.EVENT_READ)
            try:
                while True:
                    for key, _ in selector.select():
                        if key.fileobj == wake_reader:
                            with contextlib.suppress(BlockingIOError):
                                os.read(wake_reader, 4096)
                            self._reap(os.WNOHANG)
                        elif not self._obey():
                            return
            finally:
                for pid in self._children:
                    os.kill(pid, signal.SIGKILL)
                # The client may be waiting for their ends, or be dead: then there is nobody to tell.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    while self._children:
                        self._reap(0)

    def _obey(self) -> bool:
        received = receive(self._connection)
        if received is None:
            return False
        order, fds = received
        if not isinstance(order, SpawnOrder):
            raise TypeError(f"{order} is no order")
        try:
            self._spawn(order, fds)
        except OSError as error:
            send(self._connection, Refused(order.id, str(error)))
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _spawn(self, order: SpawnOrder, fds: Sequence[int]) -> None:
        detail_reader, detail_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            pid = os.fork()
        except OSError:
            os.close(detail_reader)
            os.close(detail_writer)
            raise
        if pid == 0:
            self._be_child(order, fds, detail_writer)
        os.close(detail_writer)
        self._children[pid] = _Child(order.id, detail_reader)
        # Only this thread reaps, so the number can't have been reused yet.
        pidfd = os.pidfd_open(pid)
        try:
            send(self._connection, Spawned(order.id, pid, ProcessIdentity.of(pid).start_time_ticks), [pidfd])
        finally:
            os.close(pidfd)

    def _reap(self, options: int) -> None:
        """Report every child that has ended; without WNOHANG wait for one at least."""
        while self._children:
            pid, wait_status = os.waitpid(-1, options)
            if pid == 0:
                return
            options = os.WNOHANG
            child = self._children.pop(pid, None)
            if child is None:
                continue  # an orphan of a child: ours to bury, nobody's to hear of
            t_s = time.monotonic()
            try:
                detail = os.read(child.detail_fd, _DETAIL_BYTES).decode(errors="replace")
            except BlockingIOError:
                detail = ""  # something the child started still holds the pipe, and nothing was written
            os.close(child.detail_fd)
            send(self._connection, Exited(child.order_id, os.waitstatus_to_exitcode(wait_status), t_s, detail))

    def _be_child(self, order: SpawnOrder, fds: Sequence[int], detail_fd: int) -> NoReturn:
        status = SET_UP_FAILED
        try:
            config, passed = self._set_up(order, fds, detail_fd)
            status = ENTRY_FAILED
            resolve(order.entry)(config, passed)
            status = 0
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException as error:
            traceback.print_exc()
            detail = str(error) if isinstance(error, TestbedError) else f"{type(error).__name__}: {error}"
            os.write(detail_fd, detail.encode()[:_DETAIL_BYTES])
        finally:
            with contextlib.suppress(OSError):  # a full disk under the log must not change the status
                sys.stdout.flush()
                sys.stderr.flush()
            # Not sys.exit: the nursery's own stack lies below, and its exit handlers aren't the child's.
            os._exit(status)

    def _set_up(self, order: SpawnOrder, fds: Sequence[int], detail_fd: int) -> tuple[dict[str, Any], list[int]]:
        syscalls.signal_on_parent_death(signal.SIGKILL)
        if os.getppid() != self._pid:
            os._exit(SET_UP_FAILED)  # the nursery died before the line above
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)

        config_fd, log_fd, *rest = fds
        os.dup2(log_fd, 1)
        os.dup2(log_fd, 2)
        me = ProcessIdentity.of(os.getpid())
        self._manifest.will_create("process", pid=me.pid, start_time_ticks=me.start_time_ticks, role=order.name)
        os.setsid()
        syscalls.set_process_name(order.name)
        if order.in_netns:
            syscalls.setns(rest.pop(0), syscalls.CLONE_NEWNET)
        with open(config_fd, "rb", closefd=False) as file:
            file.seek(0)
            config = json.load(file)
        _close_all_but({*rest, detail_fd})
        gc.enable()
        # Last: everything above costs CPU time that the emulated host wouldn't spend.
        for path in order.cgroup_paths:
            Path(path).write_text("0")
        return config, rest


def _close_all_but(kept: set[int]) -> None:
    start = 3
    for fd in sorted(kept):
        os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, os.sysconf("SC_OPEN_MAX"))


def _threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def main(arguments: Sequence[str]) -> int:
    """Run the nursery.

    Args:
        arguments: The socket's descriptor, the client's pid, the run's directory, and the modules to import.
    """
    descriptor, client_pid, run_directory, *preload = arguments
    syscalls.signal_on_parent_death(signal.SIGKILL)
    if os.getppid() != int(client_pid):
        return 1  # the client died before the line above
    manifest = RunManifest(Path(run_directory))
    me = ProcessIdentity.of(os.getpid())
    manifest.will_create("process", pid=me.pid, start_time_ticks=me.start_time_ticks, role="nursery")
    syscalls.become_subreaper()
    syscalls.set_process_name("testbed-nursery")
    with socket.socket(fileno=int(descriptor)) as connection:
        connection.set_inheritable(False)
        started_s = time.monotonic()
        try:
            for module in preload:
                importlib.import_module(module)
        except Exception as error:
            traceback.print_exc()
            send(connection, Failed(f"can't import {module}: {type(error).__name__}: {error}"))
            return 1
        if _threads() != 1:
            send(connection, Failed(f"importing {', '.join(preload)} started threads; a fork would lose them"))
            return 1
        # What is alive now stays for ever: never scan it again, so that children keep sharing its pages.
        gc.collect()
        gc.freeze()
        gc.disable()
        send(connection, Ready(time.monotonic() - started_s))
        NurseryProcess(connection, manifest).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

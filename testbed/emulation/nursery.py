"""Starts servers in no time: the client's side of the nursery.

A fresh Python with torch needs 2 s and 146 MB of its own; a child forked from a process that has imported torch
already needs 10 ms and 9 MB. The nursery is that process. It knows nothing of what it runs: modules to import and
functions to call are given by name.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from types import TracebackType
from typing import Self

from testbed.emulation.manifest import RunManifest
from testbed.emulation.nursery_wire import (
    MAX_FDS,
    Exited,
    Failed,
    Ready,
    Refused,
    Spawned,
    SpawnOrder,
    receive,
    send,
)
from testbed.emulation.processes import ProcessIdentity, wait_pidfds
from testbed.emulation.server_process import ServerProcess, SpawnRequest, config_file, open_netns
from testbed.errors import MachineError

__all__ = ["Nursery", "ServerProcess", "SpawnRequest"]

SPAWN_TIMEOUT_S = 30.0
CLOSE_TIMEOUT_S = 10.0
# One thread a library: the nursery must have a single one, and an emulated host has less than one core.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

ExitCallback = Callable[[str, int, int, float], None]
DeathCallback = Callable[[int, float], None]


class Nursery:
    """A running nursery; use it as a context manager, in the thread that lives as long as it shall.

    The kernel ends the nursery when the *thread* that started it ends, so start it in the main one. Callbacks come on
    the nursery's reader thread, one at a time: they must be quick, and an exception in one is raised by :meth:`close`.

    Args:
        preload: Modules to import once, before any child. They may start no threads.
        log_dir: Directory of ``nursery.log``.
        manifest: Journal of the run; the nursery and every child write themselves to it.
        log_owner: User and group that own the log files; unchanged if None.
    """

    def __init__(
        self,
        preload: Sequence[str],
        log_dir: Path,
        manifest: RunManifest,
        *,
        log_owner: tuple[int, int] | None = None,
    ) -> None:
        self._preload = tuple(preload)
        self._manifest = manifest
        self._log_owner = log_owner
        self.log_path = log_dir / "nursery.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._reader: threading.Thread | None = None
        self._imports: Future[float] = Future()
        self._lock = threading.Lock()  # guards what follows; both threads use it
        self._orders: dict[int, tuple[str, Future[ServerProcess]]] = {}
        self._servers: dict[int, ServerProcess] = {}
        self._order_id = 0
        self._closing = False
        self._dead = False
        self._on_exit: list[ExitCallback] = []
        self._on_death: list[DeathCallback] = []
        self._callback_errors: list[Exception] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def on_exit(self, callback: ExitCallback) -> None:
        """Have ``callback(name, pid, status, t_s)`` called at the end of every child (t_s: CLOCK_MONOTONIC)."""
        self._on_exit.append(callback)

    def on_nursery_death(self, callback: DeathCallback) -> None:
        """Have ``callback(status, t_s)`` called if the nursery ends before :meth:`close`; its children end with it."""
        self._on_death.append(callback)

    def start(self) -> None:
        """Start the process and return at once, while it imports.

        Raises:
            MachineError: If the log can't be written.
        """
        log_fd = self._open_log(self.log_path)
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        argv = [sys.executable, "-P", "-u", "-m", "testbed.emulation.nursery_process"]
        argv += [str(its.fileno()), str(os.getpid()), str(self._manifest.directory), *self._preload]
        # Entries must be found by the same names as here, whatever way this program was started.
        path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log_fd,
                stderr=log_fd,
                pass_fds=[its.fileno()],
                start_new_session=True,  # Ctrl-C is for the runner, which then ends its servers in good order
                env={**os.environ, **ONE_THREAD, "PYTHONPATH": path},
            )
        except OSError as error:
            mine.close()
            raise MachineError(f"can't start {sys.executable}: {error.strerror}") from error
        finally:
            os.close(log_fd)
            its.close()
        self._connection = mine
        self._reader = threading.Thread(target=self._read, name="nursery-reader", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The nursery's own process.

        Raises:
            MachineError: If it wasn't started.
        """
        if self._process is None:
            raise MachineError("the nursery wasn't started")
        return self._process.pid

    def ready(self, timeout_s: float = 120.0) -> float:
        """Wait until everything is imported; how many seconds the imports took.

        Raises:
            MachineError: If an import failed, the nursery died, or it isn't ready in time.
        """
        if self._process is None:
            raise MachineError("the nursery wasn't started")
        try:
            return self._imports.result(timeout_s)
        except FutureTimeoutError:
            raise MachineError(f"the nursery isn't ready after {timeout_s} s", remedy=f"see {self.log_path}") from None

    def spawn(self, request: SpawnRequest) -> ServerProcess:
        """Fork a child; returns when it exists, not when its entry has begun.

        A child that can't enter its namespace or cgroup, or whose entry raises, ends with status 71 or 70.

        Raises:
            MachineError: If the nursery has died, the namespace has gone, or the log can't be written.
        """
        if threading.current_thread() is self._reader:
            raise RuntimeError("spawn() in a callback would wait for the thread that it blocks; call it elsewhere")
        self.ready()
        with contextlib.ExitStack() as open_files:
            fds = [config_file(request), self._open_log(request.stdout)]
            for fd in fds:
                open_files.callback(os.close, fd)
            if request.netns_pid is not None:
                fds.append(open_netns(request.netns_pid, request.name))
                open_files.callback(os.close, fds[-1])
            fds += request.fds
            if len(fds) > MAX_FDS:
                raise MachineError(f"{request.name}: {len(fds)} descriptors, the kernel passes {MAX_FDS} at most")
            answer: Future[ServerProcess] = Future()
            with self._lock:
                if self._dead or self._closing or self._connection is None:
                    raise self._gone(request.name)
                self._order_id += 1
                order = SpawnOrder(
                    id=self._order_id,
                    name=request.name,
                    entry=request.entry,
                    cgroup_paths=tuple(map(str, request.cgroup_paths)),
                    in_netns=request.netns_pid is not None,
                )
                self._orders[order.id] = (request.name, answer)
                try:
                    send(self._connection, order, fds)
                except OSError as error:
                    raise self._gone(request.name) from error
            try:
                return answer.result(SPAWN_TIMEOUT_S)
            except FutureTimeoutError:
                raise MachineError(
                    f"{request.name}: the nursery didn't answer within {SPAWN_TIMEOUT_S} s",
                    remedy=f"the machine is overloaded, or see {self.log_path}",
                ) from None

    def close(self) -> None:
        """End every child and the nursery; to do it twice does no harm.

        Raises:
            MachineError: If the nursery couldn't be ended.
            Exception: The first one that a callback raised.
        """
        with self._lock:
            self._closing = True
        if self._process is None or self._connection is None or self._reader is None:
            return
        # Its children's ends are still to be read, so only our sending side is closed.
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)
        self._reader.join(CLOSE_TIMEOUT_S)
        if self._reader.is_alive():
            self._process.kill()  # the kernel then ends its children
            self._reader.join(CLOSE_TIMEOUT_S)
        if self._reader.is_alive():
            raise MachineError("the nursery doesn't end", remedy="sudo python -m testbed clean")
        self._connection.close()
        self._connection = None
        for server in self._servers.values():
            os.close(server.pidfd)
            server.pidfd = -1
        if self._callback_errors:
            raise self._callback_errors[0]

    def _gone(self, name: str) -> MachineError:
        return MachineError(f"can't start {name}: the nursery has ended", remedy=f"see {self.log_path}")

    def _open_log(self, path: Path) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(path, flags, 0o644)
            if self._log_owner is not None:
                os.fchown(descriptor, *self._log_owner)
        except OSError as error:
            raise MachineError(
                f"can't write the log {path}: {error.strerror}", remedy="make its directory, and make it writable"
            ) from error
        return descriptor

    def _read(self) -> None:
        """The reader thread: turn reports into answers, states and callbacks, until the nursery has gone."""
        connection, process = self._connection, self._process
        if connection is None or process is None:
            return
        while (received := receive(connection)) is not None:
            match received:
                case Ready(imports_s), _:
                    self._imports.set_result(imports_s)
                case Failed(error), _:
                    self._imports.set_exception(MachineError(error, remedy=f"see {self.log_path}"))
                case Spawned(order_id, pid, ticks), [pidfd]:
                    with self._lock:
                        name, answer = self._orders.pop(order_id)
                        server = ServerProcess(name, ProcessIdentity(pid, ticks), pidfd)
                        self._servers[order_id] = server
                    answer.set_result(server)
                case Refused(order_id, error), _:
                    name, answer = self._orders.pop(order_id)
                    answer.set_exception(MachineError(f"can't start {name}: {error}"))
                case Exited(order_id, status, t_s, detail), _:
                    self._ended(self._servers[order_id], status, t_s, detail)
        self._after_the_end(process, time.monotonic())

    def _ended(self, server: ServerProcess, status: int, t_s: float, detail: str) -> None:
        server.detail = detail
        server.end.set_result(status)
        for callback in self._on_exit:
            self._call(callback, server.name, server.pid, status, t_s)

    def _after_the_end(self, process: subprocess.Popen[bytes], t_s: float) -> None:
        with self._lock:
            self._dead = True
            expected = self._closing
            orders = [order for _, order in self._orders.values()]
            self._orders.clear()
        try:
            status = process.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            # It closed its socket and yet lives: end it, for it would hold its children.
            process.kill()
            status = process.wait()
        if not self._imports.done():
            self._imports.set_exception(
                MachineError(f"the nursery ended with status {status}", remedy=f"see {self.log_path}")
            )
        for order in orders:
            order.set_exception(MachineError(f"the nursery ended with status {status}", remedy=f"see {self.log_path}"))
        if not expected:
            for callback in self._on_death:
                self._call(callback, status, t_s)
        # Its children were sent SIGKILL by the kernel; nobody is left who could tell their status.
        orphans = [server for server in self._servers.values() if server.status is None]
        stubborn = wait_pidfds([server.pidfd for server in orphans], time.monotonic() + CLOSE_TIMEOUT_S)
        for server in orphans:
            if server.pidfd not in stubborn:
                self._ended(server, -signal.SIGKILL, time.monotonic(), "the nursery died")

    def _call(self, callback: Callable[..., None], *arguments: object) -> None:
        try:
            callback(*arguments)
        except Exception as error:  # kept for close(): this thread must go on reading
            self._callback_errors.append(error)

"""What can happen to the hosts of a lab: they crash, lose their power, hang, leave, get other limits, and come back.

A host is up or off (its links), has a server or none, and each of its limits is the declared one or another. What
several faults do to one host at once adds up: it is on again, and goes on, when the last of those that switched it off,
or paused it, has ended; of several limits or shares the smallest counts. A host that comes back has its addresses, its
disk and its limits, and a server that was just started; nothing of what it had in memory, and no connection.
"""

from __future__ import annotations

import functools
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

from runner.balloon import offer
from runner.events import DOWN_STATES, HostStateChanged
from runner.faults.base import InForce
from runner.lab_servers import KILL_TIMEOUT_S, LISTEN_TIMEOUT_S, Servers
from runner.preparation import speed
from testbed.emulation.cgroups import CpuLimit
from testbed.emulation.cluster import Cluster
from testbed.emulation.nursery import ServerProcess
from testbed.errors import MachineError
from testbed.serving.computing import write_speed
from testbed.serving.events import Event, ServerListening, now_s
from testbed.spec.experiment import Experiment
from testbed.units import format_size

TAKEN_TIMEOUT_S = 5.0
"""For a signal to be taken: on a host with a hundredth of a core that may be some of its periods of a second."""
POLL_S = 0.005


class LabHosts:
    """The part of a lab that acts on hosts.

    Args:
        experiment: What is emulated.
    """

    servers: Servers
    cluster: Cluster

    def __init__(self, experiment: Experiment) -> None:
        self._hosts = experiment.hosts
        self._speed = functools.partial(speed, experiment)
        self._dispatcher = experiment.dispatcher
        self._entries: dict[str, tuple[str, Mapping[str, Any]]] = {}
        self._speeds: dict[str, Path] = {}
        self._fitted: dict[str, CpuLimit] = {}
        self._off: Counter[str] = Counter()
        self._paused: Counter[str] = Counter()
        self._shares: defaultdict[str, dict[Hashable, float]] = defaultdict(dict)
        self._memories: defaultdict[str, dict[Hashable, int]] = defaultdict(dict)
        self._over = False

    # Servers ---------------------------------------------------------------------------------------------------------

    def equip(self, host: str, entry: str, config: Mapping[str, Any], speed_file: Path | None = None) -> None:
        """What the host's server is started with, now and whenever it is started again.

        Args:
            host: Which.
            entry: ``package.module:function``.
            config: Its configuration.
            speed_file: Where the speed is written that a worker's results are held back to.
        """
        self._entries[host] = (entry, config)
        if speed_file is not None:
            self._speeds[host] = speed_file

    def launch(self, host: str) -> ServerProcess:
        """Start the host's server.

        Raises:
            MachineError: If it can't be started.
        """
        entry, config = self._entries[host]
        self._paused.pop(host, None)
        return self.servers.spawn(host, host, entry, config)

    def kill_server(self, host: str) -> InForce:
        """SIGKILL the server on a host.

        On a busy machine a process takes tenths of a second to end, though it runs no instruction of its own any more;
        so that is only waited for to confirm the fault, which raises MachineError if it doesn't.
        """
        server = self.servers.get(host)
        if server is None or server.status is not None:
            return InForce(now_s(), "had ended before")
        self.servers.expect_end(server, "killed")
        server.kill()
        return InForce(now_s(), "killed", lambda: _ended(server))

    def start_server(self, host: str) -> InForce:
        """Start the server on a host again, once the one before has ended; to confirm it is to wait until it listens.

        A host that is off starts it when it is switched on; one whose server runs has it already.

        Raises:
            MachineError: If it can't be started, or the one before doesn't end.
        """
        server = self.servers.get(host)
        if self._off[host]:
            return InForce(now_s(), "off; its server starts with it")
        if server is not None and server.status is None and not self.servers.is_ending(server):
            return InForce(now_s(), "its server runs already")
        if self._over:
            return InForce(now_s(), "not started: the workload is over")
        if server is not None:
            _ended(server)
        started_s = now_s()
        self.launch(host)
        self.servers.tell(host, "starting")
        return InForce(started_s, "server started", lambda: self._listens(host, started_s))

    def ask_to_leave(self, host: str) -> InForce:
        """SIGTERM the server on a host: it hands over what it does, and ends; confirmed when it has taken the signal.

        A host that is paused takes it when it goes on.
        """
        server = self.servers.get(host)
        if server is None or server.status is not None:
            return InForce(now_s(), "had ended before")
        self.servers.expect_end(server, "left")
        server.terminate()
        self.servers.tell(host, "leaving")
        return InForce(now_s(), "asked to leave", lambda: self._asked(host, server))

    def _asked(self, host: str, server: ServerProcess) -> str:
        if self._paused[host]:
            return "asked to leave, while it hangs"
        _until(lambda: not server.is_asked, f"the server on {host} doesn't take SIGTERM")
        return "asked to leave"

    def _listens(self, host: str, since_s: float) -> str:
        def listens_or_is_gone(event: Event) -> bool:
            if not isinstance(event, ServerListening | HostStateChanged) or event.host != host:
                return False
            return event.t_s >= since_s and (isinstance(event, ServerListening) or event.state in DOWN_STATES)

        what = f"the start of the server on {host}"
        event = self.servers.watch.wait(listens_or_is_gone, 1, LISTEN_TIMEOUT_S, what)[0]
        if not isinstance(event, ServerListening):
            return "ended before it listened"  # another fault's work
        self.servers.tell(host, "ready")
        return "server listens"

    # Power -----------------------------------------------------------------------------------------------------------

    def power_off(self, host: str) -> InForce:
        """Cut the power: first its links, so that nobody is told, then its server; in force when both have happened.

        Raises:
            MachineError: If its links don't go down.
        """
        self._off[host] += 1
        if self._off[host] > 1:
            return InForce(now_s(), "was off already")
        self.cluster.disconnect_host(host)
        server = self.servers.get(host)
        if server is not None:
            self.servers.expect_end(server, None)
            server.kill()
        off_s = now_s()
        self.servers.tell(host, "off")
        return InForce(off_s, "links down", lambda: f"links down, {_ended(server)}" if server else "links down")

    def power_on(self, host: str) -> InForce:
        """Give it power: its links, with the same addresses, and a server; confirmed when that listens.

        Raises:
            MachineError: If its links don't come up, or its server can't be started.
        """
        if not self._off[host]:
            return InForce(now_s(), "was on already")
        self._off[host] -= 1
        if self._off[host]:
            return InForce(now_s(), "stays off: another fault has cut its power")
        self.bring_back_links(host)
        return self.start_server(host)

    def keep_off(self, host: str) -> None:
        """Let a host begin as one that isn't there, until it is switched on."""
        self._off[host] += 1
        self.cluster.disconnect_host(host)
        self.servers.tell(host, "absent")

    def bring_back_links(self, host: str) -> None:
        """Undo a power cut's work on the links; what the host had to say before it is never said.

        Raises:
            MachineError: If the kernel can't.
        """
        server = self.servers.get(host)
        if server is not None:
            _ended(server)
        self.cluster.forget_connections(host)
        self.cluster.reconnect_host(host)

    def start_no_more(self) -> None:
        """The workload is over: faults that heal now start no server."""
        self._over = True

    def hosts_off(self) -> tuple[str, ...]:
        """The hosts without power."""
        return tuple(host for host, count in self._off.items() if count > 0)

    # Hanging ---------------------------------------------------------------------------------------------------------

    def pause(self, host: str) -> InForce:
        """Stop the server's process by SIGSTOP: it hangs, its kernel holds its connections.

        Confirmed when all of its threads are stopped.
        """
        server = self.servers.get(host)
        if server is None or self.servers.is_ending(server) or not server.stop():
            return InForce(now_s(), "had ended before")
        paused_s = now_s()
        self._paused[host] += 1
        self.servers.tell(host, "paused")

        def confirm() -> str:
            _until(lambda: server.is_stopped or server.status is not None, f"the server on {host} doesn't stop")
            return "all threads stopped" if server.status is None else "ended meanwhile"

        return InForce(paused_s, "stopped", confirm)

    def resume(self, host: str) -> InForce:
        """Let it go on, unless another fault holds it."""
        if self._paused[host] == 0:
            return InForce(now_s(), "its server has ended meanwhile")
        self._paused[host] -= 1
        if self._paused[host]:
            return InForce(now_s(), "stays paused: another fault holds it")
        server = self.servers[host]
        if not server.go_on():
            return InForce(now_s(), "its server has ended meanwhile")
        resumed_s = now_s()
        if not self.servers.is_ending(server):
            self.servers.tell(host, "ready")

        def confirm() -> str:
            _until(lambda: not server.is_stopped, f"the server on {host} doesn't go on")
            return "goes on"

        return InForce(resumed_s, "goes on", confirm)

    # Limits ----------------------------------------------------------------------------------------------------------

    def set_cpu(self, host: str, share: float | None, by: Hashable = None) -> InForce:
        """Change a host's speed, and read it back.

        A quota that was fitted to this machine is multiplied by the ratio of the shares, so what it makes up for stays
        made up for. A worker holds its results back accordingly, from the next request on.

        Args:
            host: Which.
            share: Of one core; None takes back what `by` had asked for.
            by: Who asks.

        Raises:
            MachineError: If the kernel can't account for the share, or keeps another.
        """
        _ask(self._shares[host], by, share)
        declared = self._hosts[host].share
        wanted = min(self._shares[host].values(), default=declared)
        limit = self.servers.limits[host]
        if limit is not None:
            fitted = self._fitted.setdefault(host, limit)
            # What a worker runs is one thread; the dispatcher has several.
            most = max(wanted, declared) if host == self._dispatcher else 1.0
            self.servers.set_cpu(host, scaled(fitted, min(most, wanted) / min(most, declared)))
        if host in self._speeds:
            write_speed(self._speeds[host], self._speed(wanted))
        return InForce(now_s(), f"{wanted:.3g} of a core")

    def set_memory(self, host: str, limit_bytes: int | None, by: Hashable = None) -> InForce:
        """Change a host's memory limit, and read it back; below what it holds, the kernel kills its server.

        When the limit is taken back, a server that was killed for it is started again.

        Args:
            host: Which.
            limit_bytes: The limit; None takes back what `by` had asked for.
            by: Who asks.

        Raises:
            MachineError: If the kernel refuses the limit, or keeps another.
        """
        _ask(self._memories[host], by, limit_bytes)
        declared = self._hosts[host].memory_bytes
        asked = [*self._memories[host].values(), *([] if declared is None else [declared])]
        wanted = min(asked, default=None)
        group = self.servers.groups[host]
        self.servers.memory_bytes[host] = wanted
        join = None if wanted is None else group.squeeze_memory(wanted)
        if wanted is None:
            group.set_memory(None)
        now, text = now_s(), "unlimited" if wanted is None else format_size(wanted)
        if join is not None and wanted is not None:
            return InForce(now, text, lambda: self._burst(host, wanted, join))
        if limit_bytes is None and host in self.servers.starved:
            started = self.start_server(host)
            return InForce(started.t_s, f"{text}; {started.detail}", started.confirm)
        return InForce(now, text)

    def _burst(self, host: str, limit_bytes: int, join: Path) -> str:
        """Have the kernel kill what doesn't fit, then set the limit."""
        server, group = self.servers.get(host), self.servers.groups[host]
        held = group.stats().memory_rss_bytes
        if server is not None and server.status is None:
            offer(server.pid)
        config = {"join": str(join), "most_bytes": held}
        balloon = self.servers.spawn(f"{host}.balloon", None, "runner.balloon:main", config, on_end=lambda *_: None)
        try:
            balloon.wait(KILL_TIMEOUT_S)
            if server is not None:
                _ended(server)
        except TimeoutError as error:
            raise MachineError(f"the kernel doesn't kill for the memory of {host}: {error}") from error
        finally:
            balloon.kill()
        if self.servers.memory_bytes[host] == limit_bytes:
            group.set_memory(limit_bytes)
        return f"{format_size(limit_bytes)}; the kernel killed its server, which held {format_size(held)}"


def scaled(limit: CpuLimit, factor: float) -> CpuLimit:
    """A quota so many times as large; its period is lengthened where the quota would be too small for the kernel.

    Raises:
        MachineError: If no period is long enough.
    """
    share = limit.share * factor
    return CpuLimit(share, min(1.0, max(limit.period_s, 1.001e-3 / share)))


def _ask(asked: dict[Hashable, Any], by: Hashable, value: object) -> None:
    if value is None:
        asked.pop(by, None)
    else:
        asked[by] = value


def _until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that the kernel has no event for.

    Raises:
        MachineError: If it doesn't happen in time.
    """
    deadline_s = time.monotonic() + TAKEN_TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise MachineError(f"{what} within {TAKEN_TIMEOUT_S:g} s")
        time.sleep(POLL_S)


def _ended(server: ServerProcess) -> str:
    """Wait until a server that was killed has ended.

    Raises:
        MachineError: If it doesn't in time.
    """
    try:
        status = server.wait(KILL_TIMEOUT_S)
    except TimeoutError as error:
        raise MachineError(str(error)) from error
    return f"ended by {signal.Signals(-status).name}" if status < 0 else f"status {status}"

"""The processes of a run: each in its host's namespace and control group, with its output in a log of its own."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from runner.events import HostStateChanged
from runner.history import History
from runner.observer import Observer, Watch
from testbed.emulation.cgroups import Cgroup, CgroupManager, CpuLimit
from testbed.emulation.cluster import Cluster
from testbed.emulation.manifest import RunManifest
from testbed.emulation.nursery import Nursery, ServerProcess, SpawnRequest
from testbed.serving.events import ServerListening, now_s
from testbed.spec.experiment import Experiment
from testbed.units import format_size

CLIENT = "workload.client"
SENTINEL = "machine.sentinel"
METRONOME = "machine.metronome"
"""Names of processes that are no hosts; a host's name has no dot."""

LISTEN_TIMEOUT_S = 30.0
KILL_TIMEOUT_S = 5.0

EndCallback = Callable[[int, float], None]


class Servers:
    """Starts processes, knows which of them may end, and tells the history of the state of their hosts.

    Args:
        experiment: What is emulated.
        nursery: Forks them.
        cluster: Has the hosts' namespaces.
        manager: Makes the hosts' control groups.
        manifest: Journal of the run.
        logs: A folder for their output.
        history: Where the hosts' states go.
        watch: Told when the run can't go on.
        observer: Hears the processes' events.
        limits: The CPU limit of each host to start with; None where nothing is limited.

    Attributes:
        limits: The CPU limit of each host now.
        memory_bytes: The memory limit of each host now; None where there is none.
        groups: The control group of each host.
        starved: Hosts whose server the kernel has killed at a limit that a fault had squeezed.
        watch: As given.
    """

    def __init__(
        self,
        experiment: Experiment,
        nursery: Nursery,
        cluster: Cluster,
        manager: CgroupManager,
        manifest: RunManifest,
        logs: Path,
        history: History,
        watch: Watch,
        observer: Observer,
        limits: Mapping[str, CpuLimit | None],
    ) -> None:
        self.limits = dict(limits)
        self.groups: dict[str, Cgroup] = {}
        self.memory_bytes = {host: spec.memory_bytes for host, spec in experiment.hosts.items()}
        self.starved: set[str] = set()
        self.watch = watch
        self._experiment = experiment
        self._nursery = nursery
        self._cluster = cluster
        self._manager = manager
        self._manifest = manifest
        self._logs = logs
        self._history = history
        self._observer = observer
        self._processes: dict[str, ServerProcess] = {}
        self._on_end: dict[str, EndCallback] = {}
        self._ordered: dict[int, str | None] = {}
        self._oom_kills: dict[str, int] = {}
        self._ending = False
        nursery.on_exit(self._on_exit)

    def __getitem__(self, name: str) -> ServerProcess:
        """The process that was last started under a name.

        Raises:
            KeyError: If none was.
        """
        return self._processes[name]

    def get(self, name: str) -> ServerProcess | None:
        """The process that was last started under a name, if one was."""
        return self._processes.get(name)

    def make_groups(self) -> None:
        """A control group for each host, with its limits.

        Raises:
            MachineError: If a limit can't be set.
        """
        for host, spec in self._experiment.hosts.items():
            self.groups[host] = self._manager.create(self._manifest, host, self.limits[host], spec.memory_bytes)
            self.tell(host, "starting")

    def make_group(self, name: str) -> Cgroup:
        """A control group without limits, for a process that is no host's."""
        return self._manager.create(self._manifest, name, None, None)

    def set_cpu(self, host: str, limit: CpuLimit) -> None:
        """Change a host's CPU limit, and read it back."""
        self.groups[host].set_cpu(limit)
        self.limits[host] = limit

    def spawn(
        self,
        name: str,
        host: str | None,
        entry: str,
        config: Mapping[str, Any],
        *,
        cgroup: Cgroup | None = None,
        fds: tuple[int, ...] = (),
        on_end: EndCallback | None = None,
    ) -> ServerProcess:
        """Start a process.

        Args:
            name: Its own; its log's too, to which a second process of that name appends.
            host: Whose namespace it enters; None for the machine's.
            entry: ``package.module:function``.
            config: Its configuration.
            cgroup: Its control group; the host's unless given. A process without a host needs none.
            fds: What it is given besides the socket for events.
            on_end: Called with its status and the time, instead of the history being told, of an end that nobody
                ordered; by the nursery's own thread, so it must be quick.

        Raises:
            MachineError: If it can't be started.
        """
        if on_end is not None:
            self._on_end[name] = on_end
        group = self.groups[host] if cgroup is None and host is not None else cgroup
        request = SpawnRequest(
            name=name,
            entry=entry,
            config=config,
            stdout=self.log(name),
            netns_pid=None if host is None else self._cluster.host_pid(host),
            cgroup_paths=() if group is None else group.join_paths(),
            fds=(self._observer.writing_end.fileno(), *fds),
        )
        self.starved.discard(name)
        self._processes[name] = self._nursery.spawn(request)
        return self._processes[name]

    def log(self, name: str) -> Path:
        """Where the output of a process goes."""
        return self._logs / f"{name}.log"

    def expect_end(self, server: ServerProcess, state: str | None) -> None:
        """From now on the end of this process is what was wanted.

        Args:
            server: The process.
            state: What its host is when it has ended; None if that is told already.
        """
        self._ordered[server.pid] = state

    def is_ending(self, server: ServerProcess) -> bool:
        """Whether its end is what is wanted."""
        return self._ending or server.pid in self._ordered

    def expect_all_ends(self) -> None:
        """From now on any end is what was wanted."""
        self._ending = True

    def kill_all(self) -> None:
        """End every process."""
        self.expect_all_ends()
        for server in self._processes.values():
            server.kill()
        for server in self._processes.values():
            server.wait(KILL_TIMEOUT_S)

    def await_listening(self, hosts: set[str]) -> None:
        """Wait until the servers on these hosts accept connections.

        Raises:
            ExperimentError: If they don't in time.
        """
        self.watch.wait(
            lambda event: isinstance(event, ServerListening) and event.host in hosts,
            len(hosts),
            LISTEN_TIMEOUT_S,
            "the start of the partition servers",
        )
        for host in hosts:
            self.tell(host, "ready")

    def tell(self, host: str, state: str, detail: str = "") -> None:
        """Tell the history of a host's state."""
        self._history.append(HostStateChanged(t_s=now_s(), host=host, state=state, detail=detail))

    def _on_exit(self, name: str, pid: int, status: int, t_s: float) -> None:
        if self._ending:
            return
        server = self._processes.get(name)
        detail = f"status {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"
        if server is not None and server.detail:
            detail = f"{detail}: {server.detail}"
        if pid in self._ordered and (self._ordered[pid] != "left" or status in (0, -signal.SIGTERM, -signal.SIGKILL)):
            if (state := self._ordered[pid]) is not None:
                self._history.append(HostStateChanged(t_s=t_s, host=name, state=state, detail=detail))
            return
        if name in self._on_end:
            self._on_end[name](status, t_s)
            return
        state = "dead"
        if status == -signal.SIGKILL and self._was_starved(name):
            limit = self.memory_bytes[name]
            detail = f"out of memory: the kernel killed it at its limit of {format_size(limit or 0)}"
            if limit != self._experiment.hosts[name].memory_bytes:
                self.starved.add(name)
                state = "killed"
        self._history.append(HostStateChanged(t_s=t_s, host=name, state=state, detail=detail))
        if state == "dead" and name == self._experiment.dispatcher:
            self.watch.fail(f"the dispatcher ended with {detail}; see {self.log(name)}")

    def _was_starved(self, name: str) -> bool:
        """Whether the kernel has killed something of a host for want of memory since this was last asked."""
        if name not in self.groups:
            return False
        before, now = self._oom_kills.get(name, 0), self.groups[name].stats().oom_kills
        self._oom_kills[name] = now
        return now > before

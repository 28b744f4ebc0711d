"""The emulated cluster with the system on it: what an experiment acts on.

The lab belongs to the experimenter. It starts processes, kills them, changes links and reads counters; the system
under test never learns of it but by what it feels on the emulated network.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from runner import metronome
from runner.client import GO
from runner.events import HostSample, LinkSample
from runner.faults.base import Way
from runner.faults.compilation import foreseen
from runner.history import History
from runner.lab_disks import LabDisks, disk_sizes
from runner.lab_hosts import LabHosts
from runner.lab_quotas import fit_quotas
from runner.lab_servers import CLIENT, LISTEN_TIMEOUT_S, METRONOME, SENTINEL, Servers
from runner.limits import cpu_limits
from runner.observer import Observer, Watch
from runner.outfit import Outfit
from runner.preparation import Prepared
from runner.tcp_timers import stretch_time_outs
from testbed.emulation.cgroups import CgroupManager
from testbed.emulation.cluster import Cluster
from testbed.emulation.disks import Disks
from testbed.emulation.manifest import RunManifest
from testbed.emulation.nursery import Nursery
from testbed.emulation.overlay import Modification
from testbed.emulation.shaping import Shape
from testbed.errors import ExperimentError
from testbed.serving.events import ClientFinished, ClientReady, ServiceState
from testbed.spec.faults.timeline import joining

NURSERY_PRELOAD = (
    "torch",
    "safetensors.torch",
    "testbed.serving.node",
    "testbed.serving.dispatcher",
    "runner.client",
    "runner.sentinel",
    "runner.quota_fit",
    "runner.metronome",
)


class Lab(LabHosts, LabDisks):
    """Everything of a run that has to be undone; use it as a context manager, in the main thread.

    Args:
        prepared: Model, problem and first plan.
        manifest: Journal of the run.
        work: A folder for what the processes need: the model, the nodes' storage.
        logs: A folder for their output.
        history: Where all events go.
        delay_backend: As for the cluster.
        has_disks: Whether this machine can give hosts file systems of their own.
        owner: User and group that own the logs; None for whoever runs this.
    """

    def __init__(
        self,
        prepared: Prepared,
        manifest: RunManifest,
        work: Path,
        logs: Path,
        history: History,
        *,
        delay_backend: str = "auto",
        has_disks: bool = True,
        owner: tuple[int, int] | None = None,
    ) -> None:
        LabHosts.__init__(self, prepared.emulated.experiment)
        LabDisks.__init__(self)
        self.prepared = prepared
        self.watch = Watch(history)
        self.breakdown: str | None = None
        self._experiment = prepared.emulated.experiment
        self._network = prepared.emulated.network
        self._joining = joining(prepared.experiment)
        self._manifest = manifest
        self._outfit = Outfit(prepared, work)
        self._time_scale = prepared.experiment.compute.time_scale
        self._logs = logs
        self._history = history
        self._stack = contextlib.ExitStack()
        self._manager = CgroupManager.detect()
        self.nursery = Nursery(NURSERY_PRELOAD, logs, manifest, log_owner=owner)
        self.nursery.on_nursery_death(lambda status, _: self.break_down(f"the nursery ended with status {status}"))
        self.cluster = Cluster(
            self._network,
            self._experiment.hosts,
            manifest.run_name,
            manifest,
            delay_backend,  # type: ignore[arg-type]
            seed=prepared.experiment.seed,
            on_failure=self.break_down,
            switching=self._experiment.switching,
            foreseen=foreseen(prepared.experiment),
        )
        sizes = disk_sizes(prepared.experiment, possible=has_disks)
        self.disks = Disks(sizes, self._outfit.storage, work / "disks", manifest)

    def __enter__(self) -> Self:
        """Start the nursery, whose imports take seconds, and build the cluster meanwhile."""
        with contextlib.ExitStack() as stack:
            observer = stack.enter_context(Observer(self._history))
            stack.callback(self._manager.remove_run, self._manifest.run_name)
            self.servers = Servers(
                self._experiment,
                self.nursery,
                self.cluster,
                self._manager,
                self._manifest,
                self._logs,
                self._history,
                self.watch,
                observer,
                cpu_limits(self.prepared),
            )
            stack.enter_context(self.cluster_after_nursery())
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def break_down(self, reason: str) -> None:
        """A part of the emulation has failed, not the system under test: every wait raises, and the run is invalid."""
        self.breakdown = self.breakdown or reason
        self.watch.fail(reason)

    @contextlib.contextmanager
    def cluster_after_nursery(self) -> Iterator[None]:
        """Nursery, cluster and disks; at the end the servers go first, which hold files and namespaces open."""
        self.nursery.start()
        try:
            self.cluster.start()
            # After the hosts, each of whose mount namespaces would keep a copy of every mount.
            self.disks.start()
            stretch_time_outs(map(self.cluster.host_pid, self._experiment.hosts), self._time_scale)
            self.servers.make_groups()
            # What comes next measures the links; on a machine with one core the imports would take the CPU from that.
            self.nursery.ready()
            yield
        finally:
            self.servers.expect_all_ends()
            with contextlib.ExitStack() as last:
                last.callback(self.cluster.stop)
                last.callback(self.disks.stop)
                self.nursery.close()

    # The system under test -------------------------------------------------------------------------------------------

    def start_sentinel(self) -> None:
        """The sentinel, beside the hosts but without a quota: late wake-ups of its own tell of theirs."""
        group = self.servers.make_group(SENTINEL)
        self.servers.spawn(SENTINEL, None, "runner.sentinel:main", {}, cgroup=group)

    def start_metronomes(self) -> None:
        """One on each CPU where workers have quotas; outside the run's groups, which have no real-time share."""
        if any(self.servers.limits[host] is not None for host in self._experiment.workers):
            for cpu in metronome.cpus():
                self.servers.spawn(f"{METRONOME}{cpu}", None, "runner.metronome:main", {"cpu": cpu})

    def fit_quotas(self, cores: float) -> None:
        """Correct the workers' CPU quotas by measurement; see :func:`runner.lab_quotas.fit_quotas`."""
        fit_quotas(self.servers, self.prepared, self._outfit.package, self._history, cores)

    def write_model(self) -> None:
        """The model, as the dispatcher holds it."""
        self._outfit.write_model()

    def start_nodes(self) -> None:
        """A partition server on every worker that is there from the start; returns when all of them listen.

        Hosts that join later fall silent.

        Raises:
            MachineError: If one can't be started.
            ExperimentError: If one doesn't listen in time.
        """
        for host in self._experiment.workers:
            self.equip(host, "testbed.serving.node:main", self._outfit.node(host), self._outfit.speed_file(host))
            if host in self._joining:
                self.keep_off(host)
            else:
                self.launch(host)
        self.servers.await_listening(set(self._experiment.workers) - self._joining)

    def start_dispatcher(self) -> None:
        """The dispatcher; returns when the first plan serves.

        Raises:
            ExperimentError: If it doesn't serve in time, or finds too few hosts.
        """
        host = self._experiment.dispatcher
        self.equip(host, "testbed.serving.dispatcher:main", self._outfit.dispatcher())
        self.launch(host)
        states = self.watch.wait(
            lambda event: isinstance(event, ServiceState) and event.state in ("serving", "degraded", "unavailable"),
            1,
            self._outfit.patience_s,
            "the first plan's deployment",
        )
        if isinstance(states[0], ServiceState) and states[0].state == "unavailable":
            raise ExperimentError(f"the service can't start: {states[0].detail}")

    def start_client(self) -> None:
        """The client, on the dispatcher's host but outside its CPU share; returns when it is ready to ask.

        Raises:
            ExperimentError: If it isn't ready in time.
        """
        config = self._outfit.client()
        start, self._go = os.pipe()
        self._stack.callback(os.close, self._go)
        try:
            group, host, fds = self.servers.make_group(CLIENT), self._experiment.dispatcher, (start,)
            self.servers.spawn(
                CLIENT, host, "runner.client:main", config, cgroup=group, fds=fds, on_end=lambda *_: None
            )
        finally:
            os.close(start)
        self.watch.wait(lambda event: isinstance(event, ClientReady), 1, LISTEN_TIMEOUT_S, "the client's start")

    def go(self, zero_s: float) -> None:
        """Let the client begin at ``zero_s``."""
        os.write(self._go, GO.pack(zero_s))

    def wait_finished(self) -> None:
        """Wait until the client has all outcomes or has given up.

        Raises:
            ExperimentError: If it doesn't end in time, or the emulation broke.
        """
        limit_s = self._experiment.workload.duration_s + self._outfit.patience_s + 30
        self.watch.wait(lambda event: isinstance(event, ClientFinished), 1, limit_s, "the end of the workload")

    def stop_system(self) -> None:
        """End every process of the system under test, which would only disturb the measuring; links come back for it.

        Raises:
            MachineError: If a process doesn't end, or a link doesn't come back.
        """
        self.servers.kill_all()
        for host in self.hosts_off():
            self.bring_back_links(host)

    # Faults ----------------------------------------------------------------------------------------------------------

    def modify_links(self, ways: Sequence[Way], fault: Hashable, modification: Modification | None) -> Sequence[Shape]:
        """Lay a fault over directions of links, change it or (None) take it away."""
        return self.cluster.modify_links(ways, fault, modification)

    def cut_hosts(self, fault: Hashable, pairs: Sequence[tuple[str, str]]) -> None:
        """Let no packet of either host of a pair reach the other; without pairs the fault is taken away."""
        self.cluster.cut_hosts(fault, pairs)

    # Samples ---------------------------------------------------------------------------------------------------------

    def sample(self) -> None:
        """Read every host's cgroup and every link's counters into the history."""
        for host, group in self.servers.groups.items():
            stats = group.stats()
            self._history.append(
                HostSample(
                    t_s=time.monotonic(),
                    host=host,
                    cpu_usage_s=stats.cpu_usage_s,
                    throttled_s=stats.throttled_s,
                    nr_throttled=stats.nr_throttled,
                    memory_bytes=stats.memory_rss_bytes,
                    oom_kills=stats.oom_kills,
                    cpu_share=None if (limit := self.servers.limits[host]) is None else limit.share,
                )
            )
        for counters in self.cluster.link_counters():
            self._history.append(
                LinkSample(
                    t_s=counters.t_s,
                    link=counters.link,
                    source=counters.source,
                    target=counters.target,
                    sent_bytes=counters.sent_bytes,
                    drops=counters.drops,
                    backlog_bytes=counters.backlog_bytes,
                    rate_bps=self.cluster.current_shape(counters.link, counters.source).rate_bps,
                )
            )

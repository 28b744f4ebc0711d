"""The emulated cluster with the system on it: what an experiment acts on.

The lab belongs to the experimenter. It starts processes, kills them, changes links and reads counters; the system
under test never learns of it but by what it feels on the emulated network.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from runner import quota_fit
from runner.client import GO
from runner.faults import InForce
from runner.history import History, HostSample, HostStateChanged, LinkSample, QuotaFitted, QuotaProbed
from runner.limits import Duty, cpu_limits, duties
from runner.observer import Observer, Watch
from runner.outfit import Outfit
from runner.preparation import Prepared
from runner.tcp_timers import stretch_time_outs
from testbed.emulation.cgroups import Cgroup, CgroupManager, CpuLimit
from testbed.emulation.cluster import Cluster
from testbed.emulation.manifest import RunManifest
from testbed.emulation.nursery import Nursery, ServerProcess, SpawnRequest
from testbed.errors import ExperimentError, MachineError
from testbed.serving.events import (
    ClientFinished,
    ClientReady,
    ServerListening,
    ServiceState,
    now_s,
)
from testbed.units import format_size

NURSERY_PRELOAD = (
    "torch",
    "safetensors.torch",
    "testbed.serving.node",
    "testbed.serving.dispatcher",
    "runner.client",
    "runner.sentinel",
    "runner.quota_fit",
)
CLIENT = "workload.client"
SENTINEL = "machine.sentinel"
"""Names of processes that are no hosts; a host's name has no dot."""

LISTEN_TIMEOUT_S = 30.0
KILL_TIMEOUT_S = 5.0


class Lab:
    """Everything of a run that has to be undone; use it as a context manager, in the main thread.

    Args:
        prepared: Model, problem and first plan.
        manifest: Journal of the run.
        work: A folder for what the processes need: the model, the nodes' storage.
        logs: A folder for their output.
        history: Where all events go.
        delay_backend: As for the cluster.
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
        owner: tuple[int, int] | None = None,
    ) -> None:
        self.prepared = prepared
        self.watch = Watch(history)
        self._experiment = prepared.emulated.experiment
        self._network = prepared.emulated.network
        self._limits: dict[str, CpuLimit | None] = dict(cpu_limits(prepared))
        self._manifest = manifest
        self._outfit = Outfit(prepared, work)
        self._time_scale = prepared.experiment.compute.time_scale
        self._logs = logs
        self._history = history
        self._servers: dict[str, ServerProcess] = {}
        self._ordered: set[str] = set()
        self._probes: dict[str, str] = {}
        self._stack = contextlib.ExitStack()
        self._groups: dict[str, Cgroup] = {}
        self._manager = CgroupManager.detect()
        self.nursery = Nursery(NURSERY_PRELOAD, logs, manifest, log_owner=owner)
        self.nursery.on_exit(self._on_exit)
        self.nursery.on_nursery_death(lambda status, _: self.watch.fail(f"the nursery ended with status {status}"))
        self.cluster = Cluster(
            self._network,
            self._experiment.hosts,
            manifest.run_name,
            manifest,
            delay_backend,  # type: ignore[arg-type]
            seed=prepared.experiment.seed,
            on_failure=self.watch.fail,
            switching=self._experiment.switching,
        )

    def __enter__(self) -> Self:
        """Start the nursery, whose imports take seconds, and build the cluster meanwhile."""
        with contextlib.ExitStack() as stack:
            self._observer = stack.enter_context(Observer(self._history))
            stack.callback(self._manager.remove_run, self._manifest.run_name)
            stack.enter_context(self.cluster_after_nursery())
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def cluster_after_nursery(self) -> Iterator[None]:
        """Nursery and cluster; at the end the servers go first, then the cluster, whose namespaces they hold open."""
        self.nursery.start()
        try:
            self.cluster.start()
            stretch_time_outs(map(self.cluster.host_pid, self._experiment.hosts), self._time_scale)
            for host, spec in self._experiment.hosts.items():
                limit = self._limits[host]
                self._groups[host] = self._manager.create(self._manifest, host, limit, spec.memory_bytes)
                self._tell(host, "starting")
            # What comes next measures the links; on a machine with one core the imports would take the CPU from that.
            self.nursery.ready()
            yield
        finally:
            self._ordered |= self._servers.keys()
            try:
                self.nursery.close()
            finally:
                self.cluster.stop()

    # The system under test -------------------------------------------------------------------------------------------

    def start_sentinel(self) -> None:
        """The sentinel, beside the hosts but without a quota: late wake-ups of its own tell of theirs."""
        group = self._manager.create(self._manifest, SENTINEL, None, None)
        self._spawn(SENTINEL, None, "runner.sentinel:main", {}, cgroup=group)

    def fit_quotas(self, cores: float) -> None:
        """Measure how fast each worker computes under its quota, and correct that; see :mod:`runner.quota_fit`.

        A host that can't compute its stage (for want of memory, say) keeps its quota; the system under test will meet
        the same trouble.

        Args:
            cores: What all hosts may use together.

        Raises:
            MachineError: If a quota can't be set.
            ExperimentError: If the measuring doesn't end in time.
        """
        limited = {host for host in self._experiment.workers if self._limits[host] is not None}
        duties_of = {host: duty for host, duty in duties(self.prepared).items() if host in limited and duty.core_s > 0}
        declared = {host: spec.share for host, spec in self._experiment.hosts.items()}
        trials: dict[str, list[quota_fit.Trial]] = defaultdict(list)
        for number in range(1, quota_fit.ROUNDS + 1):
            limits = {host: limit for host, limit in self._limits.items() if limit is not None}
            found = self._measure_paces(duties_of, number) if duties_of else {}
            for host, (_, pace) in found.items():
                trials[host].append(quota_fit.Trial(limits[host], pace))
                self._history.append(
                    QuotaFitted(
                        t_s=now_s(),
                        host=host,
                        declared_cpu_share=declared[host],
                        quota_cpu_share=limits[host].share,
                        service_s=pace.service_s,
                    )
                )
            off = {host: one for host, one in found.items() if not quota_fit.is_close(*one)}
            if not off:
                return
            if number > quota_fit.CORRECTIONS:
                continue
            for host, (wanted_s, _) in off.items():
                limits[host] = quota_fit.corrected(min(1.0, declared[host]), wanted_s, trials[host])
            for host, limit in quota_fit.within(limits, declared, cores).items():
                if limit != self._limits[host]:
                    self._groups[host].set_cpu(limit)
                    self._limits[host] = limit

    def _measure_paces(self, duties_of: Mapping[str, Duty], number: int) -> dict[str, tuple[float, quota_fit.Pace]]:
        """What each host's stage should take and what it takes, all hosts computing at once under their quotas."""
        wanted_s = {
            host: duty.core_s / min(1.0, self._experiment.hosts[host].share) for host, duty in duties_of.items()
        }
        for host, duty in duties_of.items():
            config = {
                "host": host,
                "package": str(self._outfit.package),
                "first_op": duty.first_op,
                "last_op": duty.last_op,
                "service_s": wanted_s[host],
            }
            self._probes[f"{host}.probe{number}"] = host
            self._spawn(f"{host}.probe{number}", host, "runner.quota_fit:main", config, cgroup=self._groups[host])
        limit_s = LISTEN_TIMEOUT_S + 10 * max([quota_fit.MOST_S, *wanted_s.values()])
        count = len(duties_of)
        probed = self.watch.wait(
            lambda event: isinstance(event, QuotaProbed), number * count, limit_s, "the fit of the hosts' quotas"
        )[-count:]
        for host in duties_of:
            self._servers[f"{host}.probe{number}"].wait(KILL_TIMEOUT_S)
        return {
            probe.host: (wanted_s[probe.host], quota_fit.Pace(probe.runs, probe.took_s))
            for probe in probed
            if isinstance(probe, QuotaProbed) and probe.runs
        }

    def write_model(self) -> None:
        """The model, as the dispatcher holds it."""
        self._outfit.write_model()

    def start_nodes(self) -> None:
        """A partition server on every worker; returns when all of them listen.

        Raises:
            MachineError: If one can't be started.
            ExperimentError: If one doesn't listen in time.
        """
        for host in self._experiment.workers:
            config = self._outfit.node(host)
            self._spawn(host, host, "testbed.serving.node:main", config, cgroup=self._groups[host])
        self._await_listening(set(self._experiment.workers))

    def start_dispatcher(self) -> None:
        """The dispatcher; returns when the first plan serves.

        Raises:
            ExperimentError: If it doesn't serve in time, or finds too few hosts.
        """
        host = self._experiment.dispatcher
        config = self._outfit.dispatcher()
        self._spawn(host, host, "testbed.serving.dispatcher:main", config, cgroup=self._groups[host])
        states = self.watch.wait(
            lambda event: isinstance(event, ServiceState) and event.state in ("serving", "unavailable"),
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
            group = self._manager.create(self._manifest, CLIENT, None, None)
            self._spawn(CLIENT, self._experiment.dispatcher, "runner.client:main", config, cgroup=group, fds=(start,))
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
        """End every process of the system under test, which from now on would only disturb the measuring."""
        self._ordered |= self._servers.keys()
        for server in self._servers.values():
            server.kill()
        for server in self._servers.values():
            server.wait(KILL_TIMEOUT_S)

    def _spawn(
        self,
        name: str,
        host: str | None,
        entry: str,
        config: Mapping[str, Any],
        *,
        cgroup: Cgroup,
        fds: tuple[int, ...] = (),
    ) -> None:
        request = SpawnRequest(
            name=name,
            entry=entry,
            config=config,
            stdout=self._logs / f"{name}.log",
            netns_pid=None if host is None else self.cluster.host_pid(host),
            cgroup_paths=cgroup.join_paths(),
            fds=(self._observer.writing_end.fileno(), *fds),
        )
        self._servers[name] = self.nursery.spawn(request)

    def _await_listening(self, hosts: set[str]) -> None:
        self.watch.wait(
            lambda event: isinstance(event, ServerListening) and event.host in hosts,
            len(hosts),
            LISTEN_TIMEOUT_S,
            "the start of the partition servers",
        )
        for host in hosts:
            self._tell(host, "ready")

    def _on_exit(self, name: str, pid: int, status: int, t_s: float) -> None:
        if name in self._probes:
            if status:
                self._history.append(QuotaProbed(t_s=t_s, host=self._probes[name], runs=0, took_s=0.0))
            return
        if name in self._ordered or name == CLIENT:
            return
        server = self._servers.get(name)
        detail = f"status {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"
        group = self._groups.get(name)
        if group is not None and status == -signal.SIGKILL and group.stats().oom_kills:
            memory = self._experiment.hosts[name].memory_bytes
            detail = f"out of memory: the kernel killed it at its limit of {format_size(memory or 0)}"
        if server is not None and server.detail:
            detail = f"{detail}: {server.detail}"
        self._history.append(HostStateChanged(t_s=t_s, host=name, state="dead", detail=detail))
        if name == self._experiment.dispatcher:
            self.watch.fail(f"the dispatcher ended with {detail}; see {self._logs / f'{name}.log'}")

    def _tell(self, host: str, state: str, detail: str = "") -> None:
        self._history.append(HostStateChanged(t_s=now_s(), host=host, state=state, detail=detail))

    # Faults ----------------------------------------------------------------------------------------------------------

    def kill_server(self, host: str) -> InForce:
        """SIGKILL the server on a host.

        On a busy machine a process takes tenths of a second to end, though it runs no instruction of its own any more;
        so that is only waited for to confirm the fault, which raises MachineError if it doesn't.
        """
        server = self._servers[host]
        self._ordered.add(host)
        if not server.kill():
            return InForce(now_s(), "had ended before")
        return InForce(now_s(), "killed", lambda: self._confirm_end(host, server))

    def _confirm_end(self, host: str, server: ServerProcess) -> str:
        try:
            status = server.wait(KILL_TIMEOUT_S)
        except TimeoutError as error:
            raise MachineError(str(error)) from error
        self._tell(host, "killed")
        return f"ended by {signal.Signals(-status).name}" if status < 0 else f"status {status}"

    def set_link(self, link: str, *, rate_bps: int | None) -> None:
        """Change a link's rate in place, in both directions."""
        self.cluster.set_link(link, rate_bps=rate_bps)

    # Samples ---------------------------------------------------------------------------------------------------------

    def sample(self) -> None:
        """Read every host's cgroup and every link's counters into the history."""
        for host, group in self._groups.items():
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
                    cpu_share=None if (limit := self._limits[host]) is None else limit.share,
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

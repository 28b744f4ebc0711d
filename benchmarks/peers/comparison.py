"""What do two other systems lose, and how long do they hang, under the faults that ours is made for? Needs root.

    defer   DEFER's chain: its protocol and codec, our cuts and stage programs (benchmarks/peers/chain.py)
    gloo    a pipeline on torch.distributed with the gloo backend (benchmarks/peers/gloo.py)
    ours    the dispatcher and partition servers of this testbed, policy ``replan``

All three serve the same three stages of the same model on the same hosts of one emulated cluster, each host with its
share of a core; a fourth host is idle. A client keeps four requests in flight, and at the same time into the workload
the host of the middle stage

    kill      loses its server (SIGKILL: its connections are reset)
    poweroff  loses its power (silent: first the links, then the processes)
    throttle  has its link throttled to 1 Mbit/s for five seconds

A row: requests asked, answered right, wrong, and not at all; when the first of any process noticed (an exception, or
our detector), and when the asking side did; the longest time without a right answer from the fault on, ``for good``
where it doesn't serve again. Who has neither answered everything nor told the asker of an error within the bound (30 s,
quick: 12 s) is "still hanging".

    sudo python -m benchmarks.peers [--quick] [--only defer gloo ours] [--csv FILE]

Exits with 1 if our own system leaves a request unanswered, answers one wrong, or hangs; what the peers do is told, not
judged.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.asking import ERROR
from benchmarks.peers.trial import HANGING, Trial, outcome
from runner.client import GO
from runner.history import History
from runner.interruption import Interruptions
from runner.lab import NURSERY_PRELOAD
from runner.limits import cpu_limits
from runner.observer import Observer, Watch
from runner.outfit import Outfit
from runner.preparation import Prepared, prepare
from testbed.emulation.cgroup import Cgroup
from testbed.emulation.cgroups import CgroupManager
from testbed.emulation.cleaner import clean_run
from testbed.emulation.cluster import Cluster
from testbed.emulation.lock import machine_lock
from testbed.emulation.machine import require_root
from testbed.emulation.manifest import RunManifest
from testbed.emulation.nursery import Nursery, ServerProcess, SpawnRequest
from testbed.errors import ExperimentError
from testbed.planning.evaluate import evaluate
from testbed.planning.plan import Assignment
from testbed.serving.events import (
    ClientFinished,
    ClientReady,
    Note,
    ServerListening,
    ServiceState,
    now_s,
)
from testbed.spec import Experiment
from testbed.spec.hosts import HostSpec
from testbed.spec.inference import ModelSpec
from testbed.spec.links import LinkSpec
from testbed.spec.workload import ClosedWorkload

SYSTEMS = ("defer", "gloo", "ours")
FAULTS = ("none", "kill", "poweroff", "throttle")
STAGES = 3
WORKERS = tuple(f"node{number}" for number in range(1, STAGES + 2))
DISPATCHER = "dispatcher"
THROTTLED_BPS = 1_000_000
THROTTLED_S = 5.0
START_S = 90.0
KILL_S = 20.0
WORK_ROOT = Path("/var/tmp")  # noqa: S108 - the folder is made with mode 0700 under a name of the run's own
PRELOAD = (*NURSERY_PRELOAD, "torch.distributed", "benchmarks.peers.chain", "benchmarks.peers.gloo")


@dataclass(frozen=True, slots=True)
class Times:
    """Of a trial, in seconds: when the fault strikes, how long is asked, how long after the fault is waited."""

    fault_s: float
    duration_s: float
    bound_s: float


USUAL = Times(fault_s=5.0, duration_s=15.0, bound_s=30.0)
QUICK = Times(fault_s=3.0, duration_s=10.0, bound_s=12.0)


def experiment(times: Times) -> Experiment:
    """The cluster and the workload."""
    return Experiment(
        name="peers",
        hosts={DISPATCHER: HostSpec(cpu=0.4), **{host: HostSpec(cpu=0.25) for host in WORKERS}},
        switches=("s1",),
        links=tuple(
            LinkSpec(between=(host, "s1"), rate_bps=50_000_000, delay_s=0.002) for host in (DISPATCHER, *WORKERS)
        ),
        model=ModelSpec(name="mobilenet_v2", input=(1, 3, 224, 224)),
        workload=ClosedWorkload(in_flight=4, duration_s=times.duration_s, distinct=4),
    )


def thirds(compute_s: Sequence[float]) -> tuple[Assignment, ...]:
    """As many runs of segments as stages, as even in compute as segments allow, on the first hosts."""
    total_s, done_s = sum(compute_s), 0.0
    bounds = [0]
    for index, segment_s in enumerate(compute_s):
        if len(bounds) < STAGES and done_s + segment_s / 2 >= total_s * len(bounds) / STAGES:
            bounds.append(index)
        done_s += segment_s
    bounds.append(len(compute_s))
    return tuple(
        Assignment(host, first, last) for host, first, last in zip(WORKERS, bounds[:-1], bounds[1:], strict=False)
    )


@dataclass
class Bench:
    """The emulated cluster and what is started in it."""

    prepared: Prepared
    cluster: Cluster
    nursery: Nursery
    groups: Mapping[str, Cgroup]
    work: Path
    exits: list[tuple[str, int, float]] = field(default_factory=list)

    @property
    def hosts(self) -> tuple[str, ...]:
        """Hosts of the stages, in order."""
        return tuple(stage.host for stage in self.prepared.plan.stages)

    def address(self, host: str) -> str:
        """Its IP address."""
        return self.prepared.emulated.network.address(host)


@contextlib.contextmanager
def bench(prepared: Prepared, interruptions: Interruptions) -> Iterator[Bench]:
    """A cluster and a nursery; in the end nothing is left of them."""
    manifest = RunManifest.create(f"peers-{os.getpid()}")
    work = WORK_ROOT / f"testbed-{manifest.run_name}"
    declared = prepared.emulated.experiment
    try:
        manifest.will_create("directory", path=str(work))
        work.mkdir(mode=0o700)
        manager = CgroupManager.detect()
        with contextlib.ExitStack() as stack, interruptions.allowed():
            stack.callback(manager.remove_run, manifest.run_name)
            cluster = Cluster(
                prepared.emulated.network, declared.hosts, manifest.run_name, manifest, seed=declared.seed
            )
            stack.enter_context(cluster)
            nursery = stack.enter_context(Nursery(PRELOAD, work, manifest))
            limits = cpu_limits(prepared)
            groups = {
                host: manager.create(manifest, host, limits[host], spec.memory_bytes)
                for host, spec in declared.hosts.items()
            }
            made = Bench(prepared, cluster, nursery, groups, work)
            nursery.on_exit(lambda name, pid, status, t_s: made.exits.append((name, status, t_s)))
            nursery.ready()
            yield made
    finally:
        clean_run(manifest)


class System:
    """One of the three, started for one trial."""

    def __init__(self, made: Bench, name: str, history: History, observer: Observer, folder: Path) -> None:
        self._made = made
        self._name = name
        self._observer = observer
        self._folder = folder
        self._outfit = Outfit(made.prepared, folder)
        self.watch = Watch(history)
        self.servers: dict[str, ServerProcess] = {}

    def start(self) -> int:
        """Start everything; returns the pipe that lets the client begin."""
        self._outfit.write_model()
        start, go = os.pipe()
        try:
            {"defer": self._start_defer, "gloo": self._start_gloo, "ours": self._start_ours}[self._name](start)
            self.watch.wait(lambda event: isinstance(event, ClientReady), 1, START_S, f"the start of {self._name}")
        except BaseException:
            os.close(go)
            raise
        finally:
            os.close(start)
        return go

    def stop(self) -> None:
        """End every process."""
        for server in self.servers.values():
            server.kill()
        for server in self.servers.values():
            server.wait(KILL_S)

    def _spawn(self, name: str, host: str, entry: str, config: Mapping[str, Any], *fds: int) -> None:
        made = self._made
        self.servers[name] = made.nursery.spawn(
            SpawnRequest(
                name=name,
                entry=entry,
                config=config,
                stdout=self._folder / f"{name}.log",
                netns_pid=made.cluster.host_pid(host),
                cgroup_paths=made.groups[host].join_paths(),
                fds=(self._observer.writing_end.fileno(), *fds),
            )
        )

    def _await_listening(self, count: int) -> None:
        self.watch.wait(lambda event: isinstance(event, ServerListening), count, START_S, "the start of the servers")

    def _asking(self) -> dict[str, Any]:
        config = self._outfit.client()
        return {key: config[key] for key in ("samples", "distinct", "duration_s", "in_flight")}

    def _start_defer(self, start: int) -> None:
        made = self._made
        for host in made.hosts:
            config = {"host": host, "address": made.address(host)}
            self._spawn(host, host, "benchmarks.peers.chain:node", config)
        self._await_listening(len(made.hosts))
        dispatcher = {
            **self._asking(),
            "host": DISPATCHER,
            "address": made.address(DISPATCHER),
            "package": str(self._outfit.package),
            "stages": [(made.address(s.host), s.first_op, s.last_op) for s in made.prepared.plan.stages],
        }
        self._spawn(DISPATCHER, DISPATCHER, "benchmarks.peers.chain:dispatcher", dispatcher, start)

    def _start_gloo(self, start: int) -> None:
        made = self._made
        stages = made.prepared.plan.stages

        def config(host: str, rank: int, stage: Any) -> dict[str, Any]:
            return {
                "host": host,
                "address": made.address(host),
                "first_address": made.address(DISPATCHER),
                "rank": rank,
                "world_size": len(stages) + 1,
                "package": str(self._outfit.package),
                "first_op": stage.first_op,
                "last_op": stage.last_op,
            }

        asker = {**self._asking(), **config(DISPATCHER, 0, stages[-1])}
        self._spawn(DISPATCHER, DISPATCHER, "benchmarks.peers.gloo:asker", asker, start)
        for rank, stage in enumerate(stages, start=1):
            self._spawn(stage.host, stage.host, "benchmarks.peers.gloo:worker", config(stage.host, rank, stage))

    def _start_ours(self, start: int) -> None:
        for host in WORKERS:
            self._spawn(host, host, "testbed.serving.node:main", self._outfit.node(host))
        self._await_listening(len(WORKERS))
        self._spawn(DISPATCHER, DISPATCHER, "testbed.serving.dispatcher:main", self._outfit.dispatcher())
        self.watch.wait(
            lambda event: isinstance(event, ServiceState) and event.state == "serving", 1, START_S, "the deployment"
        )
        self._spawn("client", DISPATCHER, "runner.client:main", self._outfit.client(), start)


def strike(made: Bench, system: System, fault: str, host: str) -> Callable[[], None]:
    """Inject a fault; returns what heals it."""
    link = made.prepared.emulated.network.link(host, "s1").name
    match fault:
        case "kill":
            system.servers[host].kill()
        case "poweroff":
            made.cluster.disconnect_host(host)
            system.servers[host].kill()
            return lambda: made.cluster.reconnect_host(host)
        case "throttle":
            made.cluster.set_link(link, rate_bps=THROTTLED_BPS)
            healing = threading.Timer(THROTTLED_S, made.cluster.restore_link, (link,))
            healing.start()

            def heal() -> None:
                healing.cancel()
                healing.join()
                made.cluster.restore_link(link)

            return heal
    return lambda: None


def run_trial(made: Bench, name: str, fault: str, times: Times) -> Trial:
    """One system, one fault."""
    folder = made.work / f"{name}-{fault}"
    folder.mkdir()
    made.exits.clear()
    host = made.hosts[1]
    with History(folder / "events.jsonl") as history, Observer(history) as observer:
        system = System(made, name, history, observer, folder)
        heal: Callable[[], None] = lambda: None  # noqa: E731 - until something needs healing
        try:
            go = system.start()
            try:
                zero_s = now_s() + 0.2
                os.write(go, GO.pack(zero_s))
            finally:
                os.close(go)
            threading.Event().wait(max(0.0, zero_s + times.fault_s - now_s()))
            fault_s = now_s()
            heal = strike(made, system, fault, host)
            with contextlib.suppress(ExperimentError):  # nothing has ended within the bound: that is the finding
                system.watch.wait(
                    lambda event: isinstance(event, ClientFinished),
                    1,
                    max(times.bound_s, times.duration_s - times.fault_s + THROTTLED_S),
                    "the end",
                )
            ended_s = now_s()
        finally:
            heal()
            # What ends from here on was ended by us.
            exits = list(made.exits)
            system.stop()
        events = history.events
    killed = {name for name, status, _ in exits if status == -signal.SIGKILL}
    errors = [(t_s, name) for name, status, t_s in exits if status != 0 and name not in killed]
    errors += [
        (event.t_s, event.source) for event in events if isinstance(event, Note) and event.text.startswith(ERROR)
    ]
    return outcome(name, fault, events, errors, fault_s, ended_s, DISPATCHER)


def main() -> int:
    """Run all trials, print a table; 1 if ours broke a bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter trials: about four minutes")
    parser.add_argument("--only", nargs="+", choices=SYSTEMS, default=SYSTEMS)
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=FAULTS)
    parser.add_argument("--keep", type=Path, help="keep logs and histories in this folder")
    parser.add_argument("--csv", type=Path, default=Path("peers.csv"))
    arguments = parser.parse_args()
    times = QUICK if arguments.quick else USUAL
    trials: list[Trial] = []
    try:
        require_root()
        with Interruptions() as interruptions, machine_lock("peers"):
            with interruptions.allowed():
                prepared = prepare(experiment(times), lambda text: print(text, file=sys.stderr))
            problem = prepared.emulated.problem
            plan = evaluate(problem, thirds(problem.chain.compute_s), "exact", None, 0.0)
            prepared = dataclasses.replace(prepared, plan=plan)
            print(
                f"{'system':<8}{'fault':<10}{'asked':>6}{'right':>6}{'wrong':>6}{'missing':>8}"
                f"{'noticed after s':>17}{'asker told after s':>20}{'outage s':>10}"
            )
            with bench(prepared, interruptions) as made:
                for fault in arguments.faults:
                    for name in arguments.only:
                        with interruptions.allowed():
                            trial = run_trial(made, name, fault, times)
                        trials.append(trial)
                        print(trial.line(), flush=True)
                if arguments.keep is not None:
                    shutil.copytree(
                        made.work, arguments.keep, dirs_exist_ok=True, ignore=shutil.ignore_patterns("model")
                    )
    finally:
        if trials:
            with arguments.csv.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow([field.name for field in dataclasses.fields(Trial)])
                writer.writerows(dataclasses.astuple(trial) for trial in trials)
    ours = [trial for trial in trials if trial.system == "ours"]
    return int(any(trial.missing or trial.wrong or trial.state == HANGING for trial in ours))

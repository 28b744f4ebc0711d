"""Do emulated links do what they are asked? Needs root.

    goodput     one TCP flow at 1, 10, 100 and 500 Mbit/s against what TCP can carry at most (1448 of 1514 bytes)
    loaded      the same while every host computes at its admitted share
    round_trip  2, 10, 50 and 200 ms at user level, with each delay backend that this machine has
    loss        1 % and 5 % of 10,000 packets, against the 99 % binomial interval
    faults      how long after its time a throttle or a kill is in force; idle, and at the admitted load

    sudo python -m benchmarks.link_fidelity [--quick] [--only goodput …] [--csv FILE]

Exits with 1 if a row is over its bar. Each figure is the median of interleaved repetitions. Pauses of the machine,
in which nothing runs however urgent it is, are found beside (:mod:`benchmarks.machine_pauses`); 99th percentiles are
judged without the samples that one has hit, and told with them too.
"""

from __future__ import annotations

import contextlib
import json
import math
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import cast

from benchmarks.fidelity_rows import Parts, Row, measure
from benchmarks.machine_pauses import Pauses
from runner.admission import RUNNER_SHARE
from runner.events import FaultEffective
from runner.faults.base import Fault, InForce, Lab, Way
from runner.faults.hosts import Kill
from runner.faults.links import LinkChange
from runner.quantiles import percentile
from runner.timeline import Timeline
from testbed.emulation import probe_process
from testbed.emulation.cgroups import CgroupManager, CpuLimit
from testbed.emulation.cleaner import clean_run
from testbed.emulation.cluster import Cluster
from testbed.emulation.disk import Condition
from testbed.emulation.machine import capabilities
from testbed.emulation.manifest import RunManifest
from testbed.emulation.namespace import entered
from testbed.emulation.overlay import Modification
from testbed.emulation.shaping import Shape
from testbed.errors import MachineError
from testbed.serving.events import Event
from testbed.spec.faults import KillFault, ThrottleFault
from testbed.spec.faults.targets import Named
from testbed.spec.hosts import HostSpec
from testbed.spec.links import LinkSpec
from testbed.spec.network import Network

GOODPUT = 1448 / 1514
RATES_BPS = (1_000_000, 10_000_000, 100_000_000, 500_000_000)
ROUND_TRIPS_S = (0.002, 0.01, 0.05, 0.2)
LOSSES = (0.01, 0.05)
PACKETS = 10_000
NORMAL_99 = 2.576
BUSY_HOSTS = 8
PERIOD_S = 0.02
FAULT_GAP_S = 0.05
_DEADLINE_S = 60.0


@contextlib.contextmanager
def emulated(network: Network, backend: str = "auto") -> Iterator[tuple[Cluster, RunManifest]]:
    """A cluster of its own, and nothing left of it."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = RunManifest.create(Path(folder).name.replace("_", "-"))
        try:
            hosts = {host: HostSpec(cpu=0.1) for host in network.hosts}
            with Cluster(network, hosts, manifest.run_name, manifest, backend, seed=1) as cluster:  # type: ignore[arg-type]
                yield cluster, manifest
        finally:
            clean_run(manifest)


def pair(**settings: object) -> Network:
    """Two hosts around a switch, each link with these settings."""
    links = tuple(LinkSpec.model_validate({"between": (host, "s1"), **settings}) for host in ("a", "b"))
    return Network(("a", "b"), ("s1",), links)


@contextlib.contextmanager
def busy(manifest: RunManifest, cores: float) -> Iterator[None]:
    """Hosts that compute without end, and together may use so many cores."""
    manager = CgroupManager.detect()
    spinners: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(BUSY_HOSTS):
            group = manager.create(manifest, f"busy{number}", CpuLimit(cores / BUSY_HOSTS, PERIOD_S), None)
            spinner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            spinners.append(spinner)
            for path in group.join_paths():
                path.write_text(str(spinner.pid))
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait(_DEADLINE_S)
        manager.remove_run(manifest.run_name)


def admitted_cores() -> float:
    """What all hosts may use together on this machine."""
    return capabilities().cores - RUNNER_SHARE


def flow_bps(cluster: Cluster, manifest: RunManifest, seconds: float) -> float:
    """Goodput of one flow from a to b, whose ends are hosts of the run without a limit."""
    manager = CgroupManager.detect()
    group = manager.create(manifest, "flow", None, None)
    request = {
        "pids": [cluster.host_pid("a"), cluster.host_pid("b")],
        "addresses": [cluster.network.address("a"), cluster.network.address("b")],
        "cgroups": [str(path) for path in group.join_paths()],
        "warm_up_s": 1.0,
        "duration_s": seconds,
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.tcp_flow", json.dumps(request)],
            capture_output=True,
            text=True,
            timeout=_DEADLINE_S,
            check=True,
        )
    finally:
        group.remove()
    return float(json.loads(done.stdout))


def goodput(quick: bool, *, loaded: bool = False) -> Iterator[Row]:
    """Interleaved: one repetition of each rate, then the next."""
    found: dict[int, list[float]] = {rate_bps: [] for rate_bps in RATES_BPS}
    for _ in range(3 if quick else 5):
        for rate_bps in RATES_BPS:
            with contextlib.ExitStack() as stack:
                cluster, manifest = stack.enter_context(emulated(pair(rate_bps=rate_bps)))
                if loaded:
                    stack.enter_context(busy(manifest, admitted_cores()))
                found[rate_bps].append(flow_bps(cluster, manifest, 2.0 if quick else 5.0))
    for rate_bps, measured in found.items():
        expected, median = rate_bps * GOODPUT / 1e6, statistics.median(measured) / 1e6
        what, bar = ("goodput at the admitted load", 3.0) if loaded else ("goodput", 2.0)
        yield Row(what, f"{rate_bps / 1e6:g} Mbit/s", expected, median, (median / expected - 1) * 100, bar, "%")


def loaded(quick: bool) -> Iterator[Row]:
    """As :func:`goodput`, beside busy hosts."""
    yield from goodput(quick, loaded=True)


def backends() -> tuple[str, ...]:
    """The delay backends that this machine has."""
    machine = capabilities()
    return tuple(name for name, check in (("netem", "netem"), ("delayline", "nfqueue")) if machine[check].ok)


def round_trip(quick: bool) -> Iterator[Row]:
    """All links of a chain, packets of one in the pauses of the others."""
    hosts = tuple("abcde")
    links = tuple(
        LinkSpec(between=(hosts[index], hosts[index + 1]), rate_bps=100_000_000, delay_s=round_trip_s / 2)
        for index, round_trip_s in enumerate(ROUND_TRIPS_S)
    )
    for backend in backends():
        samples: dict[str, list[tuple[float, float]]] = {link.name: [] for link in links}
        medians: dict[str, list[float]] = {link.name: [] for link in links}
        with Pauses() as pauses, emulated(Network(hosts, (), links), backend) as (cluster, _):
            for _ in range(3 if quick else 5):
                for link, trips in zip(links, measured_trips(cluster, links, 300 if quick else 1000), strict=True):
                    samples[link.name] += trips
                    medians[link.name].append(statistics.median(rtt_s for _, rtt_s in trips))
        for link, expected_s in zip(links, ROUND_TRIPS_S, strict=True):
            trips = samples[link.name]
            awake = [trip for trip in trips if not pauses.hit(trip[0], trip[0] + trip[1])]
            subject = f"{expected_s * 1e3:g} ms, {backend}"
            median_ms = statistics.median(medians[link.name]) * 1e3
            off_ms = median_ms - expected_s * 1e3
            bar_ms = max(0.5, 0.02 * expected_s * 1e3)
            yield Row("round trip, median", subject, expected_s * 1e3, median_ms, off_ms, bar_ms, "ms")
            for what, some, bar in (
                ("round trip, p99", awake, 2.0),
                ("round trip, p99 with pauses", trips, math.inf),
            ):
                p99_ms = percentile([rtt_s for _, rtt_s in some], 99) * 1e3
                yield Row(what, subject, expected_s * 1e3, p99_ms, p99_ms - expected_s * 1e3, bar, "ms")
        print(f"  {pauses}")


def measured_trips(cluster: Cluster, links: Sequence[LinkSpec], count: int) -> list[list[tuple[float, float]]]:
    """(when it began, how long it took) of each round trip on each link, by the code of the probe."""
    opened = [
        probe_process.Link.open(
            {
                "pids": [cluster.node_pid(node) for node in link.between],
                "addresses": [cluster.probe_address(node) for node in link.between],
                "rates_bps": [None, None],
            }
        )
        for link in links
    ]
    try:
        with probe_process.real_time_priority():
            probe_process.measure_round_trips(opened, count)
    finally:
        for link in opened:
            for end in link.sockets:
                end.close()
    return [list(zip(link.went_s, link.rtts_s, strict=True)) for link in opened]


def loss(_quick: bool) -> Iterator[Row]:
    """Small packets in groups that no queue is too short for."""
    for backend in backends():
        for share in LOSSES:
            with emulated(pair(rate_bps=100_000_000, delay_s=0.002), backend) as (cluster, _):
                cluster.set_link("a-s1", loss=share, source="a")
                lost = PACKETS - arrivals(cluster)
            allowed = NORMAL_99 * math.sqrt(share * (1 - share) / PACKETS) * 100
            error = (lost / PACKETS - share) * 100
            yield Row("loss", f"{share:.0%}, {backend}", share * 100, lost / PACKETS * 100, error, allowed, "points")


def arrivals(cluster: Cluster) -> int:
    """How many of the packets that a sends to b come through."""
    ends: list[socket.socket] = []
    for host in ("a", "b"):
        with entered(cluster.host_pid(host)):
            end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        end.bind((cluster.network.address(host), 0))
        end.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
        ends.append(end)
    sender, sink = ends
    with sender, sink:
        for number in range(PACKETS):
            sender.sendto(b"x", sink.getsockname())
            if number % 20 == 19:
                select.select([], [], [], 0.002)
        arrived = 0
        while select.select([sink], [], [], 0.5)[0]:
            arrived += len(sink.recv(64))
    return arrived


class FaultBench:
    """What the timeline acts on: a link of a cluster, and processes that do nothing but wait to be killed."""

    def __init__(self, cluster: Cluster, victims: dict[str, subprocess.Popen[bytes]]) -> None:
        self._cluster = cluster
        self._victims = victims

    def kill_server(self, host: str) -> InForce:
        """As the lab does it: in force when the kernel has taken the signal."""
        victim = self._victims[host]
        victim.kill()
        return InForce(time.monotonic(), "", lambda: str(victim.wait(_DEADLINE_S)))

    def modify_links(self, ways: Sequence[Way], fault: Hashable, modification: Modification | None) -> Sequence[Shape]:
        """In place, and read back."""
        return self._cluster.modify_links(ways, fault, modification)

    def cut_hosts(self, fault: Hashable, pairs: Sequence[tuple[str, str]]) -> None:
        """In place, and read back."""
        self._cluster.cut_hosts(fault, pairs)

    def spoil_disk(self, host: str, condition: Condition | None, by: Hashable) -> InForce:
        """Its processes have no disks of their own."""
        raise MachineError(f"{host} has no disk of its own")

    def corrupt_disk(self, host: str, seed: str) -> InForce:
        """Its processes have no disks of their own."""
        raise MachineError(f"{host} has no disk of its own")


def faults(quick: bool) -> Iterator[Row]:
    """Throttles and kills in turn, through the timeline of a run."""
    count = 100 if quick else 300
    for is_loaded in (False, True):
        with Pauses() as pauses, contextlib.ExitStack() as stack:
            network = pair(rate_bps=20_000_000, delay_s=0.005)
            cluster, manifest = stack.enter_context(emulated(network))
            if is_loaded:
                stack.enter_context(busy(manifest, admitted_cores()))
            late = fault_lateness(cluster, manifest, network.links[0], count)
        print(f"  {pauses}")
        where = "at the admitted load" if is_loaded else "idle"
        bar_ms = 20.0 if is_loaded else 5.0
        for kind in ("throttle", "kill"):
            of_kind = [(due_s, late_s) for verb, due_s, late_s in late if verb == kind]
            awake = [late_s for due_s, late_s in of_kind if not pauses.hit(due_s, due_s + late_s)]
            for what, some, bar in (
                (f"{kind}, p99 late", awake, bar_ms),
                (f"{kind}, p99 late with pauses", [late_s for _, late_s in of_kind], math.inf),
            ):
                p99_ms = percentile(some, 99) * 1e3
                yield Row(what, where, 0.0, p99_ms, p99_ms, bar, "ms")


def fault_lateness(
    cluster: Cluster, manifest: RunManifest, link: LinkSpec, count: int
) -> list[tuple[str, float, float]]:
    """(kind, when it was due, how much later it was in force) of `count` faults of each kind."""
    victims = {f"v{number}": subprocess.Popen(["sleep", "600"]) for number in range(count)}
    # Hosts of the run, as the servers that a run kills.
    group = CgroupManager.detect().create(manifest, "victims", None, None)
    for path in group.join_paths():
        for victim in victims.values():
            path.write_text(str(victim.pid))
    effective: dict[int, float] = {}

    def note(event: Event) -> None:
        if isinstance(event, FaultEffective):
            effective[event.fault] = event.t_s

    due_s = [0.5 + FAULT_GAP_S * number for number in range(2 * count)]
    planned: list[Fault] = []
    for number, at_s in enumerate(due_s):
        if number % 2:
            planned.append(Kill(KillFault(at_s=at_s, kill=Named((f"v{number // 2}",)))))
        else:
            spec = ThrottleFault(at_s=at_s, throttle=link.between, rate_bps=5_000_000 + 10_000 * number)
            planned.append(LinkChange(spec, link, ("a", "b")))
    bench = cast("Lab", FaultBench(cluster, victims))  # it can do what these faults need
    timeline = Timeline(planned, bench, note, time.monotonic)
    zero_s = time.monotonic() + 0.2
    try:
        timeline.start(zero_s)
        deadline_s = zero_s + due_s[-1] + _DEADLINE_S
        while len(effective) < len(planned) and time.monotonic() < deadline_s:
            select.select([], [], [], 0.1)
    finally:
        timeline.finish()
        for victim in victims.values():
            victim.kill()
            victim.wait(_DEADLINE_S)
        group.remove()
    return [
        (planned[number].verb, zero_s + due_s[number], effective[number] - zero_s - due_s[number])
        for number in sorted(effective)
    ]


PARTS: Parts = {"goodput": goodput, "loaded": loaded, "round_trip": round_trip, "loss": loss, "faults": faults}


if __name__ == "__main__":
    sys.exit(measure(__doc__, PARTS, "fewer and shorter repetitions: under four minutes", "link_fidelity.csv"))

"""Our links on a kernel with netem, against the bars that hold everywhere."""

from __future__ import annotations

import math
import platform
import select
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from testbed.emulation.cluster import Cluster
from testbed.emulation.machine import capabilities
from testbed.emulation.manifest import RunManifest
from testbed.emulation.namespace import entered
from testbed.emulation.shaping import Shape
from testbed.spec.hosts import HostSpec
from testbed.spec.network import Network
from tests.emulation.emulated import link
from tests.kernel.bars import assert_within_bars

pytestmark = [pytest.mark.root, pytest.mark.kernel]

Record = Callable[[str, object], None]

DELAYS = ("1ms", "5ms", "25ms", "100ms")


def star(rate: str) -> Network:
    hosts = tuple(f"h{number}" for number, _ in enumerate(DELAYS, start=1))
    links = tuple(link(host, "s1", rate=rate, delay=delay) for host, delay in zip(hosts, DELAYS, strict=True))
    return Network(hosts, ("s1",), links)


# The delay line takes each packet through a process, for which the guest's one slow CPU has time at low rates only.
@pytest.fixture(
    scope="module",
    params=[("netem", "10Mbit/s"), ("auto", "100Mbit/s"), ("delayline", "2Mbit/s")],
    ids=lambda param: "-".join(param),
)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    backend, rate = request.param
    capabilities()  # as every run does; asking loads modules, such as br_netfilter for the delay line
    network, root = star(rate), tmp_path_factory.mktemp("run")
    hosts = {host: HostSpec(cpu=0.1) for host in network.hosts}
    with Cluster(network, hosts, root.name, RunManifest.create(root.name, root), backend) as made:
        assert made.backend == ("delayline" if backend == "delayline" else "netem")
        yield made


def test_machine_knows_what_this_kernel_can(record_property: Record) -> None:
    machine = capabilities()
    record_property("kernel", f"{platform.release()}, cgroups of version {machine.cgroup_version}")
    assert [check.name for check in machine.missing] == []
    assert machine["netem"].ok
    assert machine["nfqueue"].ok
    assert machine["openvswitch"].ok
    assert "netem" in machine["delay"].detail


def test_links_do_what_the_spec_says(running: Cluster, record_property: Record) -> None:
    assert_within_bars(running, [link.name for link in running.network.links], record_property, running.backend)


def test_link_changes_in_place(running: Cluster, record_property: Record) -> None:
    declared = running.declared_shape("h2-s1", "h2")
    assert declared.rate_bps is not None
    running.set_link("h2-s1", rate_bps=declared.rate_bps // 4, delay_s=0.02)
    try:
        assert running.current_shape("h2-s1", "h2") == Shape(declared.rate_bps // 4, 0.02, 0.0)
        assert_within_bars(running, ["h2-s1"], record_property, running.backend)
    finally:
        running.restore_link("h2-s1")
    assert_within_bars(running, ["h2-s1"], record_property, running.backend)


def test_loss_is_of_the_size_asked_for(running: Cluster, record_property: Record) -> None:
    sent, loss = 10_000, 0.05
    running.set_link("h3-s1", loss=loss)
    try:
        lost = sent - _arrivals(running, "h3", "h1", sent)
    finally:
        running.restore_link("h3-s1")
    record_property(f"{running.backend}: lost of {sent} packets at 5 %", lost)
    # 3.9 standard deviations: netem isn't seeded, so one run in 10,000 fails by chance.
    assert abs(lost - sent * loss) <= 3.9 * math.sqrt(sent * loss * (1 - loss))


def _arrivals(cluster: Cluster, source: str, target: str, count: int) -> int:
    """How many of so many datagrams come through; they are small and spread, so that none finds a full queue."""
    ends = []
    for host in (source, target):
        with entered(cluster.host_pid(host)):
            end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        end.bind((cluster.network.address(host), 0))
        end.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
        ends.append(end)
    sender, sink = ends
    with sender, sink:
        for number in range(count):
            sender.sendto(number.to_bytes(4, "big"), sink.getsockname())
            if number % 20 == 19:
                # 20 small packets are 5 ms of the slowest link.
                select.select([], [], [], 0.006)
        arrived = 0
        deadline_s = time.monotonic() + 10
        while select.select([sink], [], [], 0.5)[0] and time.monotonic() < deadline_s:
            arrived += len(sink.recv(64)) == 4
    return arrived

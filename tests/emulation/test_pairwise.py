"""SEIFER's complete graph: twenty hosts, 190 links, each with its own rate."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest

from testbed.emulation.namespace import network_identity
from testbed.emulation.probe import LinkMeasurement, measure_links
from testbed.spec.links import LinkSpec
from testbed.spec.network import Network
from testbed.spec.shapes import ShapeSpec, host_names, positions, wifi_rate_bps
from tests.emulation.emulated import cluster, living_namespaces, machine_state

pytestmark = pytest.mark.root

NODES = 20
SLOWEST_START_S = 60.0
ATTEMPTS = 4


def complete() -> Network:
    shape = ShapeSpec(kind="random", nodes=NODES)
    names, points = host_names(shape, "dispatcher"), positions(shape, seed=1)
    links = tuple(
        LinkSpec(
            between=(names[one], names[other]),
            rate_bps=wifi_rate_bps(math.dist(points[one], points[other])),
            delay_s=0.002,
        )
        for one in range(NODES)
        for other in range(one + 1, NODES)
    )
    return Network(names, (), links)


def is_off(found: LinkMeasurement) -> bool:
    assert found.requested_rate_bps is not None
    if found.rate_bps is None or found.rtt_s is None:
        return True
    return abs(found.rate_bps / found.requested_rate_bps - 1) > 0.03 or abs(found.rtt_s - 0.004) > 0.001


def test_twenty_hosts_with_190_links_start_have_their_rates_and_stop(tmp_path: Path) -> None:
    network = complete()
    assert len(network.links) == 190
    before = machine_state()
    began_s = time.monotonic()
    with cluster(network, tmp_path) as made:
        started_s = time.monotonic() - began_s
        own = {network_identity(made.node_pid(host)) for host in network.hosts}
        sample = [link.name for link in network.links[::32]]
        # Others may take the CPU for a moment, but a wrong link is wrong each time.
        for _ in range(ATTEMPTS):
            measurements = measure_links(made, sample)
            if not any(map(is_off, measurements)):
                break
        stopping_s = time.monotonic()
    stopped_s = time.monotonic() - stopping_s
    assert max(started_s, stopped_s) < SLOWEST_START_S
    assert [found for found in measurements if is_off(found)] == []
    assert machine_state() == before
    assert not living_namespaces() & own

"""Open vSwitch as the switch, with the kernel's datapath, in namespaces of the run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testbed.emulation.cleaner import clean_run
from testbed.emulation.cluster import Cluster
from testbed.emulation.manifest import RunManifest
from testbed.emulation.namespace import run
from testbed.emulation.processes import ProcessIdentity
from testbed.spec.hosts import HostSpec
from testbed.spec.network import Network
from tests.emulation.emulated import link, machine_state
from tests.kernel.bars import assert_within_bars

pytestmark = [pytest.mark.root, pytest.mark.kernel]

WAIT_S = 20.0
# Two switches: a packet from h1 to h3 passes both.
NETWORK = Network(
    ("h1", "h2", "h3"),
    ("s1", "s2"),
    (
        link("h1", "s1", rate="10Mbit/s", delay="1ms"),
        link("h2", "s1", rate="10Mbit/s", delay="5ms"),
        link("h3", "s2", rate="10Mbit/s", delay="25ms"),
        link("s1", "s2", rate="20Mbit/s", delay="2ms"),
    ),
)


@pytest.fixture(scope="module", autouse=True)
def counted_cpu() -> None:
    """Open vSwitch 3.1 that starts in the first ten seconds of a machine counts no CPU, and then loses every packet."""
    deadline_s = time.monotonic() + WAIT_S
    while float(Path("/proc/uptime").read_text().split()[0]) < 11:
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


@pytest.fixture(scope="module")
def before() -> dict[str, str]:
    return machine_state()


@pytest.fixture(scope="module")
def running(before: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("ovs")) as made:
        yield made


def cluster(root: Path, on_failure: Callable[[str], None] | None = None) -> Cluster:
    hosts = {host: HostSpec(cpu=0.1) for host in NETWORK.hosts}
    manifest = RunManifest.create("ovs", root)
    return Cluster(NETWORK, hosts, "ovs", manifest, "netem", on_failure=on_failure, switching="ovs")


def test_kernel_switches_and_the_machine_sees_nothing(running: Cluster, before: dict[str, str]) -> None:
    assert running.mininet.ping(running.mininet.hosts, timeout="2") == 0
    for switch, ports in (("s1", 3), ("s2", 2)):
        shown = run(running.switch_pid(switch), ["ovs-dpctl", "show"])
        assert "system@ovs-system" in shown
        assert sum(f"{switch}-eth" in line for line in shown.splitlines()) == ports
        # Packets found their way in the kernel, not in the daemon.
        (lookups,) = (line for line in shown.splitlines() if "lookups:" in line)
        assert "hit:0 " not in lookups
    assert machine_state() == before


def test_links_do_what_the_spec_says(running: Cluster, record_property: Callable[[str, object], None]) -> None:
    assert_within_bars(running, [link.name for link in NETWORK.links], record_property, "Open vSwitch")


def test_link_changes_in_place(running: Cluster, record_property: Callable[[str, object], None]) -> None:
    running.set_link("h2-s1", rate_bps=2_500_000, delay_s=0.02)
    try:
        assert_within_bars(running, ["h2-s1"], record_property, "Open vSwitch")
    finally:
        running.restore_link("h2-s1")


def test_stop_leaves_nothing_and_death_is_told(tmp_path: Path, before: dict[str, str]) -> None:
    told: list[str] = []
    made = cluster(tmp_path, told.append)
    manifest = RunManifest.load_all(tmp_path)[0]
    with made:
        entries = manifest.of_kind("process")
        daemons = {str(entry.facts["role"]): _identity(entry.facts) for entry in entries}
        victim = daemons["ovs-vswitchd of s2"]
        assert victim.alive
        run(made.switch_pid("s2"), ["kill", "-KILL", str(victim.pid)])
        deadline_s = time.monotonic() + WAIT_S
        while not told:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        assert told == ["ovs-vswitchd of the switch s2 ended with status -9"]
        assert made.failure == told[0]
    assert not any(identity.alive for identity in daemons.values())
    clean_run(manifest)
    assert not manifest.directory.exists()
    assert machine_state() == before


def _identity(facts: object) -> ProcessIdentity:
    assert isinstance(facts, dict)
    return ProcessIdentity(int(facts["pid"]), int(facts["start_time_ticks"]))

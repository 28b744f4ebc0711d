"""Small clusters for the tests, and what the machine's own network namespace holds."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from testbed.emulation.cluster import Cluster
from testbed.emulation.manifest import RunManifest
from testbed.emulation.namespace import entered, network_identity
from testbed.emulation.overlay import Modification
from testbed.spec.hosts import HostSpec
from testbed.spec.links import LinkSpec
from testbed.spec.network import Network


def link(first: str, second: str, **settings: Any) -> LinkSpec:
    """A link with the settings of the YAML file, such as ``rate="20Mbit/s"``."""
    return LinkSpec(between=(first, second), **settings)


def star(hosts: int, **settings: Any) -> Network:
    """Hosts h1 … around the switch s1."""
    names = tuple(f"h{number}" for number in range(1, hosts + 1))
    return Network(names, ("s1",), tuple(link(name, "s1", **settings) for name in names))


def cluster(
    network: Network,
    root: Path,
    on_failure: Callable[[str], None] | None = None,
    name: str = "test-run",
    foreseen: Iterable[Modification] = (),
) -> Cluster:
    """A cluster with its journal under `root`."""
    manifest = RunManifest.create(name, root)
    specs = {host: HostSpec(cpu=0.1) for host in network.hosts}
    return Cluster(network, specs, name, manifest, seed=1, on_failure=on_failure, foreseen=foreseen)


def machine_state() -> dict[str, str]:
    """What a run may not change in the machine's own namespace."""
    commands = {
        "links": ["ip", "-o", "link"],
        "addresses": ["ip", "-o", "address"],
        "routes": ["ip", "route"],
        "namespaces": ["ip", "netns"],
        "rules": ["iptables-legacy-save"],
        "queues": ["tc", "qdisc"],
    }
    state = {
        what: subprocess.run(argv, capture_output=True, text=True, check=True, timeout=10).stdout
        for what, argv in commands.items()
    }
    # Comment lines of iptables-save carry the time.
    state["rules"] = "\n".join(line for line in state["rules"].splitlines() if not line.startswith("#"))
    for name in ("net/ipv4/ip_forward", "net/core/rmem_max", "net/ipv4/neigh/default/gc_thresh3", "kernel/pid_max"):
        state[name] = (Path("/proc/sys") / name).read_text()
    return state


def living_namespaces() -> set[int]:
    """Inodes of the network namespaces of all processes."""
    found: set[int] = set()
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            try:
                found.add(network_identity(path.name))
            except (ProcessLookupError, PermissionError):
                continue
    return found


def udp(made: Cluster, host: str, port: int = 0, *, wait_s: float = 20.0) -> socket.socket:
    """A UDP socket on a host, bound to its address; receiving times out after ``wait_s``."""
    with entered(made.host_pid(host)):
        end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    end.settimeout(wait_s)
    end.bind((made.network.address(host), port))
    return end

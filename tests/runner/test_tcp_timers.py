"""TCP's least retransmission time-out follows the time scale."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner import tcp_timers
from testbed.emulation import namespace


def test_a_route_is_changed_and_nothing_else_of_it() -> None:
    on_link = {"dst": "10.0.0.0/8", "dev": "a-eth0", "protocol": "kernel", "scope": "link", "prefsrc": "10.0.0.1"}
    command = " ".join(tcp_timers.change_of({**on_link, "flags": []}, 1.6))
    assert command == "ip route change 10.0.0.0/8 dev a-eth0 proto kernel scope link src 10.0.0.1 rto_min 1600ms"
    onward = {"dst": "10.0.0.3", "gateway": "10.0.0.2", "dev": "a-eth1", "flags": []}
    command = " ".join(tcp_timers.change_of(onward, 0.4))
    assert command == "ip route change 10.0.0.3 via 10.0.0.2 dev a-eth1 rto_min 400ms"


@pytest.fixture
def host() -> Iterator[int]:
    """A process in a network namespace of its own with one route."""
    setup = "ip link add a0 type veth peer name b0 && ip addr add 10.0.0.1/8 dev a0 && ip link set a0 up && "
    process = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", f"{setup} echo ready && exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "ready\n"
    yield process.pid
    process.stdin.close()
    process.wait(10)
    process.stdout.close()


@pytest.mark.root
@pytest.mark.parametrize("everywhere", [True, False])
def test_a_hosts_time_out_is_set(host: int, everywhere: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not everywhere:
        monkeypatch.setattr(tcp_timers, "SYSCTL", "ipv4/there_is_none")
    tcp_timers.stretch_time_outs([host], 8)
    setting = Path("/proc/sys/net/ipv4/tcp_rto_min_us")
    if everywhere and setting.exists():
        with namespace.entered(host):
            assert setting.read_text().strip() == "1600000"
    else:
        assert "rto_min lock 1.6s" in namespace.run(host, ["ip", "route", "show"]).replace("1600ms", "1.6s")
    assert namespace.run(os.getpid(), ["ip", "route", "show"]).count("rto_min") == 0


def test_without_a_time_scale_nothing_is_touched() -> None:
    tcp_timers.stretch_time_outs([-1], 1)

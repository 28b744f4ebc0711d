from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from testbed.emulation.namespace import entered, network_identity, run, run_batch, set_sysctls
from testbed.emulation.netlink import RouteSocket
from testbed.emulation.queues import LeafLimit, egress_states, root_counters
from testbed.errors import MachineError

ME = os.getpid()


@pytest.fixture
def other() -> Iterator[int]:
    """A process in a network namespace of its own."""
    program = "import sys; print('in', flush=True); sys.stdin.read()"
    command = ["unshare", "--net", sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"in\n"
        yield process.pid
        process.communicate(timeout=20)


def test_no_process_no_namespace() -> None:
    with pytest.raises(ProcessLookupError):
        network_identity(2**22 + 1)
    with pytest.raises(MachineError, match="can't enter the network namespace of process 4194305"), entered(2**22 + 1):
        pytest.fail("entered")


@pytest.mark.parametrize("word", ["", "two words", "a'b", "#", "line\n"])
def test_word_that_the_batch_format_would_split_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="no tc command"):
        run_batch(ME, "tc", [("tc", "qdisc", word)])
    with pytest.raises(ValueError, match="no tc command"):
        run_batch(ME, "tc", [("ip", "link")])


@pytest.mark.root
def test_only_the_calling_thread_moves_and_it_comes_back(other: int) -> None:
    home = network_identity(ME)
    seen: list[int] = []

    def look() -> None:
        seen.append(network_identity("thread-self"))

    def fail_inside() -> None:
        with entered(other):
            assert network_identity("thread-self") == network_identity(other) != home
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail_inside()
    assert network_identity("thread-self") == home
    with entered(other):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    assert seen == [network_identity(other)]  # a new thread starts where its maker is
    assert network_identity("thread-self") == home


@pytest.mark.root
def test_failing_command_of_a_batch_is_named(other: int) -> None:
    good, bad = ("ip", "link", "set", "dev", "lo", "up"), ("ip", "link", "set", "dev", "nothing", "up")
    with pytest.raises(MachineError, match="«ip link set dev nothing up»"):
        run_batch(other, "ip", [good, bad])
    assert "UP" in run(other, ["ip", "link", "show", "dev", "lo"])


@pytest.mark.root
def test_command_errors_are_for_people(other: int) -> None:
    with pytest.raises(MachineError, match="command no-such-tool is missing"):
        run(other, ["no-such-tool"])
    with pytest.raises(MachineError, match="exit status 1"):
        run(other, ["false"])


@pytest.mark.root
def test_setting_that_the_kernel_has_not_or_does_not_keep(other: int) -> None:
    set_sysctls(other, {"ipv4/ip_forward": "1"})
    with entered(other):
        assert run(other, ["cat", "/proc/sys/net/ipv4/ip_forward"]) == "1\n"
    with pytest.raises(MachineError, match=r"can't set net\.ipv4\.no_such to 1"):
        set_sysctls(other, {"ipv4/no_such": "1"})


@pytest.mark.root
def test_kernel_reports_what_tc_has_set_exactly(other: int) -> None:
    run_batch(
        other,
        "tc",
        [
            ("tc", "qdisc", "add", "dev", "lo", "root", "handle", "10:", "htb", "default", "1"),
            *[("tc", "class", "add", "dev", "lo", "parent", "10:", "classid", "10:1", "htb", "rate", "20000008bit")],
            ("tc", "qdisc", "add", "dev", "lo", "parent", "10:1", "handle", "20:", "bfifo", "limit", "12345"),
        ],
    )
    with entered(other):
        sock = RouteSocket()
    try:
        (loopback,) = [found for found in sock.interfaces() if found.name == "lo"]
        assert not loopback.up
        sock.set_up(loopback.index, True)
        assert [found.up for found in sock.interfaces() if found.name == "lo"] == [True]
        state = egress_states(sock, {loopback.index})[loopback.index]
        assert state.root == "htb"
        assert state.rate is not None
        assert state.rate.rate_bps == state.rate.ceil_bps == 20_000_008
        assert state.limit == LeafLimit("bfifo", 12345)
        assert root_counters(sock)[loopback.index].sent_bytes == 0
        with pytest.raises(OSError, match="No such device"):
            sock.set_up(999, True)
    finally:
        sock.close()

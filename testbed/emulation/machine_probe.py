"""Tries what a cluster needs, in network and mount namespaces of its own that vanish with this process.

Run by :func:`testbed.emulation.machine.capabilities` as ``python -m testbed.emulation.machine_probe``, as root. It
prints one JSON object: for each feature an empty text if it works, and otherwise why it doesn't. To try is the only
sure way: a module may be built in, loadable, or missing, and a container may forbid what its kernel can.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from testbed.emulation import ext4, loop, netlink, nfqueue, syscalls
from testbed.emulation.cuts import drop_rule
from testbed.emulation.interception import Interception, Interceptor
from testbed.emulation.packet_rules import PacketRules
from testbed.errors import TestbedError

_TIMEOUT_S = 10.0
_HOST, _PORT = "testbed0", "testbed1"


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise OSError(f"{' '.join(argv)}: {' '.join(done.stderr.split())}")


def _veth() -> None:
    _run("ip", "link", "add", _HOST, "type", "veth", "peer", "name", _PORT)


def _bridge() -> None:
    _run("ip", "link", "add", "testbed-bridge", "type", "bridge")
    _run("ip", "link", "set", "dev", _PORT, "master", "testbed-bridge")


# Queues are tried on the loopback interface, so that they don't seem to be missing where only veth is.


def _htb() -> None:
    _run("tc", "qdisc", "add", "dev", "lo", "root", "handle", "1:", "htb", "default", "1")
    _run("tc", "class", "add", "dev", "lo", "parent", "1:", "classid", "1:1", "htb", "rate", "10mbit")


def _netem() -> None:
    _run("tc", "qdisc", "replace", "dev", "lo", "root", "netem", "delay", "10ms")


def _queue_rules() -> None:
    Interceptor().apply(os.getpid(), [Interception(_HOST, False, 1), Interception(_PORT, True, 2)])


def _drop_rules() -> None:
    PacketRules().apply(os.getpid(), [drop_rule("192.0.2.1")])


def _queue_socket() -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, nfqueue.NETLINK_NETFILTER) as connection:
        connection.settimeout(_TIMEOUT_S)
        connection.bind((0, 0))
        requests = nfqueue.configuration(1, max_packets=1, whole_segments=True, sequence=1)
        for request in requests:
            connection.send(request)
            for kind, _, body in netlink.messages(connection.recv(1 << 16)):
                number = netlink.error_number(body) if kind == nfqueue.ERROR else 0
                if number:
                    raise OSError(number, f"nfnetlink_queue: {os.strerror(number)}")


def _disks() -> None:
    """A small file system in memory, made, mounted and failed; its device detaches itself with the mount."""
    # This process alone sees what is mounted from now on.
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    folder = Path(tempfile.gettempdir())
    image = os.memfd_create("testbed-disk")
    ext4.make(image, ext4.Geometry.for_files(1 << 20))
    with loop.attached(image) as device:
        ext4.mount(device, folder)
    ext4.fail(folder)
    syscalls.unmount(str(folder))


FEATURES: Mapping[str, Callable[[], None]] = {
    "veth": _veth,
    "bridge": _bridge,
    "htb": _htb,
    "netem": _netem,
    "drop_rules": _drop_rules,
    "queue_rules": _queue_rules,
    "queue_socket": _queue_socket,
    "disks": _disks,
}


def probe() -> dict[str, str]:
    """Why each feature doesn't work; an empty text if it does. Leaves this process in a new network namespace."""
    try:
        syscalls.unshare(syscalls.CLONE_NEWNET)
    except OSError as error:
        reason = f"no network namespace: {error.strerror}"
        return {"namespace": reason, **dict.fromkeys(FEATURES, reason)}
    found = {"namespace": ""}
    for name, attempt in FEATURES.items():
        try:
            attempt()
        except (OSError, TestbedError, subprocess.TimeoutExpired) as error:
            found[name] = error.message if isinstance(error, TestbedError) else str(error)
        else:
            found[name] = ""
    return found


if __name__ == "__main__":
    json.dump(probe(), sys.stdout)

"""TCP's own timers in an experiment whose time is scaled.

Linux waits at least 200 ms before it sends a segment again. Where a second takes k seconds that would be 200/k virtual
milliseconds, so each host's least retransmission time-out is set to 200 ms × k: for the whole namespace where the
kernel can (``net.ipv4.tcp_rto_min_us``, Linux 6.11), on every route of the host otherwise.

What can't be set, and so is k times shorter in virtual time: the acknowledgement that is delayed by up to 40 ms (it
matters little, because both ends send as soon as they have something to say), the first time-out of a new connection
(1 s, also before the second attempt to connect), and the longest time-out (120 s).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from testbed.emulation import namespace

LEAST_RTO_S = 0.2
LONGEST_RTO_S = 120.0
SYSCTL = "ipv4/tcp_rto_min_us"


def stretch_time_outs(pids: Iterable[int], time_scale: float) -> None:
    """Make TCP's least retransmission time-out as many times longer as everything else.

    Args:
        pids: A process in the network namespace of each host.
        time_scale: By how much.

    Raises:
        MachineError: If the kernel refuses.
    """
    if time_scale == 1:
        return
    rto_s = min(LEAST_RTO_S * time_scale, LONGEST_RTO_S)
    whole_namespace = (Path("/proc/sys/net") / SYSCTL).exists()
    for pid in pids:
        if whole_namespace:
            namespace.set_sysctls(pid, {SYSCTL: str(round(rto_s * 1e6))})
        else:
            routes = json.loads(namespace.run(pid, ["ip", "-json", "-4", "route", "show"]))
            namespace.run_batch(pid, "ip", (change_of(route, rto_s) for route in routes))


def change_of(route: Mapping[str, Any], rto_s: float) -> list[str]:
    """The command that gives a route, as ``ip -json route show`` tells it, a least retransmission time-out."""
    words = ["ip", "route", "change", str(route["dst"])]
    for key, word in (
        ("gateway", "via"),
        ("dev", "dev"),
        ("protocol", "proto"),
        ("scope", "scope"),
        ("prefsrc", "src"),
    ):
        if key in route:
            words += [word, str(route[key])]
    return [*words, "rto_min", f"{round(rto_s * 1e3)}ms"]

"""The cluster of the matrix, and the policies that it is run under: data, as an experiment file has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DISPATCHER = "dispatcher"
SWITCH = "s1"
WORKERS = ("node1", "node2", "node3", "node4", "node5")
STAGES = 3
"""So that two of the five workers are spare."""

SHARES = {"node1": 0.04, "node2": 0.03, "node3": 0.04, "node4": 0.025, "node5": 0.025}
MEMORY = "96MiB"
STORAGE = "32MiB"
DEADLINE_S = 2.0
"""Of a request: what can't be answered is to be rejected then, so that a cell without service ends."""

CLOSED = 4
"""Requests in flight."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A way to recover.

    Attributes:
        recovery: The experiment's ``recovery``, but for the heartbeats.
        waits: Whether it waits for lost hosts for good rather than doing without them.
        adapts: Whether it changes its plan for what has only become slow, once that plan has settled.
    """

    recovery: Mapping[str, Any]
    waits: bool = False
    adapts: bool = False


POLICIES: Mapping[str, Policy] = {
    "replan": Policy({"policy": "replan"}),
    "restart": Policy({"policy": "restart", "wait": "1s", "otherwise": "unavailable"}, waits=True),
    "standby": Policy({"policy": "standby", "replicas": 1}),
    "adaptive": Policy({"policy": "replan", "adaptive": True}, adapts=True),
    "skip": Policy({"policy": "skip"}),
}


def experiment(name: str, policy: Policy, seed: int, duration_s: float, faults: list[dict[str, Any]]) -> dict[str, Any]:
    """An experiment as its file has it: six hosts at a switch, three stages, weights on the disks beforehand."""
    return {
        "name": name,
        "seed": seed,
        "hosts": {
            DISPATCHER: {"cpu": 0.3, "memory": "256MiB", "storage": STORAGE},
            **{host: {"cpu": SHARES[host], "memory": MEMORY, "storage": STORAGE} for host in WORKERS},
        },
        "switches": [SWITCH],
        "links": [{"between": [host, SWITCH], "rate": "50Mbit/s", "delay": "1ms"} for host in (DISPATCHER, *WORKERS)],
        "model": {"module": "benchmarks.faults.model:residual", "input": [1, 3, 32, 32]},
        "placement": {"strategy": "exact", "max_stages": STAGES, "deploy": "prestaged"},
        "compute": {"mode": "calibrated"},
        "workload": {
            "kind": "closed",
            "in_flight": CLOSED,
            "duration": f"{duration_s:g}s",
            "deadline": f"{DEADLINE_S:g}s",
        },
        "recovery": {**policy.recovery, "heartbeat": "100ms", "misses": 3},
        "faults": faults,
    }

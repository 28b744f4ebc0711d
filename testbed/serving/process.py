"""How the system's processes are started: their configurations as JSON, and the socket their events go to."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from testbed.planning.plan import Assignment
from testbed.planning.problem import Chain, Link, Problem, Worker
from testbed.planning.problem import Path as LinkPath
from testbed.serving.codecs import NONE
from testbed.serving.events import SocketReporter
from testbed.serving.package import Package
from testbed.serving.patience import PATIENCE, Patience
from testbed.serving.policy import POLICY, Policy


def reporter(fds: list[int]) -> SocketReporter:
    """The reporter of a process that was given the events' socket."""
    return SocketReporter(socket.socket(fileno=fds[0]))


def problem_to_json(problem: Problem) -> dict[str, Any]:
    """A planning problem as plain data."""
    plain = dataclasses.asdict(dataclasses.replace(problem, paths={}))
    plain["paths"] = [[*pair, *dataclasses.astuple(path)] for pair, path in problem.paths.items()]
    return plain


def problem_from_json(plain: Mapping[str, Any]) -> Problem:
    """The problem that :func:`problem_to_json` made plain."""
    chain = Chain(**{name: tuple(values) for name, values in plain["chain"].items()})
    workers = tuple(Worker(**worker) for worker in plain["workers"])
    paths = {
        (source, target): LinkPath(rate_bps, delay_s, energy, price, tuple(Link(*link) for link in links))
        for source, target, rate_bps, delay_s, energy, price, links in plain["paths"]
    }
    losses = {host: tuple(values) for host, values in plain["accuracy_loss"].items()}
    return Problem(**{**plain, "chain": chain, "workers": workers, "paths": paths, "accuracy_loss": losses})


def _endpoint(plain: Any) -> tuple[str, int]:
    address, port = plain
    return str(address), int(port)


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """What a node is started with.

    Attributes:
        host: Its name.
        address: Where it listens.
        dispatcher: Where its heartbeats go.
        token: The run's token.
        store: Folder of its own storage.
        storage_bytes: The storage's capacity; None means unlimited.
        heartbeat_s: Period of its heartbeats.
        patience: How long it waits for its peers.
        codec: How it encodes what its stage gives; what it receives says itself how it is encoded.
        pace: Where the emulation holds results back to a declared speed: a
            :class:`testbed.serving.computing.Pace` as JSON. None on any real host.
        outputs: Where it looks outputs up instead of computing them: ``folder`` and ``verify_every`` of
            :class:`testbed.serving.computing.KeptOutputs`. None on any real host.
    """

    host: str
    address: tuple[str, int]
    dispatcher: tuple[str, int]
    token: str = field(repr=False)
    store: Path
    storage_bytes: int | None
    heartbeat_s: float
    patience: Patience = PATIENCE
    codec: str = NONE
    pace: Mapping[str, Any] | None = None
    outputs: Mapping[str, Any] | None = None

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """The configuration that came as plain data."""
        return cls(
            **{
                **plain,
                "address": _endpoint(plain["address"]),
                "dispatcher": _endpoint(plain["dispatcher"]),
                "store": Path(plain["store"]),
                "patience": Patience(**plain.get("patience", {})),
            }
        )


@dataclass(frozen=True, slots=True)
class DispatcherConfig:
    """What the dispatcher is started with.

    Attributes:
        host: The name of the host it runs on.
        address: Where it listens, for nodes and clients and, on the same port of UDP, for heartbeats.
        nodes: Address and port of each node.
        token: The run's token.
        package: The model.
        survey: The planning problem as surveyed before the start.
        strategy: Name of the planning strategy.
        first_plan: The decision to start with.
        heartbeat_s, misses: Period of the heartbeats, and how many may be missed.
        window: Most requests in flight.
        queue: Most requests that wait besides.
        journal: Folder of its journal, on its own storage.
        patience: How long it waits for its peers.
        policy: How it recovers.
    """

    host: str
    address: tuple[str, int]
    nodes: Mapping[str, tuple[str, int]]
    token: str = field(repr=False)
    package: Package
    survey: Problem
    strategy: str
    first_plan: tuple[Assignment, ...]
    heartbeat_s: float
    misses: int
    window: int
    queue: int
    journal: Path
    patience: Patience = PATIENCE
    policy: Policy = POLICY

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """The configuration that came as plain data; ``package`` is the folder of the model then."""
        return cls(
            **{
                **plain,
                "address": _endpoint(plain["address"]),
                "nodes": {host: _endpoint(address) for host, address in plain["nodes"].items()},
                "package": Package(Path(plain["package"])),
                "journal": Path(plain["journal"]),
                "patience": Patience(**plain.get("patience", {})),
                "policy": Policy.from_json(plain.get("policy", {})),
                "survey": problem_from_json(plain["survey"]),
                "first_plan": tuple(Assignment(**assignment) for assignment in plain["first_plan"]),
            }
        )

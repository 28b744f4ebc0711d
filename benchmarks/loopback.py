"""The serving path alone, on loopback: no emulated hosts, no limits, no root."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from runner.client import GO
from runner.history import History
from runner.lab import NURSERY_PRELOAD
from runner.observer import Observer, Watch
from runner.preparation import answer
from testbed.emulation.manifest import RunManifest
from testbed.emulation.nursery import Nursery, ServerProcess, SpawnRequest
from testbed.model.costs import chain as chain_costs
from testbed.model.graph import ModelGraph
from testbed.model.inputs import load_inputs
from testbed.model.zoo import load_model
from testbed.planning.adapter import chain_from
from testbed.planning.problem import Path as LinkPath
from testbed.planning.problem import Problem, Worker
from testbed.serving.auth import new_token
from testbed.serving.events import (
    ClientFinished,
    ClientReady,
    RequestCompleted,
    ServerListening,
    ServiceState,
    StageExecuted,
    now_s,
)
from testbed.serving.package import write_package
from testbed.serving.process import problem_to_json

SHAPE = (1, 3, 224, 224)
TIMEOUT_S = 60.0


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


@dataclass
class Service:
    """A whole model on one node, a dispatcher before it; all in processes of their own.

    Attributes:
        token: The run's.
        addresses: Of ``dispatcher`` and ``node``.
        history: What its processes told.
        watch: Waits for events.
        processes: By name.
    """

    token: str
    addresses: Mapping[str, tuple[str, int]]
    history: History
    watch: Watch
    processes: dict[str, ServerProcess]
    _spawn: Callable[..., None]
    _client: Mapping[str, object]

    def start_client(self, seconds: float, in_flight: int = 1) -> None:
        """Let a client ask for so long."""
        start, go = os.pipe()
        try:
            config = {**self._client, "duration_s": seconds, "in_flight": in_flight}
            self._spawn("client", "runner.client:main", config, start)
            self.watch.wait(lambda event: isinstance(event, ClientReady), 1, TIMEOUT_S, "the client's start")
            os.write(go, GO.pack(now_s()))
        finally:
            os.close(go)
            os.close(start)

    def finish(self, seconds: float) -> ClientFinished:
        """Wait for the client's end, which is due in so long."""
        found = self.watch.wait(lambda event: isinstance(event, ClientFinished), 1, seconds + TIMEOUT_S, "the end")[0]
        assert isinstance(found, ClientFinished)
        return found


@contextlib.contextmanager
def serving(model: str, folder: Path, *, window: int = 1) -> Iterator[Service]:
    """Serve a model of the zoo; its processes end with the block.

    Args:
        model: Its name.
        folder: For logs and the model; must exist.
        window: Most requests in flight.
    """
    torch.set_num_threads(1)
    module = load_model(name=model, input_shape=SHAPE, seed=1)
    inputs = load_inputs(SHAPE, seed=1, distinct=4)
    graph = ModelGraph.trace(module, SHAPE)
    chain = chain_from(chain_costs(graph, [1e-3] * len(graph.ops)))
    addresses = {host: (host_address, _free_port(host_address)) for host, host_address in
                 (("dispatcher", "127.0.9.1"), ("node", "127.0.9.2"))}  # fmt: skip
    problem = Problem(
        chain=chain,
        workers=(Worker("node", 1.0),),
        dispatcher="dispatcher",
        paths={("dispatcher", "node"): LinkPath(1e10), ("node", "dispatcher"): LinkPath(1e10)},
    )
    token = new_token()
    write_package(graph, folder / "model")
    answer(module, inputs).save(folder / "samples.safetensors")
    with contextlib.ExitStack() as stack:
        history = stack.enter_context(History())
        observer = stack.enter_context(Observer(history))
        watch = Watch(history)
        manifest = RunManifest.create("loopback", folder / "journal")
        nursery = stack.enter_context(Nursery(NURSERY_PRELOAD, folder, manifest))
        processes: dict[str, ServerProcess] = {}

        def spawn(name: str, entry: str, config: Mapping[str, object], *fds: int) -> None:
            descriptors = (observer.writing_end.fileno(), *fds)
            request = SpawnRequest(name, entry, config, folder / f"{name}.log", fds=descriptors)
            processes[name] = nursery.spawn(request)

        spawn(
            "node",
            "testbed.serving.node:main",
            {
                "host": "node",
                "address": addresses["node"],
                "dispatcher": addresses["dispatcher"],
                "token": token,
                "store": str(folder / "store"),
                "storage_bytes": None,
                "heartbeat_s": 0.1,
            },
        )
        watch.wait(lambda event: isinstance(event, ServerListening), 1, TIMEOUT_S, "the node's start")
        spawn(
            "dispatcher",
            "testbed.serving.dispatcher:main",
            {
                "host": "dispatcher",
                "address": addresses["dispatcher"],
                "nodes": {"node": addresses["node"]},
                "token": token,
                "package": str(folder / "model"),
                "survey": problem_to_json(problem),
                "strategy": "exact",
                "first_plan": [{"host": "node", "first": 0, "last": chain.segments}],
                "heartbeat_s": 0.1,
                "misses": 50,
                "window": window,
                "queue": window,
                "journal": str(folder / "requests"),
            },
        )
        watch.wait(
            lambda event: isinstance(event, ServiceState) and event.state == "serving", 1, TIMEOUT_S, "deployment"
        )
        client = {
            "dispatcher": addresses["dispatcher"],
            "token": token,
            "samples": str(folder / "samples.safetensors"),
            "distinct": len(inputs),
            "drain_s": TIMEOUT_S,
            "rate_rps": None,
            "arrivals": "poisson",
            "deadline_s": None,
            "seed": 1,
        }
        yield Service(token, addresses, history, watch, processes, spawn, client)


def serve_alone(model: str, folder: Path, seconds: float, in_flight: int = 1) -> list[tuple[float, float]]:
    """Serve a whole model on one node.

    Args:
        model: A name of the zoo.
        folder: For logs and the model; must exist.
        seconds: How long to ask.
        in_flight: Requests outstanding.

    Returns:
        For each request but the first ones its latency and the node's computation, in seconds.
    """
    with serving(model, folder, window=in_flight) as service:
        service.start_client(seconds, in_flight)
        service.finish(seconds)
        events = service.history.events
    compute_s = {event.id: event.finished_s - event.started_s for event in events if isinstance(event, StageExecuted)}
    latency_s = {
        event.id: event.t_s - event.submitted_s
        for event in events
        if isinstance(event, RequestCompleted) and event.outcome == "ok"
    }
    warm = sorted(latency_s)[5:]
    return [(latency_s[number], compute_s[number]) for number in warm if number in compute_s]

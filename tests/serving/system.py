"""The whole system on loopback addresses: no root, no emulation, real processes."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from runner.client import GO
from runner.history import History
from runner.observer import Observer, Watch
from runner.preparation import Samples, answer
from testbed.emulation.manifest import RunManifest
from testbed.emulation.nursery import Nursery, ServerProcess, SpawnRequest
from testbed.model.costs import chain as chain_costs
from testbed.model.costs import profile
from testbed.model.graph import ModelGraph
from testbed.model.inputs import load_inputs
from testbed.model.signature import Input
from testbed.planning.adapter import chain_from
from testbed.planning.plan import Assignment
from testbed.planning.problem import Path as LinkPath
from testbed.planning.problem import Problem, Worker
from testbed.serving.auth import new_token
from testbed.serving.events import ClientFinished, ClientReady, Event, ServerListening, ServiceState, now_s
from testbed.serving.package import write_package
from testbed.serving.process import problem_to_json

PRELOAD = ("torch", "safetensors.torch", "testbed.serving.node", "testbed.serving.dispatcher", "runner.client")
DISPATCHER = "dispatcher"


class SmallNet(torch.nn.Module):
    """Some megabytes of weights, a residual connection, different answers to different inputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = torch.nn.Conv2d(3, 32, 3, stride=2, padding=1)
        self.body = torch.nn.ModuleList(torch.nn.Conv2d(32, 32, 3, padding=1) for _ in range(6))
        self.head = torch.nn.Linear(32 * 16, 1000)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(image))
        for layer in self.body:
            x = torch.relu(layer(x) + x)
        x = torch.nn.functional.adaptive_avg_pool2d(x, 4)
        return self.head(x.flatten(1))


class PairNet(torch.nn.Module):
    """Two inputs, the second of integers, which must reach the last stage; two outputs, the first made early."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = torch.nn.Embedding(50, 64)
        self.body = torch.nn.ModuleList(torch.nn.Linear(64, 64) for _ in range(6))
        self.head = torch.nn.Linear(64, 10)

    def forward(self, scale: torch.Tensor, words: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.words(words)
        early = x.mean(1)
        for layer in self.body:
            x = torch.tanh(layer(x)) + x
        return {"early": early, "late": self.head(x * scale).sum(1) + words[:, :1]}


PAIR = (Input((1, 7), "int64", "words", below=50), Input((1, 1, 64), name="scale"))


def small_net() -> torch.nn.Module:
    """For specifications: ``module: "tests.serving.system:small_net"``."""
    return SmallNet()


def free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


@dataclass
class System:
    """Nodes, dispatcher and client; every process is a child of a nursery."""

    folder: Path
    nursery: Nursery
    observer: Observer
    history: History
    watch: Watch
    graph: ModelGraph
    samples: Samples
    problem: Problem
    token: str = field(default_factory=new_token)
    servers: dict[str, ServerProcess] = field(default_factory=dict)
    addresses: dict[str, tuple[str, int]] = field(default_factory=dict)
    dispatcher_config: dict[str, Any] = field(default_factory=dict)

    def spawn(self, name: str, entry: str, config: dict[str, Any], *fds: int) -> ServerProcess:
        descriptors = (self.observer.writing_end.fileno(), *fds)
        server = self.nursery.spawn(SpawnRequest(name, entry, config, self.folder / f"{name}.log", fds=descriptors))
        self.servers[name] = server
        return server

    @property
    def journal(self) -> Path:
        """The dispatcher's."""
        return self.folder / "storage" / DISPATCHER / "journal"

    @property
    def answers(self) -> Path:
        """Where the client keeps degraded ones."""
        return self.folder / "answers"

    def start_nodes(
        self,
        heartbeat_s: float = 0.1,
        storage_bytes: int | None = None,
        codec: str = "none",
        *,
        pace: Mapping[str, Any] | None = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> None:
        hosts = [worker.name for worker in self.problem.workers]
        for index, host in enumerate([DISPATCHER, *hosts]):
            address = f"127.0.7.{index + 1}"
            self.addresses[host] = (address, free_port(address))
        for host in hosts:
            self.start_node(host, heartbeat_s, storage_bytes, codec, pace=pace, outputs=outputs)
        self.watch.wait(lambda e: isinstance(e, ServerListening), len(hosts), 20, "the nodes' start")

    def start_node(
        self,
        host: str,
        heartbeat_s: float = 0.1,
        storage_bytes: int | None = None,
        codec: str = "none",
        *,
        pace: Mapping[str, Any] | None = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> None:
        config = {
            "host": host,
            "address": self.addresses[host],
            "dispatcher": self.addresses[DISPATCHER],
            "token": self.token,
            "store": str(self.folder / "storage" / host),
            "storage_bytes": storage_bytes,
            "heartbeat_s": heartbeat_s,
            "codec": codec,
            "pace": pace,
            "outputs": outputs,
        }
        self.spawn(host, "testbed.serving.node:main", config)

    def start_dispatcher(
        self,
        first_plan: tuple[Assignment, ...],
        *,
        window: int = 4,
        queue: int = 16,
        misses: int = 30,
        policy: Mapping[str, Any] | None = None,
        wait: bool = True,
    ) -> None:
        write_package(self.graph, self.folder / "model")
        config = {
            "host": DISPATCHER,
            "address": self.addresses[DISPATCHER],
            "nodes": {host: address for host, address in self.addresses.items() if host != DISPATCHER},
            "token": self.token,
            "package": str(self.folder / "model"),
            "survey": problem_to_json(self.problem),
            "strategy": "exact",
            "first_plan": [{"host": a.host, "first": a.first, "last": a.last} for a in first_plan],
            "heartbeat_s": 0.1,
            "misses": misses,
            "window": window,
            "queue": queue,
            # No change that isn't forced, unless a test wants one: on a busy machine measured speeds vary.
            "policy": {"gain": 1000.0, **(policy or {})},
            "journal": str(self.journal),
        }
        self.dispatcher_config = config
        self.start_dispatcher_again()
        if wait:
            self.wait_state("serving")

    def start_dispatcher_again(self) -> None:
        """As it was started before."""
        self.spawn(DISPATCHER, "testbed.serving.dispatcher:main", self.dispatcher_config)

    def start_client(self, **workload: Any) -> None:
        samples = self.folder / "samples.safetensors"
        self.answers.mkdir(exist_ok=True)
        self.samples.save(samples)
        config = {
            "dispatcher": self.addresses[DISPATCHER],
            "token": self.token,
            "samples": str(samples),
            "answers": str(self.answers),
            "distinct": len(self.samples.inputs),
            "duration_s": 2.0,
            "drain_s": 20.0,
            "in_flight": 4,
            "rate_rps": None,
            "arrivals": "poisson",
            "deadline_s": None,
            "seed": 1,
            **workload,
        }
        start, go = os.pipe()
        try:
            self.spawn("client", "runner.client:main", config, start)
            self.watch.wait(lambda e: isinstance(e, ClientReady), 1, 20, "the client's start")
            os.write(go, GO.pack(now_s()))
        finally:
            os.close(start)
            os.close(go)

    def wait_state(self, state: str, count: int = 1) -> None:
        self.watch.wait(lambda e: isinstance(e, ServiceState) and e.state == state, count, 30, f"state {state}")

    def wait_for(self, kind: type[Event], count: int = 1) -> list[Event]:
        return self.watch.wait(lambda e: isinstance(e, kind), count, 30, kind.__name__)

    def finish(self) -> ClientFinished:
        found = self.wait_for(ClientFinished)[0]
        assert isinstance(found, ClientFinished)
        return found

    def stop(self) -> None:
        """End every process."""
        for server in self.servers.values():
            server.kill()
        for server in self.servers.values():
            server.wait(10)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.history.events if isinstance(event, kind)]


@contextlib.contextmanager
def system(
    folder: Path,
    workers: int = 3,
    module: torch.nn.Module | None = None,
    inputs: Sequence[Input] = (Input((1, 3, 64, 64)),),
    max_cut_tensors: int | None = 1,
    nursery: Nursery | None = None,
) -> Iterator[System]:
    """A system whose processes end with the block; it serves ``module``, or a small net.

    Several systems may share a ``nursery``.
    """
    torch.set_num_threads(1)
    module = (small_net() if module is None else module).eval()
    requests = load_inputs(inputs, seed=1, distinct=3)
    graph = ModelGraph.trace(module, inputs)
    chain = chain_from(chain_costs(graph, profile(graph, requests[0], 3), max_cut_tensors))
    hosts = tuple(Worker(f"node{n}", speed=0.5) for n in range(1, workers + 1))
    names = [DISPATCHER, *(worker.name for worker in hosts)]
    paths = {(a, b): LinkPath(1e9) for a in names for b in names if a != b}
    problem = Problem(chain=chain, workers=hosts, dispatcher=DISPATCHER, paths=paths)
    manifest = RunManifest.create("loopback", folder / "run")
    with contextlib.ExitStack() as stack:
        history = stack.enter_context(History(folder / "events.jsonl"))
        observer = stack.enter_context(Observer(history))
        if nursery is None:
            nursery = stack.enter_context(Nursery(PRELOAD, folder, manifest))
        running = System(
            folder, nursery, observer, history, Watch(history), graph, answer(module, requests, inputs), problem
        )
        stack.callback(running.stop)
        yield running


@contextlib.contextmanager
def shared_nursery(folder: Path) -> Iterator[Nursery]:
    """For several systems one after the other: importing torch takes longer than most of what they do."""
    with Nursery(PRELOAD, folder, RunManifest.create("loopback", folder / "run")) as nursery:
        yield nursery

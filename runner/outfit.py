"""What each process of the system under test is started with, and the files that it is given.

A process knows what is in its configuration and what it hears on the emulated network, nothing else.
"""

from __future__ import annotations

import dataclasses
import zlib
from functools import cached_property
from pathlib import Path
from typing import Any

from runner.kept_answers import answers_folder
from runner.preparation import Prepared, speed
from testbed.planning.plan import Assignment
from testbed.serving.auth import new_token
from testbed.serving.computing import write_speed
from testbed.serving.package import Package, write_package
from testbed.serving.patience import Patience
from testbed.serving.process import problem_to_json
from testbed.serving.recovery import standbys
from testbed.spec.workload import ClosedWorkload, OpenWorkload

PORT = 7000
"""Where every server of the emulated cluster listens; each host has an address of its own."""

WEIGHTS = "weights"
"""Folder of the chunks that a host keeps, in its storage."""

JOURNAL = "journal"
"""Folder of the dispatcher's journal, in its storage."""

SETTLE_S = 5.0
"""For so long a plan serves at least before a change that no loss forces, in declared time."""


class Outfit:
    """Configurations as plain data, for one run.

    Args:
        prepared: Model, problem and first plan.
        work: A folder of the run's own for the files.

    Attributes:
        package: Folder of the model, as the dispatcher holds it; made by :meth:`write_model`.
        storage: Where each host's own files are, in a folder of its name, which may be a file system of its own.
    """

    def __init__(self, prepared: Prepared, work: Path) -> None:
        self._prepared = prepared
        self._experiment = prepared.emulated.experiment
        self._network = prepared.emulated.network
        self._work = work
        self._token = new_token()
        self._time_scale = prepared.experiment.compute.time_scale
        self._patience = dataclasses.asdict(Patience.scaled(self._time_scale))
        self.package = work / "model"
        self.storage = work / "storage"

    @cached_property
    def patience_s(self) -> float:
        """Time enough for every weight of the plan to cross its path, one after the other, threefold, and to spare."""
        problem, plan = self._prepared.emulated.problem, self._prepared.plan
        transfer_s = sum(
            stage.weights_bytes * 8 / problem.paths[problem.dispatcher, stage.host].rate_bps for stage in plan.stages
        )
        return 30.0 + 3 * transfer_s

    @cached_property
    def _decision(self) -> tuple[Assignment, ...]:
        """The first plan's stages."""
        return tuple(Assignment(stage.host, stage.first, stage.last) for stage in self._prepared.plan.stages)

    @cached_property
    def _copies(self) -> dict[str, tuple[Assignment, ...]]:
        """The stages that each host stands by for from the start."""
        recovery = self._experiment.recovery
        if recovery.policy != "standby":
            return {}
        return standbys(self._prepared.emulated.problem, self._decision, recovery.replicas)

    def write_model(self) -> None:
        """Write the model for the dispatcher, and for whoever measures its stages."""
        write_package(self._prepared.graph, self.package)

    def node(self, host: str) -> dict[str, Any]:
        """Configuration of a partition server; makes its storage, with its weights in it where they are prestaged."""
        store = self.storage / host / WEIGHTS
        store.mkdir(parents=True, exist_ok=True)
        if self._experiment.placement.deploy == "prestaged":
            self._prestage(host, store)
        return {
            "host": host,
            "address": self._address(host),
            "dispatcher": self._address(self._experiment.dispatcher),
            "token": self._token,
            "store": str(store),
            "storage_bytes": self._experiment.hosts[host].storage_bytes,
            "heartbeat_s": self._experiment.recovery.heartbeat_s,
            "patience": self._patience,
            "codec": self._experiment.placement.codec,
            "pace": self._pace(host),
            "outputs": self._outputs(),
        }

    def dispatcher(self) -> dict[str, Any]:
        """Configuration of the dispatcher."""
        experiment, workload = self._experiment, self._experiment.workload
        return {
            "host": experiment.dispatcher,
            "address": self._address(experiment.dispatcher),
            "nodes": {host: self._address(host) for host in experiment.workers},
            "token": self._token,
            "package": str(self.package),
            "survey": problem_to_json(self._prepared.emulated.problem),
            "strategy": experiment.placement.strategy,
            "first_plan": [dataclasses.asdict(stage) for stage in self._decision],
            "heartbeat_s": experiment.recovery.heartbeat_s,
            "misses": experiment.recovery.misses,
            "policy": self._policy(),
            "window": workload.in_flight,
            "journal": str(self.storage / experiment.dispatcher / JOURNAL),
            "patience": self._patience,
            "queue": workload.queue if isinstance(workload, OpenWorkload) else workload.in_flight,
        }

    def _policy(self) -> dict[str, Any]:
        experiment, recovery = self._experiment, self._experiment.recovery
        return {
            "name": recovery.policy,
            "wait_s": recovery.wait_s,
            "otherwise": recovery.otherwise,
            "replicas": recovery.replicas,
            "adaptive": experiment.adapts,
            "drift": recovery.drift,
            "horizon_s": recovery.horizon_s,
            "gain": recovery.gain,
            "threshold": recovery.threshold if recovery.detector == "phi" else None,
            "settle_s": SETTLE_S * self._time_scale,
        }

    def client(self) -> dict[str, Any]:
        """Configuration of the client; writes the inputs and their right answers."""
        experiment, workload = self._experiment, self._experiment.workload
        samples = self._work / "samples.safetensors"
        answers = answers_folder(self._work)
        answers.mkdir()
        self._prepared.samples.save(samples)
        return {
            "dispatcher": self._address(experiment.dispatcher),
            "token": self._token,
            "samples": str(samples),
            "answers": str(answers),
            "distinct": len(self._prepared.samples.inputs),
            "duration_s": workload.duration_s,
            "drain_s": self.patience_s,
            "in_flight": workload.in_flight if isinstance(workload, ClosedWorkload) else None,
            "rate_rps": workload.rate_rps if isinstance(workload, OpenWorkload) else None,
            "arrivals": workload.arrivals if isinstance(workload, OpenWorkload) else "poisson",
            "deadline_s": workload.deadline_s,
            "seed": experiment.seed,
            "codec": experiment.placement.codec,
            "patience": self._patience,
        }

    def _address(self, host: str) -> tuple[str, int]:
        return self._network.address(host), PORT

    def speed_file(self, host: str) -> Path:
        """Where a worker's speed is written, which a fault may change."""
        folder = self._work / "speeds"
        folder.mkdir(exist_ok=True)
        return folder / host

    def _pace(self, host: str) -> dict[str, Any]:
        """What a worker needs to hold its results back to its declared speed."""
        experiment = self._experiment
        write_speed(self.speed_file(host), speed(experiment, experiment.hosts[host].share))
        return {
            "op_seconds": self._prepared.op_seconds,
            "speed": str(self.speed_file(host)),
            "noise": experiment.compute.noise,
            "seed": zlib.crc32(f"{experiment.seed}/{host}".encode()),
        }

    def _outputs(self) -> dict[str, Any] | None:
        """Where workers look outputs up; None where they compute for real."""
        compute = self._experiment.compute
        if compute.mode != "calibrated":
            return None
        folder = self._work / "outputs"
        folder.mkdir(exist_ok=True)
        return {"folder": str(folder), "verify_every": compute.verify_every}

    def _prestage(self, host: str, store: Path) -> None:
        """Put the weights of a host's stage, and of those that it stands by for, on its disk, as an image would."""
        package, bounds = Package(self.package), self._prepared.emulated.problem.chain.boundary_ops
        for at in (*(at for at in self._decision if at.host == host), *self._copies.get(host, ())):
            for chunk_id in package.chunk_sizes(bounds[at.first], bounds[at.last]):
                (store / chunk_id).write_bytes(package.chunk(chunk_id))

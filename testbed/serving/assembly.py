"""Stages on their way into a node: programs and weights, from the node's storage and from the network."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Any

import torch

from testbed.errors import ProtocolError
from testbed.model.chunks import WeightAssembler, WeightManifest
from testbed.model.executor import StageExecutor
from testbed.model.program import StageProgram
from testbed.serving.connection import Arrival
from testbed.serving.store import ChunkStore
from testbed.serving.wire import Frame


class Assembly:
    """One stage of one epoch.

    Args:
        epoch: The epoch.
        meta: What the dispatcher's PREPARE says of the stage.
        program, manifest: What it is made of, as bytes.

    Attributes:
        epoch, stage: What is prepared.
        first_op, last_op: The operations of the model that it stands for.
        next_host, next_address: Where its results go.
        program: The stage's program.
        sizes: Bytes of each chunk of its weights.
        digest: A hash of program and weights: equal for stages that are the same.
        executor: The stage made ready, where the node holds one that is the same.

    Raises:
        ProtocolError: If that is no stage.
    """

    def __init__(self, epoch: int, meta: Mapping[str, Any], program: bytes, manifest: bytes) -> None:
        address, port = meta["next_address"]
        self.epoch = epoch
        self.stage: int = meta["stage"]
        self.first_op: int = meta["first_op"]
        self.last_op: int = meta["last_op"]
        self.next_host: str = meta["next_host"]
        self.next_address: tuple[str, int] = (address, port)
        self.digest = hashlib.sha256(program + manifest).hexdigest()
        self.program = StageProgram.from_json(program)
        self._manifest = WeightManifest.from_json(manifest)
        self.sizes = self._manifest.sizes
        self.executor: StageExecutor | None = None
        self._weights: WeightAssembler | None = None

    def begin(self, store: ChunkStore) -> None:
        """Allocate the weights and fill in what the storage holds."""
        self._weights = WeightAssembler(self._manifest)
        for chunk_id in self._weights.missing:
            data = store.read(chunk_id)
            if data is not None:
                self._weights.add(chunk_id, data, checked=True)

    @property
    def missing(self) -> Collection[str]:
        """Chunks that are not here; none before it has begun."""
        return () if self._weights is None else self._weights.missing

    def add(self, chunk_id: str, data: memoryview, *, checked: bool) -> None:
        """Take a chunk from the network; ``checked`` if its digest was found right.

        Raises:
            ProtocolError: If its bytes are not what its id says.
        """
        if self._weights is not None:
            self._weights.add(chunk_id, data, checked=checked)

    def weights(self) -> dict[str, torch.Tensor]:
        """The weights by name.

        Raises:
            ProtocolError: If some are missing.
        """
        if self._weights is None:
            raise ProtocolError(f"stage {self.stage} was never begun")
        return self._weights.tensors()


class Shipment:
    """All stages that one epoch has on a node.

    Args:
        frame: The dispatcher's PREPARE.
        store: The node's storage.

    Attributes:
        epoch: The epoch.
        stages: In the order of the frame.

    Raises:
        ProtocolError: If the frame describes no stages.
    """

    def __init__(self, frame: Frame, store: ChunkStore) -> None:
        self.epoch = frame.epoch
        self._store = store
        self._received_bytes = 0
        self._transfer_s = 0.0
        stages, start = [], 0
        for meta in frame.meta["stages"]:
            middle = start + meta["program_bytes"]
            end = middle + meta["manifest_bytes"]
            if end > len(frame.body):
                raise ProtocolError("a PREPARE whose programs and manifests are longer than its payload")
            stages.append(Assembly(frame.epoch, meta, bytes(frame.body[start:middle]), bytes(frame.body[middle:end])))
            start = end
        if not stages or len({stage.stage for stage in stages}) < len(stages):
            raise ProtocolError("a PREPARE without stages, or with one of them twice")
        self.stages = tuple(stages)
        self._sizes = {chunk_id: size for stage in stages for chunk_id, size in stage.sizes.items()}

    @property
    def held(self) -> bool:
        """Whether the node holds all these stages already."""
        return all(stage.executor is not None for stage in self.stages)

    def begin(self) -> list[str]:
        """Begin with the stages that the node doesn't hold; returns the chunks that are missing."""
        self._store.pin(self._sizes)
        for stage in self.stages:
            if stage.executor is None:
                stage.begin(self._store)
        self._store.tell_damage()
        return list(dict.fromkeys(chunk_id for stage in self.stages for chunk_id in stage.missing))

    def add(self, arrival: Arrival) -> None:
        """Take a chunk from the network.

        Raises:
            ProtocolError: If its bytes are not what its id says.
            StorageFull: If it is more than the storage may hold.
        """
        frame = arrival.frame
        chunk_id = frame.meta["chunk"]
        takers = [stage for stage in self.stages if chunk_id in stage.missing]
        for number, stage in enumerate(takers):
            stage.add(chunk_id, frame.body, checked=number > 0)
        if takers:
            self._store.write(chunk_id, frame.body, keep=self._sizes)
        if arrival.transfer_s is not None:
            self._received_bytes += frame.payload_bytes
            self._transfer_s += arrival.transfer_s

    @property
    def complete(self) -> bool:
        """Whether all weights are here."""
        return not any(stage.missing for stage in self.stages)

    def received(self) -> dict[str, Any]:
        """What came over the network and how long that took, for the dispatcher's estimates."""
        return {"bytes": self._received_bytes, "transfer_s": self._transfer_s}

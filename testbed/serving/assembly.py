"""A stage on its way into a node: the program and its weights, from the node's storage and from the network."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from testbed.errors import ProtocolError
from testbed.model.chunks import WeightAssembler, WeightManifest
from testbed.model.program import StageProgram
from testbed.serving.connection import Arrival
from testbed.serving.store import ChunkStore
from testbed.serving.wire import Frame


class Assembly:
    """One stage of one epoch.

    Args:
        frame: The dispatcher's PREPARE.
        store: The node's storage.

    Attributes:
        epoch, stage: What is prepared.
        first_op, last_op: The operations of the model that it stands for.
        next_host, next_address: Where its results go.
        program: The stage's program.
        digest: A hash of program and weights: equal for stages that are the same.

    Raises:
        ProtocolError: If the frame describes no stage.
    """

    def __init__(self, frame: Frame, store: ChunkStore) -> None:
        match frame.meta:
            case {
                "stage": int(stage),
                "first_op": int(first_op),
                "last_op": int(last_op),
                "next_host": str(next_host),
                "next_address": [str(address), int(port)],
                "program_bytes": int(length),
            } if 0 < length <= len(frame.body):
                self.stage = stage
                self.first_op = first_op
                self.last_op = last_op
                self.next_host = next_host
                self.next_address = (address, port)
            case _:
                raise ProtocolError("a PREPARE without stage, operations, next hop and program")
        self.epoch = frame.epoch
        self.digest = hashlib.sha256(frame.body).hexdigest()
        self.program = StageProgram.from_json(bytes(frame.body[:length]))
        self._manifest = WeightManifest.from_json(bytes(frame.body[length:]))
        self._store = store
        self._sizes = self._manifest.sizes
        self._received_bytes = 0
        self._transfer_s = 0.0

    def begin(self) -> list[str]:
        """Allocate the weights and fill in what the storage holds; returns the chunks that are missing."""
        self._store.pin(self._sizes)
        self._weights = WeightAssembler(self._manifest)
        for chunk_id in self._weights.missing:
            data = self._store.read(chunk_id)
            if data is not None:
                self._weights.add(chunk_id, data, checked=True)
        self._store.tell_damage()
        return list(self._weights.missing)

    def add(self, arrival: Arrival) -> None:
        """Take a chunk from the network.

        Raises:
            ProtocolError: If its bytes are not what its id says.
            StorageFull: If it is more than the storage may hold.
        """
        frame = arrival.frame
        chunk_id = frame.meta.get("chunk")
        if not isinstance(chunk_id, str):
            raise ProtocolError("a CHUNK without an id")
        self._weights.add(chunk_id, frame.body)
        if chunk_id in self._sizes:
            self._store.write(chunk_id, frame.body, keep=self._sizes)
        if arrival.transfer_s is not None:
            self._received_bytes += frame.payload_bytes
            self._transfer_s += arrival.transfer_s

    @property
    def complete(self) -> bool:
        """Whether all weights are here."""
        return not self._weights.missing

    def weights(self) -> dict[str, torch.Tensor]:
        """The weights by name.

        Raises:
            ProtocolError: If some are missing.
        """
        return self._weights.tensors()

    def received(self) -> dict[str, Any]:
        """What came over the network and how long that took, for the dispatcher's estimates."""
        return {"bytes": self._received_bytes, "transfer_s": self._transfer_s}

"""The model as the dispatcher holds it: the graph without weights, and the weights as chunks, in a folder.

::

    graph.json      the graph (testbed.model.skeleton)
    manifest.json   which chunks make up which weights
    chunks/<id>     one file a chunk
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from testbed.errors import ModelError
from testbed.model.chunks import ChunkSource, WeightManifest
from testbed.model.graph import ModelGraph
from testbed.model.program import TensorSpec
from testbed.model.skeleton import dump_skeleton, load_skeleton
from testbed.serving.store import check_chunk_id
from testbed.serving.wire import aligned

_GRAPH = "graph.json"
_MANIFEST = "manifest.json"
_CHUNKS = "chunks"


def write_package(graph: ModelGraph, folder: Path) -> None:
    """Write a model into a new folder.

    Raises:
        OSError: If it can't be written.
    """
    chunks = folder / _CHUNKS
    chunks.mkdir(parents=True)
    source = ChunkSource(graph.weights)
    for chunk_id in source.manifest.sizes:
        (chunks / chunk_id).write_bytes(source.chunk(chunk_id))
    (folder / _MANIFEST).write_bytes(source.manifest.to_json())
    (folder / _GRAPH).write_bytes(dump_skeleton(graph))


@dataclass(frozen=True, slots=True)
class Parcel:
    """What a node needs to run a stage: the program, and which chunks make up its weights."""

    program: bytes
    manifest: WeightManifest

    @property
    def chunk_ids(self) -> tuple[str, ...]:
        """Every chunk of the weights."""
        return tuple(self.manifest.sizes)


class Package:
    """A model in a folder that :func:`write_package` made."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parcels: dict[tuple[int, int], Parcel] = {}
        self._sizes: dict[tuple[int, int], dict[str, int]] = {}

    @cached_property
    def _graph(self) -> ModelGraph:
        return load_skeleton(self._folder / _GRAPH)

    @cached_property
    def _inputs(self) -> tuple[TensorSpec, ...]:
        return self._graph.inputs

    @cached_property
    def _manifest(self) -> WeightManifest:
        return WeightManifest.from_json(self._read(_MANIFEST))

    def describes_input(self, tensors: object, payload_bytes: int) -> bool:
        """Whether a request's tensors, as a frame describes them, are what the model takes.

        What a codec encoded is taken at its word; only a stage decodes it.
        """
        specs = self._inputs
        if not isinstance(tensors, list) or len(tensors) != len(specs):
            return False
        offset = end = 0
        for item, spec in zip(tensors, specs, strict=True):
            match item:
                case [spec.dtype, list(shape)]:
                    length = spec.bytes
                case [spec.dtype, list(shape), str(), int(length), list()] if length >= 0:
                    pass
                case _:
                    return False
            if tuple(shape) != spec.shape:
                return False
            end = offset + length
            offset = aligned(end)
        return end == payload_bytes

    def parcel(self, first_op: int, last_op: int) -> Parcel:
        """The stage of operations ``first_op..last_op-1``.

        Raises:
            ModelError: If the folder is damaged.
        """
        found = self._parcels.get((first_op, last_op))
        if found is None:
            program = self._graph.stage(first_op, last_op)
            tensors = {tensor.spec.name: tensor for tensor in self._manifest.tensors}
            manifest = WeightManifest(tuple(tensors[name] for name in program.weights))
            found = self._parcels[first_op, last_op] = Parcel(program.to_json(), manifest)
        return found

    def chunk_sizes(self, first_op: int, last_op: int) -> dict[str, int]:
        """Bytes of each distinct chunk of the weights that operations ``first_op..last_op-1`` read.

        Raises:
            ModelError: If the folder is damaged.
        """
        found = self._sizes.get((first_op, last_op))
        if found is None:
            read = self._graph.stage_weights(first_op, last_op).keys()
            tensors = tuple(tensor for tensor in self._manifest.tensors if tensor.spec.name in read)
            found = self._sizes[first_op, last_op] = WeightManifest(tensors).sizes
        return found

    def chunk(self, chunk_id: str) -> bytes:
        """A chunk's bytes.

        Raises:
            ModelError: If it can't be read.
        """
        return self._read(f"{_CHUNKS}/{check_chunk_id(chunk_id)}")

    def _read(self, name: str) -> bytes:
        path = self._folder / name
        try:
            return path.read_bytes()
        except OSError as error:
            raise ModelError(f"{path}: can't read the model: {error.strerror}") from error

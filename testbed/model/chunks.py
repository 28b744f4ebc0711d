"""Weights as content-addressed chunks: what the dispatcher ships and nodes keep.

A chunk is a run of at most 4 MiB of one tensor's bytes (contiguous, little-endian); its id is the SHA-256 of these
bytes in hexadecimal. Name, type and shape stand in the manifest alone, so equal bytes are one chunk wherever they
occur, and a node that holds a chunk from an earlier stage need not fetch it again.

The way back writes each chunk as it arrives into preallocated anonymous memory. Memory that is mapped from a file would
be charged to whoever touched the file first and could be reclaimed, which makes a memory limit meaningless.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn

import torch

from testbed.errors import ProtocolError
from testbed.model.program import (
    DTYPES,
    MAX_JSON_BYTES,
    MAX_NAME,
    MAX_RANK,
    MAX_TENSOR_BYTES,
    MAX_TENSORS,
    TensorSpec,
    dtype_name,
)

CHUNK_BYTES = 4 << 20
_ID_CHARACTERS = frozenset("0123456789abcdef")

if sys.byteorder != "little":
    raise ImportError("weights travel as little-endian bytes, which this machine doesn't use")


@dataclass(frozen=True, slots=True)
class ChunkedTensor:
    """A tensor and the ids of its chunks, in order."""

    spec: TensorSpec
    chunks: tuple[str, ...]

    def chunk_bytes(self, index: int) -> int:
        """Size of one of its chunks."""
        return min(CHUNK_BYTES, self.spec.bytes - index * CHUNK_BYTES)


@dataclass(frozen=True, slots=True)
class WeightManifest:
    """Which chunks make up which tensors.

    Attributes:
        tensors: In the order of the stage program's weights.
    """

    tensors: tuple[ChunkedTensor, ...]

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each distinct chunk by id, in the order of first use."""
        return {
            chunk: tensor.chunk_bytes(index) for tensor in self.tensors for index, chunk in enumerate(tensor.chunks)
        }

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.spec.bytes for tensor in self.tensors)

    def to_json(self) -> bytes:
        """The manifest for the wire."""
        return json.dumps(
            [
                {
                    "name": tensor.spec.name,
                    "dtype": tensor.spec.dtype,
                    "shape": list(tensor.spec.shape),
                    "chunks": list(tensor.chunks),
                }
                for tensor in self.tensors
            ],
            separators=(",", ":"),
        ).encode()

    @classmethod
    def from_json(cls, data: bytes) -> WeightManifest:
        """The manifest that ``data`` describes, checked.

        Raises:
            ProtocolError: If it is no legal manifest.
        """
        if len(data) > MAX_JSON_BYTES:
            _refuse(f"{len(data)} bytes are over the limit of {MAX_JSON_BYTES}")
        try:
            document = json.loads(data.decode())
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"illegal weight manifest: {str(error)[:200]}") from error
        if not isinstance(document, list) or len(document) > MAX_TENSORS:
            _refuse(f"it must be a list of at most {MAX_TENSORS} tensors")
        manifest = cls(tuple(_tensor(item, f"tensor {index}") for index, item in enumerate(document)))
        if len({tensor.spec.name for tensor in manifest.tensors}) != len(manifest.tensors):
            _refuse("two tensors have the same name")
        sizes = manifest.sizes
        for tensor in manifest.tensors:
            for index, chunk in enumerate(tensor.chunks):
                if sizes[chunk] != tensor.chunk_bytes(index):
                    _refuse(f"chunk {chunk[:12]} has two sizes")
        return manifest


def _refuse(reason: str) -> NoReturn:
    raise ProtocolError(f"illegal weight manifest: {reason}")


def _tensor(item: object, place: str) -> ChunkedTensor:
    match item:
        case {"name": str(name), "dtype": str(dtype), "shape": list(shape), "chunks": list(chunks), **rest} if not rest:
            pass
        case _:
            _refuse(f"{place} must be an object with name, dtype, shape and chunks")
    if not 0 < len(name) <= MAX_NAME or not name.isprintable():
        _refuse(f"{place} has no printable name of at most {MAX_NAME} characters")
    if dtype not in DTYPES:
        _refuse(f"{place} has the unknown type {dtype[:20]!r}")
    if len(shape) > MAX_RANK or not all(type(size) is int and 0 <= size <= MAX_TENSOR_BYTES for size in shape):
        _refuse(f"{place} has no legal shape")
    spec = TensorSpec(name, tuple(shape), dtype)
    if spec.bytes > MAX_TENSOR_BYTES:
        _refuse(f"{place} has {spec.bytes} bytes; the limit is {MAX_TENSOR_BYTES}")
    if len(chunks) != -(-spec.bytes // CHUNK_BYTES):
        _refuse(f"{place} of {spec.bytes} bytes can't have {len(chunks)} chunks")
    for chunk in chunks:
        if not isinstance(chunk, str) or len(chunk) != 64 or not _ID_CHARACTERS.issuperset(chunk):
            _refuse(f"{place} has an id that is no SHA-256")
    return ChunkedTensor(spec, tuple(chunks))


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """The tensor's own memory; writing to it writes the tensor."""
    # numpy arrays have the buffer protocol; their type only says so from Python 3.12 on.
    return memoryview(tensor.detach().view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]


class ChunkSource:
    """Weights to ship.

    Args:
        weights: By name, on the CPU; those that aren't contiguous are copied. They must not change afterwards.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        self._memory: dict[str, memoryview] = {}
        tensors = []
        for name, tensor in weights.items():
            spec = TensorSpec(name, tuple(tensor.shape), dtype_name(tensor.dtype))
            ids = []
            for chunk in self._split(tensor):
                digest = hashlib.sha256(chunk).hexdigest()
                self._memory.setdefault(digest, chunk)
                ids.append(digest)
            tensors.append(ChunkedTensor(spec, tuple(ids)))
        self.manifest = WeightManifest(tuple(tensors))

    @staticmethod
    def _split(tensor: torch.Tensor) -> Iterator[memoryview]:
        if tensor.numel():
            memory = _bytes_of(tensor.contiguous())
            for start in range(0, len(memory), CHUNK_BYTES):
                yield memory[start : start + CHUNK_BYTES].toreadonly()

    def chunk(self, chunk_id: str) -> memoryview:
        """A chunk's bytes, without a copy.

        Raises:
            KeyError: If the weights have no such chunk.
        """
        return self._memory[chunk_id]


class WeightAssembler:
    """Puts chunks together as they arrive, in any order.

    The tensors are allocated at once (memory is only taken as chunks are written), so the peak is the weights and the
    one chunk that the caller holds.

    Args:
        manifest: What to assemble.
        limit_bytes: Most bytes that the tensors may have.

    Raises:
        ProtocolError: If they have more.
    """

    def __init__(self, manifest: WeightManifest, limit_bytes: int = MAX_TENSOR_BYTES) -> None:
        if manifest.total_bytes > limit_bytes:
            raise ProtocolError(f"the weights have {manifest.total_bytes} bytes; the limit is {limit_bytes}")
        self._tensors: dict[str, torch.Tensor] = {}
        self._places: dict[str, list[memoryview]] = {}
        for item in manifest.tensors:
            tensor = torch.empty(item.spec.shape, dtype=item.spec.torch_dtype)
            self._tensors[item.spec.name] = tensor
            if item.chunks:
                memory = _bytes_of(tensor)
                for index, chunk in enumerate(item.chunks):
                    start = index * CHUNK_BYTES
                    self._places.setdefault(chunk, []).append(memory[start : start + item.chunk_bytes(index)])

    @property
    def missing(self) -> tuple[str, ...]:
        """Ids of the chunks that haven't arrived, in the order of first use."""
        return tuple(self._places)

    def add(self, chunk_id: str, data: bytes | bytearray | memoryview, *, checked: bool = False) -> None:
        """Write a chunk where it belongs. One that has arrived before is ignored.

        Args:
            chunk_id: Its id.
            data: Its bytes.
            checked: Whether the caller has found their digest right: to hash them takes most of the time of this.

        Raises:
            ProtocolError: If its size or its digest isn't what the manifest says; nothing is written then.
        """
        places = self._places.get(chunk_id)
        if places is None:
            return
        view = memoryview(data).cast("B")
        if len(view) != len(places[0]):
            raise ProtocolError(f"chunk {chunk_id[:12]} has {len(view)} bytes instead of {len(places[0])}")
        if not checked and hashlib.sha256(view).hexdigest() != chunk_id:
            raise ProtocolError(f"chunk {chunk_id[:12]} is corrupt: its bytes have another digest")
        for place in places:
            place[:] = view
        del self._places[chunk_id]

    def tensors(self) -> dict[str, torch.Tensor]:
        """The weights by name.

        Raises:
            ProtocolError: If chunks are missing.
        """
        if self._places:
            raise ProtocolError(f"{len(self._places)} chunks of the weights are missing")
        return dict(self._tensors)

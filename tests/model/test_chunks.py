"""Chunks: round trips, order, sharing, corruption, and manifests from the network."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from testbed.errors import ProtocolError
from testbed.model.chunks import CHUNK_BYTES, ChunkSource, WeightAssembler, WeightManifest


def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "big": torch.randn(3, CHUNK_BYTES // 4 // 2 + 5),
        "turned": torch.randn(5, 7).t(),
        "zeros": torch.zeros(9),
        "same zeros": torch.zeros(3, 3),
        "scalar": torch.tensor(7),
        "empty": torch.empty(0, 4),
        "half": torch.randn(6).to(torch.bfloat16),
        "mask": torch.tensor([True, False]),
    }


def test_weights_survive_the_wire_chunk_by_chunk_in_any_order() -> None:
    held = weights()
    source = ChunkSource(held)
    manifest = WeightManifest.from_json(source.manifest.to_json())
    assert manifest == source.manifest
    assembler = WeightAssembler(manifest)
    assert set(assembler.missing) == set(manifest.sizes)
    for chunk, size in reversed(list(manifest.sizes.items())):
        data = source.chunk(chunk)
        assert len(data) == size <= CHUNK_BYTES
        assert hashlib.sha256(data).hexdigest() == chunk
        assembler.add(chunk, bytes(data))
        assembler.add(chunk, b"a second time, whatever it is, changes nothing")
    found = assembler.tensors()
    assert list(found) == list(held)
    for name, tensor in held.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].is_contiguous()
        assert torch.equal(found[name], tensor), name


def test_large_tensors_are_split_and_equal_bytes_are_one_chunk() -> None:
    manifest = ChunkSource(weights()).manifest
    chunks = {tensor.spec.name: tensor.chunks for tensor in manifest.tensors}
    assert len(chunks["big"]) == 2
    assert chunks["zeros"] == chunks["same zeros"]
    assert chunks["empty"] == ()
    assert manifest.total_bytes == sum(tensor.nbytes for tensor in weights().values())


def test_corrupt_chunks_are_refused_and_change_nothing() -> None:
    source = ChunkSource(weights())
    assembler = WeightAssembler(source.manifest)
    for chunk in assembler.missing:
        data = bytearray(source.chunk(chunk))
        data[len(data) // 2] ^= 1
        with pytest.raises(ProtocolError, match="corrupt"):
            assembler.add(chunk, data)
        with pytest.raises(ProtocolError, match="bytes instead of"):
            assembler.add(chunk, bytes(data)[:-1])
        with pytest.raises(ProtocolError, match="bytes instead of"):
            assembler.add(chunk, bytes(data) + b"x")
    assert set(assembler.missing) == set(source.manifest.sizes)
    with pytest.raises(ProtocolError, match="chunks of the weights are missing"):
        assembler.tensors()
    assembler.add("0" * 64, b"a chunk that nobody asked for")


def test_assembled_weights_are_memory_of_their_own() -> None:
    source = ChunkSource({"a": torch.arange(4.0), "b": torch.arange(4.0)})
    assembler = WeightAssembler(source.manifest)
    (chunk,) = assembler.missing
    data = bytearray(source.chunk(chunk))
    assembler.add(chunk, data)
    data[:] = bytes(len(data))
    found = assembler.tensors()
    found["a"].zero_()
    assert torch.equal(found["b"], torch.arange(4.0))


def test_sources_cannot_be_written_through() -> None:
    source = ChunkSource({"a": torch.arange(4.0)})
    assert source.chunk(next(iter(source.manifest.sizes))).readonly


def test_weights_beyond_the_limit_are_refused() -> None:
    with pytest.raises(ProtocolError, match="the limit is 10"):
        WeightAssembler(ChunkSource({"a": torch.zeros(4)}).manifest, limit_bytes=10)


DOCUMENT: list[dict[str, Any]] = json.loads(ChunkSource(weights()).manifest.to_json())
HOSTILE: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "no object": lambda d: d.append({}),
    "extra key": lambda d: d[0].__setitem__("path", "/etc/passwd"),
    "unknown type": lambda d: d[0].__setitem__("dtype", "object"),
    "negative size": lambda d: d[0].__setitem__("shape", [-1]),
    "size true": lambda d: d[2].__setitem__("shape", [True]),
    "huge": lambda d: d[0].__setitem__("shape", [1 << 35, 1 << 35]),
    "rank": lambda d: d[0].__setitem__("shape", [1] * 17),
    "too few chunks": lambda d: d[0]["chunks"].pop(),
    "too many chunks": lambda d: d[0]["chunks"].append("0" * 64),
    "id a path": lambda d: d[2].__setitem__("chunks", ["../" * 21 + "x"]),
    "id in capitals": lambda d: d[2].__setitem__("chunks", ["A" * 64]),
    "id no text": lambda d: d[2].__setitem__("chunks", [7]),
    "same name": lambda d: d[1].__setitem__("name", "big"),
    "empty name": lambda d: d[1].__setitem__("name", ""),
    "control characters": lambda d: d[1].__setitem__("name", "a\n"),
    "a chunk of two sizes": lambda d: d[1].__setitem__("chunks", d[2]["chunks"]),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_manifests_are_refused(change: Callable[[list[dict[str, Any]]], Any]) -> None:
    document = copy.deepcopy(DOCUMENT)
    change(document)
    with pytest.raises(ProtocolError, match="illegal weight manifest"):
        WeightManifest.from_json(json.dumps(document).encode())


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b"[" * 100_000, b"[1]"], ids=lambda data: repr(data[:4]))
def test_bytes_that_are_no_manifest(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        WeightManifest.from_json(data)


@given(st.dictionaries(st.text("abc", min_size=1, max_size=5), st.lists(st.integers(0, 3), max_size=3), max_size=5))
def test_any_shapes_survive(shapes: dict[str, list[int]]) -> None:
    held = {name: torch.randn(shape) for name, shape in shapes.items()}
    source = ChunkSource(held)
    assembler = WeightAssembler(WeightManifest.from_json(source.manifest.to_json()))
    for chunk in assembler.missing:
        assembler.add(chunk, source.chunk(chunk))
    found = assembler.tensors()
    assert all(torch.equal(found[name], tensor) for name, tensor in held.items())

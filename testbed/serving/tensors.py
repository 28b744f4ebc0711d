"""Tensors in frames: dtype and shape in the meta, bytes in the payload, no copy either way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from testbed.errors import ProtocolError
from testbed.serving.wire import Buffer, aligned, pack_buffers

DTYPES = {
    name: getattr(torch, name)
    for name in ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MAX_TENSORS = 256
_MAX_RANK = 16


def pack_tensors(tensors: Sequence[torch.Tensor]) -> tuple[list[Any], list[Buffer]]:
    """Meta and payload of tensors; the payload refers to the tensors' own memory where they are contiguous."""
    described = [[_NAMES[tensor.dtype], list(tensor.shape)] for tensor in tensors]
    return described, pack_buffers([_memory(tensor) for tensor in tensors])


def _memory(tensor: torch.Tensor) -> memoryview:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data


def unpack_tensors(described: Any, body: memoryview) -> list[torch.Tensor]:
    """Tensors over the payload's memory.

    Raises:
        ProtocolError: If meta and payload don't describe tensors of known dtypes that fill the payload.
    """
    if not isinstance(described, list) or len(described) > _MAX_TENSORS:
        raise ProtocolError(f"a frame describes its tensors by a list of at most {_MAX_TENSORS}")
    tensors = []
    offset = 0
    for item in described:
        match item:
            case [str(name), list(shape)] if (
                name in DTYPES
                and len(shape) <= _MAX_RANK
                and all(type(size) is int and 0 <= size <= 2**31 for size in shape)
            ):
                dtype = DTYPES[name]
            case _:
                raise ProtocolError(f"no description of a tensor: {str(item)[:80]}")
        count = math.prod(shape)
        length = count * dtype.itemsize
        if offset + length > len(body):
            raise ProtocolError(f"tensors of {offset + length} bytes or more in a payload of {len(body)}")
        if count:
            tensors.append(torch.frombuffer(body, dtype=dtype, count=count, offset=offset).reshape(shape))
        else:
            tensors.append(torch.empty(shape, dtype=dtype))
        offset = aligned(offset + length)
    return tensors

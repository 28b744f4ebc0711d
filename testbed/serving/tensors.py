"""Tensors in frames: dtype and shape in the meta, bytes in the payload, no copy either way.

A description is ``[dtype, shape]``; for a tensor that a codec encoded, ``[dtype, shape, codec, bytes, numbers]``, with
the dtype and shape that it had and will have again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from testbed.errors import ProtocolError
from testbed.serving.codecs import CODECS, NONE, decoded, memory_of
from testbed.serving.wire import Buffer, aligned, pack_buffers

DTYPES = {
    name: getattr(torch, name)
    for name in ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MAX_TENSORS = 256
_MAX_RANK = 16


def pack_tensors(tensors: Sequence[torch.Tensor], codec: str = NONE) -> tuple[list[Any], list[Buffer]]:
    """Meta and payload of tensors; the payload refers to the tensors' own memory where they are sent as they are.

    Args:
        tensors: Of types that can travel.
        codec: Name of the codec, or ``none``.
    """
    described: list[Any] = []
    buffers: list[Buffer] = []
    for tensor in tensors:
        item: list[Any] = [_NAMES[tensor.dtype], list(tensor.shape)]
        encoded = None if codec == NONE else CODECS[codec].encode(tensor.detach().contiguous())
        if encoded is None:
            buffers.append(memory_of(tensor))
        else:
            buffers.append(encoded[0])
            item += [codec, len(encoded[0]), list(encoded[1])]
        described.append(item)
    return described, pack_buffers(buffers)


def unpack_tensors(described: Any, body: memoryview) -> list[torch.Tensor]:
    """Tensors over the payload's memory, or decoded from it.

    Raises:
        ProtocolError: If meta and payload don't describe tensors of known dtypes that fill the payload.
    """
    if not isinstance(described, list) or len(described) > _MAX_TENSORS:
        raise ProtocolError(f"a frame describes its tensors by a list of at most {_MAX_TENSORS}")
    tensors = []
    offset = 0
    for item in described:
        match item:
            case [str(name), list(shape), *encoding] if (
                name in DTYPES
                and len(shape) <= _MAX_RANK
                and all(type(size) is int and 0 <= size <= 2**31 for size in shape)
                and (not encoding or len(encoding) == 3)
            ):
                dtype = DTYPES[name]
            case _:
                raise ProtocolError(f"no description of a tensor: {str(item)[:80]}")
        count = math.prod(shape)
        length = encoding[1] if encoding else count * dtype.itemsize
        if type(length) is not int or length < 0:
            raise ProtocolError(f"no length of a tensor: {str(length)[:80]}")
        if offset + length > len(body):
            raise ProtocolError(f"tensors of {offset + length} bytes or more in a payload of {len(body)}")
        if encoding:
            codec, _, numbers = encoding
            if not isinstance(numbers, list):
                raise ProtocolError(f"no numbers of a tensor: {str(numbers)[:80]}")
            tensors.append(decoded(codec, body[offset : offset + length], count, dtype, numbers).reshape(shape))
        elif count:
            tensors.append(torch.frombuffer(body, dtype=dtype, count=count, offset=offset).reshape(shape))
        else:
            tensors.append(torch.empty(shape, dtype=dtype))
        offset = aligned(offset + length)
    return tensors

"""How tensors are encoded on the wire: `placement.codec`.

Each tensor of a frame is encoded on its own and says how in its description, so a receiver needs no setting, and a
tensor that a codec can't take (integers for `fp16`, values beyond a half float's range) travels as it is.

=========== ======================================== ================================ =====================
codec       what is sent                             error of an element              of an answer
=========== ======================================== ================================ =====================
`none`      the bytes                                none                             none
`lz4`       an LZ4 block                             none                             none
`zstd`      a Zstandard frame (RFC 8878), level 1    none                             none
`zlib`      deflated bytes (RFC 1950), level 1       none                             none
`fp16`      IEEE half floats                         2**-11 of it, or 2**-25          2 % of its range
`int8`      256 equal steps from least to largest    half a step: 1/510 of the range  30 % of its range
`int8+zstd` those steps in a Zstandard frame         as `int8`                        as `int8`
=========== ======================================== ================================ =====================

The error of an element is certain. What errors at several cuts do to an answer depends on the model: an answer counts
as right while its largest difference from the whole model's answer is no more than the last column says; a request's
row holds the difference itself, and whether both name the same class. Worst of 9 requests through 2 to 8 stages, random
weights: `fp16` 0.8 % and `int8` 24 % for MobileNetV2, ResNet50, EfficientNet-B0, GoogLeNet, DenseNet121 and
SqueezeNet1.1. One range for a tensor is too coarse for ViT-B/16, whose activations have outliers: `int8` is off by up
to 69 % there, and such answers count as wrong.
"""

from __future__ import annotations

import importlib.util
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import torch

from testbed.errors import MachineError, ProtocolError
from testbed.serving.wire import Buffer

MOST_DECODED_BYTES = 1 << 30
_STEPS = 255
_HALF_LARGEST = 65_504.0

Encoded = tuple[Buffer, tuple[float, ...]]
"""Bytes, and the numbers without which they mean nothing."""


class Codec(Protocol):
    """Encodes a tensor, and decodes what came of it.

    Attributes:
        name: As in `placement.codec` and in frames.
        lossless: Whether what is decoded equals what was encoded, bit for bit.
        by_shape: Whether the size of what is sent follows from a tensor's shape and type alone.
        answer_error: Most that an answer may differ, relative to the range of the right one.
    """

    name: str
    lossless: bool
    by_shape: bool
    answer_error: float

    def encode(self, tensor: torch.Tensor) -> Encoded | None:
        """What to send of a contiguous tensor; None if it is better sent as it is."""

    def decode(self, body: memoryview, count: int, dtype: torch.dtype, numbers: Sequence[float]) -> torch.Tensor:
        """``count`` elements in a row.

        Raises:
            ProtocolError: If bytes and numbers aren't what :meth:`encode` gives for so many elements.
        """


class Lossless:
    """Sends a tensor's bytes packed, where that shrinks them.

    Args:
        name: Of the codec.
        pack: Bytes to fewer bytes.
        unpack: Those and the length of what was packed to that, and never to more.
    """

    lossless, by_shape, answer_error = True, False, 0.0

    def __init__(self, name: str, pack: Callable[[Buffer], bytes], unpack: Callable[[memoryview, int], bytes]) -> None:
        self.name = name
        self._pack = pack
        self._unpack = unpack

    def encode(self, tensor: torch.Tensor) -> Encoded | None:
        """Pack; None if that doesn't shrink it."""
        raw = memory_of(tensor)
        packed = self._pack(raw)
        return (packed, ()) if len(packed) < len(raw) else None

    def decode(self, body: memoryview, count: int, dtype: torch.dtype, numbers: Sequence[float]) -> torch.Tensor:
        """Unpack, never to more than is expected."""
        if numbers or not count:
            raise ProtocolError(f"a packed tensor of {count} elements with {len(numbers)} numbers")
        return torch.frombuffer(bytearray(self.unpacked(body, count * dtype.itemsize)), dtype=dtype)

    def packed(self, raw: Buffer) -> bytes:
        """The bytes, packed, even if there are more of them."""
        return self._pack(raw)

    def unpacked(self, body: memoryview, expected: int) -> bytes:
        """The bytes that were packed.

        Raises:
            ProtocolError: If they aren't as many as expected, or can't be unpacked.
        """
        raw = self._unpack(body, expected)
        if len(raw) != expected:
            raise ProtocolError(f"{len(raw)} bytes were packed with {self.name}, {expected} are expected")
        return raw


def _inflated(body: memoryview, expected: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        # One byte more than expected tells a stream that is too long.
        raw = inflater.decompress(body, expected + 1)
    except zlib.error as error:
        raise ProtocolError(f"a deflated tensor can't be inflated: {error}") from None
    if not inflater.eof or inflater.unused_data:
        raise ProtocolError("a deflated tensor doesn't end where it should")
    return raw


def _zstd_packed(raw: Buffer) -> bytes:
    import zstandard

    return bytes(zstandard.ZstdCompressor(level=1).compress(raw))


def _zstd_unpacked(body: memoryview, expected: int) -> bytes:
    import zstandard

    try:
        # What a frame says of its size would be allocated.
        told = zstandard.frame_content_size(body)
        if told != expected:
            raise ProtocolError(f"a Zstandard frame of {told} bytes where {expected} are expected")
        return bytes(zstandard.ZstdDecompressor().decompress(body, allow_extra_data=False))
    except zstandard.ZstdError as error:
        raise ProtocolError(f"a Zstandard frame can't be read: {error}") from None


def _lz4_packed(raw: Buffer) -> bytes:
    from lz4 import block

    return bytes(block.compress(raw, store_size=False))


def _lz4_unpacked(body: memoryview, expected: int) -> bytes:
    from lz4 import block

    try:
        return bytes(block.decompress(body, uncompressed_size=expected))
    except (block.LZ4BlockError, ValueError, OverflowError) as error:
        raise ProtocolError(f"an LZ4 block can't be read: {error}") from None


class Half:
    """`fp16`: half the bytes of a float32 tensor, quick."""

    name, lossless, by_shape, answer_error = "fp16", False, True, 0.02

    def encode(self, tensor: torch.Tensor) -> Encoded | None:
        """Round to half floats; None for other types, and for values that would become infinite."""
        if tensor.dtype not in (torch.float32, torch.float64) or not tensor.numel():
            return None
        least, largest = _range(tensor)
        if not (least >= -_HALF_LARGEST and largest <= _HALF_LARGEST):
            return None
        return memory_of(tensor.to(torch.float16)), ()

    def decode(self, body: memoryview, count: int, dtype: torch.dtype, numbers: Sequence[float]) -> torch.Tensor:
        """Widen."""
        if numbers or len(body) != 2 * count or not count or not dtype.is_floating_point:
            raise ProtocolError(f"{len(body)} bytes are no {count} half floats")
        return torch.frombuffer(body, dtype=torch.float16).to(dtype)


class Byte:
    """`int8`: a quarter of the bytes of a float32 tensor; one range for the whole tensor."""

    name, lossless, by_shape, answer_error = "int8", False, True, 0.30

    def encode(self, tensor: torch.Tensor) -> Encoded | None:
        """Round to the nearest of 256 steps; None for other types, and for what has no finite range."""
        if tensor.dtype not in (torch.float32, torch.float64) or not tensor.numel():
            return None
        least, largest = _range(tensor)
        step = (largest - least) / _STEPS
        if not math.isfinite(least) or not math.isfinite(step):
            return None
        if step == 0:
            return bytes(tensor.numel()), (least, 0.0)
        steps = tensor.sub(least).div_(step).round_().clamp_(0, _STEPS)
        return memory_of(steps.to(torch.uint8)), (least, step)

    def decode(self, body: memoryview, count: int, dtype: torch.dtype, numbers: Sequence[float]) -> torch.Tensor:
        """The steps' values."""
        if len(body) != count or not count or not dtype.is_floating_point or len(numbers) != 2:
            raise ProtocolError(f"{len(body)} bytes and {len(numbers)} numbers are no {count} steps of a range")
        least, step = numbers
        return torch.frombuffer(body, dtype=torch.uint8).to(dtype).mul_(step).add_(least)


class PackedByte:
    """`int8` with its steps packed: activations behind a ReLU are mostly zero, and steps repeat."""

    lossless, by_shape, answer_error = False, False, Byte.answer_error

    def __init__(self, packer: Lossless) -> None:
        self.name = f"{Byte.name}+{packer.name}"
        self._byte = Byte()
        self._packer = packer

    def encode(self, tensor: torch.Tensor) -> Encoded | None:
        """Steps, packed."""
        found = self._byte.encode(tensor)
        return None if found is None else (self._packer.packed(found[0]), found[1])

    def decode(self, body: memoryview, count: int, dtype: torch.dtype, numbers: Sequence[float]) -> torch.Tensor:
        """The steps' values."""
        return self._byte.decode(memoryview(bytearray(self._packer.unpacked(body, count))), count, dtype, numbers)


NONE = "none"
_ZSTD = Lossless("zstd", _zstd_packed, _zstd_unpacked)
CODECS: Mapping[str, Codec] = MappingProxyType(
    {
        codec.name: codec
        for codec in (
            Lossless("lz4", _lz4_packed, _lz4_unpacked),
            _ZSTD,
            Lossless("zlib", lambda raw: zlib.compress(raw, 1), _inflated),
            Half(),
            Byte(),
            PackedByte(_ZSTD),
        )
    }
)
"""All but `none`, by name."""

PACKAGES: Mapping[str, str] = MappingProxyType({"lz4": "lz4", "zstd": "zstandard", "int8+zstd": "zstandard"})
"""What codecs need beside the standard library: the optional extra `codecs`."""


def require_codec(name: str) -> None:
    """See that a codec can be used here.

    Raises:
        MachineError: If its package isn't installed.
    """
    package = PACKAGES.get(name)
    if package is not None and importlib.util.find_spec(package) is None:
        raise MachineError(
            f"the codec {name} needs the Python package {package}, which is not installed",
            remedy="install the optional extra: .venv/bin/pip install -e '.[codecs]', or run `make setup`.",
        )


def is_lossless(name: str) -> bool:
    """Whether answers must equal the whole model's bit for bit."""
    return name == NONE or CODECS[name].lossless


def answer_error(name: str) -> float:
    """Most that an answer may differ under a codec, relative to the range of the right one."""
    return 0.0 if name == NONE else CODECS[name].answer_error


def encoded_bytes(name: str, tensor: torch.Tensor) -> int:
    """What a tensor takes in a frame's payload."""
    found = None if name == NONE else CODECS[name].encode(tensor.contiguous())
    return tensor.numel() * tensor.element_size() if found is None else len(found[0])


def memory_of(tensor: torch.Tensor) -> memoryview:
    """The bytes of a tensor, without a copy where it is contiguous."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data


def decoded(codec: Any, body: memoryview, count: int, dtype: torch.dtype, numbers: Sequence[Any]) -> torch.Tensor:
    """Decode what a frame names.

    Raises:
        ProtocolError: If there is no such codec, or it can't decode that.
    """
    found = CODECS.get(codec) if isinstance(codec, str) else None
    if found is None:
        raise ProtocolError(f"there is no codec {str(codec)[:40]!r}")
    if count * dtype.itemsize > MOST_DECODED_BYTES:
        raise ProtocolError(f"a tensor of {count * dtype.itemsize} bytes is over the limit of {MOST_DECODED_BYTES}")
    if not all(isinstance(number, float) and math.isfinite(number) for number in numbers):
        raise ProtocolError(f"the numbers of a tensor in {found.name} aren't all finite")
    return found.decode(body, count, dtype, numbers)


def _range(tensor: torch.Tensor) -> tuple[float, float]:
    """Least and largest element; not finite where an element isn't."""
    least, largest = torch.aminmax(tensor)
    return float(least), float(largest)

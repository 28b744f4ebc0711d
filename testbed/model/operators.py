"""The ATen operators that a stage program may name, and what the executor may assume of each.

The list is closed: a program comes from the network, and everything outside the list is refused before anything runs.
All operators here are functional (they change no argument), deterministic, and take no file, name or callable.
Factories such as ``zeros`` are left out, since constants are computed when a model is traced and shipped as weights.
How much memory a legal program takes is not limited here (``repeat`` or ``pad`` may ask for any size); a server's
memory limit is.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Operator:
    """One legal operator.

    Attributes:
        name: Such as ``aten.conv2d.default``.
        owns_result: Its result never shares memory with an argument.
        in_place: The operator that writes the same bits into its first argument; None if there is none or if reusing
            that argument's memory would not be safe for every shape.
        computes: False for those that only re-arrange a view and touch no data.
    """

    name: str
    owns_result: bool = True
    in_place: str | None = None
    computes: bool = True

    @property
    def overload(self) -> Any:
        """The callable ``torch.ops.aten.<name>.<overload>``."""
        return _overload(self.name)

    @property
    def single(self) -> bool:
        """Whether it returns one tensor, and neither a tuple nor a list of them."""
        returns = self.overload._schema.returns
        return len(returns) == 1 and str(returns[0].type) == "Tensor"

    @property
    def fixed_results(self) -> int | None:
        """How many tensors it returns, or None if that depends on its arguments."""
        returns = self.overload._schema.returns
        return None if len(returns) == 1 and not self.single else len(returns)


@functools.cache
def _overload(name: str) -> Any:
    _, packet, overload = name.split(".")
    return getattr(getattr(torch.ops.aten, packet), overload)


# Element-wise with one tensor, where the result has the argument's shape and dtype.
_ELEMENTWISE_IN_PLACE = (
    "relu",
    "hardtanh",
    "silu",
    "hardswish",
    "hardsigmoid",
    "sigmoid",
    "tanh",
    "gelu",
    "leaky_relu",
)

_COMPUTING = """
conv1d.default conv1d.padding conv2d.default conv2d.padding conv3d.default conv_transpose2d.input convolution.default
linear.default matmul.default mm.default bmm.default addmm.default baddbmm.default einsum.default
scaled_dot_product_attention.default embedding.default
batch_norm.default layer_norm.default group_norm.default rms_norm.default instance_norm.default
elu.default prelu.default softplus.default mish.default selu.default glu.default relu6.default log_sigmoid.default
exp.default log.default sqrt.default rsqrt.default reciprocal.default abs.default neg.default sign.default
sin.default cos.default erf.default floor.default ceil.default round.default square.default
pow.Tensor_Scalar pow.Tensor_Tensor pow.Scalar
add.Scalar sub.Tensor sub.Scalar rsub.Scalar mul.Scalar div.Tensor div.Scalar
div.Tensor_mode remainder.Scalar floor_divide.default maximum.default minimum.default
eq.Tensor eq.Scalar ne.Tensor ne.Scalar gt.Tensor gt.Scalar ge.Tensor ge.Scalar lt.Tensor lt.Scalar le.Tensor le.Scalar
logical_and.default logical_or.default logical_not.default bitwise_and.Tensor bitwise_or.Tensor bitwise_not.default
__and__.Tensor __or__.Tensor
where.self where.ScalarOther where.ScalarSelf where.Scalar masked_fill.Scalar masked_fill.Tensor
fill.Scalar fill.Tensor zero.default copy.default
clamp.default clamp.Tensor clamp_min.default clamp_max.default
softmax.int _softmax.default log_softmax.int _log_softmax.default
max_pool1d.default max_pool2d.default max_pool3d.default avg_pool1d.default avg_pool2d.default avg_pool3d.default
adaptive_avg_pool1d.default adaptive_avg_pool2d.default adaptive_avg_pool3d.default adaptive_max_pool2d.default
max_pool2d_with_indices.default
mean.default mean.dim sum.default sum.dim_IntList prod.dim_int amax.default amin.default argmax.default argmin.default
max.dim min.dim max.default min.default var.correction std.correction var_mean.correction linalg_vector_norm.default
norm.ScalarOpt_dim cumsum.default topk.default sort.default any.dim all.dim
cat.default stack.default clone.default _to_copy.default roll.default flip.default pad.default constant_pad_nd.default
index.Tensor index_select.default gather.default slice_scatter.default select_scatter.default tril.default triu.default
repeat.default pixel_shuffle.default pixel_unshuffle.default channel_shuffle.default
upsample_nearest2d.vec upsample_nearest2d.default upsample_bilinear2d.vec upsample_bilinear2d.default
upsample_bicubic2d.vec upsample_bicubic2d.default
"""

_VIEWS = """
view.default _unsafe_view.default reshape.default flatten.using_ints unflatten.int permute.default transpose.int
t.default expand.default unsqueeze.default squeeze.default squeeze.dim squeeze.dims select.int slice.Tensor
narrow.default alias.default split.Tensor split_with_sizes.default chunk.default unbind.int movedim.int diagonal.default
"""

# Those that may hand back (a view of) an argument: their memory is neither theirs nor the argument's alone.
_MAY_SHARE = frozenset({"einsum.default", "pad.default"})


def _table() -> dict[str, Operator]:
    table = {
        f"aten.{name}": Operator(f"aten.{name}", owns_result=name not in _MAY_SHARE) for name in _COMPUTING.split()
    }
    for name in _ELEMENTWISE_IN_PLACE:
        table[f"aten.{name}.default"] = Operator(f"aten.{name}.default", in_place=f"aten.{name}_.default")
    for name in ("add.Tensor", "mul.Tensor"):
        packet, overload = name.split(".")
        table[f"aten.{name}"] = Operator(f"aten.{name}", in_place=f"aten.{packet}_.{overload}")
    for name in _VIEWS.split():
        table[f"aten.{name}"] = Operator(f"aten.{name}", owns_result=False, computes=False)
    return table


OPERATORS: Mapping[str, Operator] = MappingProxyType(_table())


@dataclass(frozen=True, slots=True)
class Ref:
    """A tensor argument, by the number of its value."""

    value: int


_MEMORY_FORMATS = (torch.contiguous_format, torch.preserve_format, torch.channels_last, torch.channels_last_3d)
_INT64 = 1 << 63


def check_arguments(operator: Operator, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """What is wrong with a call, judged by the operator's own schema; None if it is legal.

    Tensors are `Ref`; they may stand only where the schema takes a tensor or a list of them, and not in ``kwargs``.
    """
    schema = {argument.name: argument for argument in operator.overload._schema.arguments}
    positional = [argument for argument in schema.values() if not argument.kwarg_only]
    if len(args) > len(positional):
        return f"takes {len(positional)} positional arguments, not {len(args)}"
    given = {argument.name: value for argument, value in zip(positional, args, strict=False)}
    for name, value in kwargs.items():
        if name not in schema:
            return f"has no argument {name!r}"
        if name in given:
            return f"gets {name!r} twice"
        if _holds_tensor(value):
            return f"gets a tensor by keyword ({name!r})"
        given[name] = value
    for name, argument in schema.items():
        if name not in given:
            if not argument.has_default_value():
                return f"lacks the argument {name!r}"
        elif not _fits(str(argument.real_type), argument.N, given[name]):
            return f"can't take that as {name!r}, which is {argument.real_type}"
    return None


def _holds_tensor(value: object) -> bool:
    return isinstance(value, Ref) or (isinstance(value, tuple) and any(map(_holds_tensor, value)))


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -_INT64 <= value < _INT64


def _is_number(value: object) -> bool:
    return _is_int(value) or isinstance(value, (float, bool))


def _fits(kind: str, size: int | None, value: object) -> bool:
    if kind.startswith("Optional["):
        return value is None or _fits(kind[len("Optional[") : -1], size, value)
    if kind.startswith("List["):
        inner = kind[len("List[") : -1]
        if isinstance(value, tuple):
            return all(_fits(inner, None, item) for item in value)
        return size is not None and inner in ("int", "float") and _fits(inner, None, value)
    match kind:
        case "Tensor":
            return isinstance(value, Ref) or _is_number(value)
        case "int" | "SymInt":
            return _is_int(value)
        case "float":
            return isinstance(value, float) or _is_int(value)
        case "number":
            return _is_number(value)
        case "bool":
            return isinstance(value, bool)
        case "str":
            return isinstance(value, str)
        case "ScalarType":
            return isinstance(value, torch.dtype)
        case "MemoryFormat":
            return value in _MEMORY_FORMATS if isinstance(value, torch.memory_format) else False
    return False


def tensors_of(args: tuple[Any, ...]) -> tuple[int, ...]:
    """Numbers of the values that the arguments name, in order, with repeats."""
    found: list[int] = []
    for item in args:
        if isinstance(item, Ref):
            found.append(item.value)
        elif isinstance(item, tuple):
            found.extend(tensors_of(item))
    return tuple(found)


def dense_order(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...] | None:
    """Dimensions from outermost to innermost of a tensor that fills its memory without holes; None if it doesn't.

    Dimensions of size 1 keep their place where they can, so that a contiguous tensor gives ``0, 1, 2, …``.
    """
    if math.prod(shape) == 0 or _is_dense(shape, strides, tuple(range(len(shape)))):
        return tuple(range(len(shape)))
    order = tuple(sorted(range(len(shape)), key=lambda dim: (-strides[dim], dim)))
    if _is_dense(shape, strides, order):
        return order
    wide = sorted((dim for dim in range(len(shape)) if shape[dim] > 1), key=lambda dim: -strides[dim])
    order = tuple(dim for dim in range(len(shape)) if shape[dim] == 1) + tuple(wide)
    return order if _is_dense(shape, strides, order) else None


def _is_dense(shape: tuple[int, ...], strides: tuple[int, ...], order: tuple[int, ...]) -> bool:
    expected = 1
    for dim in reversed(order):
        if shape[dim] != 1:
            if strides[dim] != expected:
                return False
            expected *= shape[dim]
    return True

"""Stage programs: what a partition server runs, as plain data.

A program is a list of allow-listed ATen operations over numbered values: the stage's inputs come first, then its
weights, then the results in order. It travels as JSON and is checked on arrival, since it comes from the network::

    {"version": 1,
     "inputs":  [{"name": "x", "shape": [1, 3, 96, 96], "dtype": "float32"}],
     "weights": [{"name": "conv.weight", "shape": [8, 3, 3, 3], "dtype": "float32"}],
     "ops":     [{"op": "aten.conv2d.default", "args": [{"v": 0}, {"v": 1}, null, [1, 1]], "kwargs": {}, "results": 1}],
     "outputs": [{"name": "conv2d", "shape": [1, 8, 94, 94], "dtype": "float32", "value": 2}]}

Arguments are null, booleans, integers, floats, strings, lists of them, and four tagged forms: ``{"v": 3}`` (a value),
``{"dtype": "float32"}``, ``{"memory_format": "contiguous_format"}``, ``{"float": "-inf"}``. Nothing in a program is
ever looked up by attribute access but the operators of `testbed.model.operators.OPERATORS`.

Importing this module needs torch alone, for it runs inside partition servers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch

from testbed.errors import ProtocolError
from testbed.model.liveness import Step
from testbed.model.operators import OPERATORS, Ref, check_arguments, tensors_of

VERSION = 1
MAX_JSON_BYTES = 32 << 20
MAX_OPS = 50_000
MAX_TENSORS = 50_000
MAX_LIST = 4_096
MAX_DEPTH = 3
MAX_NAME = 512
MAX_RANK = 16
MAX_TENSOR_BYTES = 64 << 30

DTYPES: Mapping[str, torch.dtype] = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16,
        torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
    )
}  # fmt: skip
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MEMORY_FORMATS = {
    str(item).removeprefix("torch."): item
    for item in (torch.contiguous_format, torch.preserve_format, torch.channels_last, torch.channels_last_3d)
}
_FLOATS = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` for ``torch.float32``.

    Raises:
        KeyError: If tensors of that type can't travel.
    """
    return _DTYPE_NAMES[dtype]


def torch_dtype(name: str) -> torch.dtype:
    """``torch.float32`` for ``float32``.

    Raises:
        KeyError: If there is no such type.
    """
    return DTYPES[name]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor that enters or leaves a stage, contiguous in memory.

    Attributes:
        name: The value's name in the model's graph, or the weight's.
        shape: Its sizes as it travels.
        dtype: Such as ``float32``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type as torch names it."""
        return DTYPES[self.dtype]

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size in bytes."""
        return self.elements * self.torch_dtype.itemsize

    def mismatch(self, tensor: torch.Tensor) -> str | None:
        """What of ``tensor`` differs from this spec, for people; None if it fits."""
        if tuple(tensor.shape) != self.shape:
            return f"{self.name!r} must have shape {list(self.shape)}, not {list(tensor.shape)}"
        if tensor.dtype != self.torch_dtype:
            return f"{self.name!r} must be {self.dtype}, not {str(tensor.dtype).removeprefix('torch.')}"
        return None


@dataclass(frozen=True, slots=True)
class Instruction:
    """One operation.

    Attributes:
        op: Its key in `OPERATORS`.
        args: Positional arguments; tensors are `Ref`, lists are tuples.
        kwargs: Arguments that the operator takes by keyword only; never tensors.
        results: How many values it makes.
    """

    op: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    results: int = 1


@dataclass(frozen=True, slots=True)
class StageProgram:
    """A stage: inputs, weights, operations, outputs.

    Attributes:
        inputs: What `StageExecutor.run` takes, in order.
        weight_specs: Weights that the stage needs.
        ops: Operations in the order of execution.
        outputs: What `StageExecutor.run` gives, in order.
        output_values: The value that each output is.
    """

    inputs: tuple[TensorSpec, ...]
    weight_specs: tuple[TensorSpec, ...]
    ops: tuple[Instruction, ...]
    outputs: tuple[TensorSpec, ...]
    output_values: tuple[int, ...]

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of the weights."""
        return tuple(spec.name for spec in self.weight_specs)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        return sum(spec.bytes for spec in self.weight_specs)

    @property
    def fixed(self) -> int:
        """Number of values that exist before the first operation: inputs and weights."""
        return len(self.inputs) + len(self.weight_specs)

    def steps(self) -> tuple[Step, ...]:
        """The operations as liveness sees them."""
        found = []
        number = self.fixed
        for item in self.ops:
            found.append(Step(item.op, tensors_of(item.args), tuple(range(number, number + item.results))))
            number += item.results
        return tuple(found)

    def to_json(self) -> bytes:
        """The program for the wire."""
        document = {
            "version": VERSION,
            "inputs": [_encode_spec(spec) for spec in self.inputs],
            "weights": [_encode_spec(spec) for spec in self.weight_specs],
            "ops": [
                {
                    "op": item.op,
                    "args": [encode_argument(argument) for argument in item.args],
                    "kwargs": {name: encode_argument(argument) for name, argument in item.kwargs.items()},
                    "results": item.results,
                }
                for item in self.ops
            ],
            "outputs": [
                {**_encode_spec(spec), "value": value}
                for spec, value in zip(self.outputs, self.output_values, strict=True)
            ],
        }
        return json.dumps(document, allow_nan=False, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> StageProgram:
        """The program that ``data`` describes, checked.

        Raises:
            ProtocolError: If it is no legal program: not JSON, an unknown operator or key, arguments that the
                operator's schema doesn't take, a value used before it is made, or a limit of this module exceeded.
        """
        document = _keys(_parse(data), {"version", "inputs", "weights", "ops", "outputs"}, "program")
        if document["version"] != VERSION or document["version"] is True:
            _refuse(f"version {document['version']!r:.20} isn't {VERSION}")
        inputs = tuple(
            _decode_spec(item, f"inputs[{i}]")
            for i, item in enumerate(_list(document["inputs"], "inputs", MAX_TENSORS))
        )
        weights = tuple(
            _decode_spec(item, f"weights[{i}]")
            for i, item in enumerate(_list(document["weights"], "weights", MAX_TENSORS))
        )
        if len({spec.name for spec in weights}) != len(weights):
            _refuse("two weights have the same name")
        ops: list[Instruction] = []
        made = len(inputs) + len(weights)
        for i, item in enumerate(_list(document["ops"], "ops", MAX_OPS)):
            instruction = _decode_instruction(item, f"ops[{i}]", made)
            ops.append(instruction)
            made += instruction.results
        outputs, values = [], []
        for i, item in enumerate(_list(document["outputs"], "outputs", MAX_TENSORS)):
            entry = dict(_keys(item, {"name", "shape", "dtype", "value"}, f"outputs[{i}]"))
            values.append(_integer(entry.pop("value"), f"outputs[{i}].value", made - 1))
            outputs.append(_decode_spec(entry, f"outputs[{i}]"))
        if not outputs:
            _refuse("it has no output")
        return cls(inputs, weights, tuple(ops), tuple(outputs), tuple(values))


def _refuse(reason: str) -> NoReturn:
    raise ProtocolError(f"illegal stage program: {reason}")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice in an object")
    return found


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _parse(data: bytes) -> object:
    if len(data) > MAX_JSON_BYTES:
        _refuse(f"{len(data)} bytes are over the limit of {MAX_JSON_BYTES}")
    try:
        return json.loads(data.decode(), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"illegal stage program: {str(error)[:200]}") from error


def _keys(item: object, wanted: set[str], place: str) -> Mapping[str, Any]:
    if not isinstance(item, dict) or set(item) != wanted:
        _refuse(f"{place} must be an object with the keys {', '.join(sorted(wanted))}")
    return item


def _list(item: object, place: str, most: int) -> Sequence[Any]:
    if not isinstance(item, list) or len(item) > most:
        _refuse(f"{place} must be a list of at most {most} items")
    return item


def _integer(item: object, place: str, most: int) -> int:
    if not isinstance(item, int) or isinstance(item, bool) or not 0 <= item <= most:
        _refuse(f"{place} must be an integer from 0 to {most}")
    return item


def _name(item: object, place: str) -> str:
    if not isinstance(item, str) or not 0 < len(item) <= MAX_NAME or not item.isprintable():
        _refuse(f"{place} must be a printable name of at most {MAX_NAME} characters")
    return item


def _encode_spec(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype}


def _decode_spec(item: object, place: str) -> TensorSpec:
    entry = _keys(item, {"name", "shape", "dtype"}, place)
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPES:
        _refuse(f"{place}.dtype must be one of {', '.join(DTYPES)}")
    shape = tuple(
        _integer(size, f"{place}.shape", MAX_TENSOR_BYTES) for size in _list(entry["shape"], f"{place}.shape", MAX_RANK)
    )
    spec = TensorSpec(_name(entry["name"], f"{place}.name"), shape, entry["dtype"])
    if spec.bytes > MAX_TENSOR_BYTES:
        _refuse(f"{place} has {spec.bytes} bytes; the limit is {MAX_TENSOR_BYTES}")
    return spec


def encode_argument(argument: object) -> Any:
    """An argument of an operation as JSON; see the module."""
    """An argument of an `Instruction` as JSON has it."""
    match argument:
        case Ref(value=value):
            return {"v": value}
        case torch.dtype():
            return {"dtype": dtype_name(argument)}
        case torch.memory_format():
            return {"memory_format": str(argument).removeprefix("torch.")}
        case float() if not math.isfinite(argument):
            return {"float": str(argument)}
        case tuple():
            return [encode_argument(item) for item in argument]
    return argument


def decode_argument(item: object, place: str, made: int, depth: int = 0) -> Any:
    """The argument that ``item`` stands for.

    Args:
        item: What JSON gave.
        place: Where it stands, for the error.
        made: How many values there are so far.
        depth: Of the lists around it.

    Raises:
        ProtocolError: If it has no legal form.
    """
    """The argument that ``item`` describes, when values ``0..made-1`` exist.

    Raises:
        ProtocolError: If it has no legal form; says so of ``place``.
    """
    match item:
        case None | bool() | float() | str():
            return item
        case int():
            return item
        case list() if depth < MAX_DEPTH:
            return tuple(decode_argument(part, place, made, depth + 1) for part in _list(item, place, MAX_LIST))
        case {"v": value, **rest} if not rest:
            return Ref(_integer(value, f"{place}: value", made - 1))
        case {"dtype": str(name), **rest} if not rest and name in DTYPES:
            return DTYPES[name]
        case {"memory_format": str(name), **rest} if not rest and name in _MEMORY_FORMATS:
            return _MEMORY_FORMATS[name]
        case {"float": str(name), **rest} if not rest and name in _FLOATS:
            return _FLOATS[name]
    _refuse(f"{place} has an argument of no legal form")


def _decode_instruction(item: object, place: str, made: int) -> Instruction:
    entry = _keys(item, {"op", "args", "kwargs", "results"}, place)
    name = entry["op"]
    if not isinstance(name, str) or name not in OPERATORS:
        _refuse(f"{place}: operator {name!r:.80} isn't on the allow-list")
    operator = OPERATORS[name]
    if not isinstance(entry["kwargs"], dict):
        _refuse(f"{place}.kwargs must be an object")
    args = tuple(
        decode_argument(part, f"{place} ({name})", made) for part in _list(entry["args"], f"{place}.args", MAX_LIST)
    )
    kwargs = {key: decode_argument(part, f"{place} ({name})", made) for key, part in entry["kwargs"].items()}
    wrong = check_arguments(operator, args, kwargs)
    if wrong is not None:
        _refuse(f"{place}: {name} {wrong}")
    if not tensors_of(args):
        _refuse(f"{place}: {name} reads no value")
    results = _integer(entry["results"], f"{place}.results", MAX_LIST)
    if results == 0 or (operator.fixed_results is not None and results != operator.fixed_results):
        _refuse(f"{place}: {name} can't give {results} results")
    return Instruction(name, args, kwargs, results)

"""Stage programs from the network: whatever isn't a legal program is refused before anything runs."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from testbed.errors import ProtocolError
from testbed.model import program as limits
from testbed.model.executor import StageExecutor
from testbed.model.graph import ModelGraph
from testbed.model.operators import OPERATORS
from testbed.model.program import StageProgram


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm(self.conv(x)))
        y = torch.cat([y, y * 2], 1).masked_fill(torch.eye(2) > 0, -math.inf)
        first, second = y.to(torch.float64).chunk(2, 1)
        return nn.functional.gelu(first + second, approximate="tanh")


GRAPH = ModelGraph.trace(Small().eval(), (1, 2, 4, 4))
PROGRAM = GRAPH.stage(0, len(GRAPH.ops))
DOCUMENT: dict[str, Any] = json.loads(PROGRAM.to_json())


def parse(document: object) -> StageProgram:
    return StageProgram.from_json(json.dumps(document).encode())


def test_programs_survive_the_wire() -> None:
    assert StageProgram.from_json(PROGRAM.to_json()) == PROGRAM
    assert PROGRAM.weights == tuple(GRAPH.weights)
    assert PROGRAM.weight_bytes == sum(tensor.nbytes for tensor in GRAPH.weights.values())


def conv(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(op for op in document["ops"] if op["op"] == "aten.conv2d.default")
    return found


def set_key(*path: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = to

    return change


def add_op(**entry: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        document["ops"].append({"op": "aten.relu.default", "args": [{"v": 0}], "kwargs": {}, "results": 1} | entry)

    return change


HOSTILE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "version": set_key("version", to=2),
    "version true": set_key("version", to=True),
    "extra key": set_key("evil", to=1),
    "missing key": lambda d: d.pop("ops"),
    "ops no list": set_key("ops", to={}),
    "op no object": lambda d: d["ops"].append(3),
    "op extra key": add_op(target="x"),
    "unknown operator": add_op(op="aten.from_file.default"),
    "python attribute": add_op(op="aten.__class__.__mro__"),
    "operator elsewhere": add_op(op="prims.add.default"),
    "operator no string": add_op(op=["aten.relu.default"]),
    "in-place operator": add_op(op="aten.relu_.default"),
    "factory": add_op(op="aten.ones.default", args=[[1 << 40]]),
    "set_ storage": add_op(op="aten.set_.source_Tensor", args=[{"v": 0}, {"v": 0}]),
    "as_strided": add_op(op="aten.as_strided.default", args=[{"v": 0}, [9], [1]]),
    "value not made yet": add_op(args=[{"v": 10_000}]),
    "its own result": lambda d: add_op(args=[{"v": sum(o["results"] for o in d["ops"]) + 1 + len(d["weights"])}])(d),
    "negative value": add_op(args=[{"v": -1}]),
    "value true": add_op(args=[{"v": True}]),
    "value float": add_op(args=[{"v": 0.0}]),
    "value text": add_op(args=[{"v": "0"}]),
    "two tags": add_op(args=[{"v": 0, "dtype": "float32"}]),
    "unknown tag": add_op(args=[{"getattr": "x"}]),
    "unknown dtype": add_op(op="aten._to_copy.default", kwargs={"dtype": {"dtype": "complex64"}}),
    "dtype as number": add_op(op="aten._to_copy.default", kwargs={"dtype": 6}),
    "unknown memory format": add_op(op="aten.clone.default", kwargs={"memory_format": {"memory_format": "__doc__"}}),
    "unknown float": add_op(op="aten.mul.Scalar", args=[{"v": 0}, {"float": "1e400"}]),
    "missing argument": add_op(args=[]),
    "too many arguments": add_op(args=[{"v": 0}, 1]),
    "unknown keyword": add_op(kwargs={"out": None}),
    "keyword given twice": add_op(op="aten.mul.Scalar", args=[{"v": 0}, 2], kwargs={"other": 2}),
    "tensor by keyword": add_op(args=[], kwargs={"self": {"v": 0}}),
    "tensor where a number belongs": add_op(op="aten.mul.Scalar", args=[{"v": 0}, {"v": 0}]),
    "number where a tensor belongs": add_op(args=[3]),
    "text where a number belongs": add_op(op="aten.mul.Scalar", args=[{"v": 0}, "2"]),
    "float where an integer belongs": add_op(op="aten.softmax.int", args=[{"v": 0}, 1.0]),
    "integer beyond 64 bits": add_op(op="aten.softmax.int", args=[{"v": 0}, 1 << 63]),
    "null where a list belongs": add_op(op="aten.view.default", args=[{"v": 0}, None]),
    "no results": add_op(results=0),
    "too many results": add_op(results=2),
    "results beyond all limits": add_op(op="aten.chunk.default", args=[{"v": 0}, 2], results=1 << 30),
    "results true": add_op(results=True),
    "list too deep": add_op(op="aten.view.default", args=[{"v": 0}, [[[[[1]]]]]]),
    "list too long": add_op(op="aten.view.default", args=[{"v": 0}, [1] * (limits.MAX_LIST + 1)]),
    "kwargs no object": add_op(kwargs=[]),
    "args no list": add_op(args={"v": 0}),
    "no outputs": set_key("outputs", to=[]),
    "output not made": set_key("outputs", 0, "value", to=9999),
    "output without value": lambda d: d["outputs"][0].pop("value"),
    "negative size": set_key("inputs", 0, "shape", to=[-1, 2]),
    "size true": set_key("inputs", 0, "shape", to=[True]),
    "huge tensor": set_key("inputs", 0, "shape", to=[1 << 20, 1 << 20]),
    "too many dimensions": set_key("inputs", 0, "shape", to=[1] * 17),
    "unknown type of input": set_key("inputs", 0, "dtype", to="object"),
    "input's type no text": set_key("inputs", 0, "dtype", to={}),
    "empty name": set_key("inputs", 0, "name", to=""),
    "long name": set_key("inputs", 0, "name", to="x" * 513),
    "name with control characters": set_key("inputs", 0, "name", to="a\x1b[2J"),
    "name no text": set_key("weights", 0, "name", to=7),
    "same weight twice": lambda d: d["weights"].__setitem__(1, d["weights"][0]),
    "bias of an object": lambda d: conv(d)["args"].__setitem__(2, {}),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_programs_are_refused(change: Callable[[dict[str, Any]], Any]) -> None:
    document = copy.deepcopy(DOCUMENT)
    change(document)
    with pytest.raises(ProtocolError, match="illegal stage program"):
        parse(document)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"\xff\xfe",
        b"{" * 100_000,
        b"[" * 100_000,
        b'{"version": 1, "version": 1}',
        b'{"version": NaN}',
        b"1" * 10_000,
        b'{"version":1,"inputs":[],"weights":[],"ops":[],"outputs":[]}',
        b" " * (limits.MAX_JSON_BYTES + 1),
        PROGRAM.to_json()[:-1],
    ],
    ids=lambda data: repr(data[:12]),
)
def test_bytes_that_are_no_program(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        StageProgram.from_json(data)


def test_too_many_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_OPS", len(DOCUMENT["ops"]) - 1)
    with pytest.raises(ProtocolError, match="ops must be a list of at most"):
        parse(DOCUMENT)


def _places(item: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list) else ()
    return [path, *(place for key, value in inner for place in _places(value, (*path, key)))]


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 40) | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["float32", "aten.relu.default", "aten.view.default", "aten.cat.default", "v", "", "x"]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["v", "op", "args", "dtype", "float"]), inner, max_size=2),
    max_leaves=6,
)  # fmt: skip


@given(data=st.data())
def test_mutated_programs_are_refused_or_run_or_fail_as_such(data: st.DataObject) -> None:
    document = copy.deepcopy(DOCUMENT)
    for _ in range(data.draw(st.integers(1, 3))):
        *parents, key = data.draw(st.sampled_from(_places(document)[1:]))
        place: Any = document
        for step in parents:
            place = place[step]
        if data.draw(st.booleans()):
            place[key] = data.draw(JUNK)
        else:
            del place[key]
    try:
        program = parse(document)
        # What passes is legal, so it is the same after another trip; it may still ask for what tensors can't do.
        assert StageProgram.from_json(program.to_json()) == program
        if sum(spec.bytes for spec in (*program.inputs, *program.weight_specs)) > 1 << 20:
            return
        weights = {spec.name: torch.zeros(spec.shape, dtype=spec.torch_dtype) for spec in program.weight_specs}
        StageExecutor(program, weights).run([torch.zeros(s.shape, dtype=s.torch_dtype) for s in program.inputs])
    except ProtocolError:
        pass


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        StageProgram.from_json(data)


def test_every_allowed_operator_exists_and_changes_no_argument() -> None:
    for name, operator in OPERATORS.items():
        schema = operator.overload._schema
        assert not schema.is_mutable, name
        assert torch.Tag.nondeterministic_seeded not in operator.overload.tags or "attention" in name, name
        assert all(str(item.type) not in ("Generator", "Optional[Generator]") for item in schema.arguments), name
        shares = any(item.alias_info is not None for item in schema.returns)
        assert not (shares and operator.owns_result), name
        assert operator.fixed_results is None or operator.fixed_results >= 1
        if operator.in_place is not None:
            packet, overload = operator.in_place.split(".")[1:]
            assert getattr(getattr(torch.ops.aten, packet), overload)._schema.is_mutable

"""From a module to a list of functional operations over numbered values.

``torch.export`` gives the graph; here it is made functional (no operation changes a tensor), constants are computed,
and operations that do nothing at inference are dropped:

- whatever depends on no input (masks, position tables, transposed weights) is computed once and becomes a weight, named
  ``constant:<node>``. It is shipped to each stage that reads it and never sent between stages;
- ``alias``, evaluation-time dropout and copies that keep the layout vanish;
- functional batch normalisation with its two empty extra results becomes ``aten.batch_norm`` again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.fx import Node

from testbed.errors import ModelError
from testbed.model.exporting import export_functional
from testbed.model.operators import OPERATORS, Ref, check_arguments, dense_order, tensors_of
from testbed.model.program import DTYPES
from testbed.model.signature import Input, forward_order

_IDENTITIES = ("aten.alias.default", "aten.lift_fresh_copy.default", "aten.detach.default", "aten.lift_fresh.default")
_FROM_SHAPE_ALONE = ("new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "full_like")
_BATCH_NORM = "aten._native_batch_norm_legit_no_training.default"
# What says where tensors live: all of them are dense and on the CPU here.
_PLACEMENT_KEYWORDS = ("device", "layout", "pin_memory", "non_blocking")


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the graph.

    Attributes:
        name: Unique in the graph.
        shape: Its sizes.
        dtype: Its type.
        order: Dimensions from outermost to innermost in memory, or None if it has holes or repeats (a slice, say).
        strides: In elements.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    order: tuple[int, ...] | None
    strides: tuple[int, ...]

    @classmethod
    def of(cls, name: str, tensor: torch.Tensor) -> Value:
        """The value that a tensor (real or fake) is an example of."""
        shape, strides = tuple(map(int, tensor.shape)), tuple(map(int, tensor.stride()))
        return cls(name, shape, tensor.dtype, dense_order(shape, strides), strides)

    @property
    def bytes(self) -> int:
        """Size in bytes, each element counted once."""
        elements = 1
        for size in self.shape:
            elements *= size
        return elements * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Op:
    """An operation of the whole model.

    Attributes:
        name: Its node in the exported graph.
        op: Its key in `OPERATORS`.
        args, kwargs: As in `testbed.model.program.Instruction`, with the graph's value numbers.
        reads: Values among the arguments, in order.
        makes: Values that it makes.
        module: Dotted path of the submodule that it comes from; empty if unknown.
    """

    name: str
    op: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    reads: tuple[int, ...]
    makes: tuple[int, ...]
    module: str = ""


@dataclass(frozen=True, slots=True)
class Trace:
    """A module as plain data: ``values`` are the inputs, then the weights, then the results of ``ops`` in order.

    ``weights`` holds a tensor for each weight value as it lies in memory, contiguous in its value's ``order``.
    """

    values: tuple[Value, ...]
    inputs: int
    weights: tuple[torch.Tensor, ...]
    ops: tuple[Op, ...]
    outputs: tuple[int, ...]


def trace(module: torch.nn.Module, inputs: Sequence[Input], example: Sequence[torch.Tensor]) -> Trace:
    """The operations of ``module`` in evaluation mode for ``inputs`` like ``example``.

    Raises:
        ModelError: If it can't be exported (control flow that depends on data, for instance; names the line), changes
            its own state, or uses an operator that stages may not name.
    """
    if module.training:
        raise ModelError("the module is in training mode", remedy="Call .eval() on it before it is traced.")
    order = forward_order(module, inputs)
    program = export_functional(module, [inputs[i] for i in order], [example[i].contiguous() for i in order])
    return _Reader(program, order).read()


class _Reader:
    """Reads an exported program node by node; ``order`` tells which input each of the program's own is."""

    def __init__(self, program: ExportedProgram, order: Sequence[int]) -> None:
        self._program = program
        self._order = order
        self._constants: dict[Node, Any] = {}
        self._weight_of: dict[Node, int] = {}
        self._alias: dict[Node, Node] = {}
        self._results: dict[Node, tuple[int, ...]] = {}
        self._number: dict[Node, int] = {}
        self._nodes: list[Node] = []

    def read(self) -> Trace:
        """The whole graph."""
        inputs = self._placeholders()
        outputs = self._outputs()
        for node in self._program.graph.nodes:
            if node.op == "call_function":
                self._visit(node)
        wanted = self._needed(outputs)
        values = [Value.of(node.name, node.meta["val"]) for node in inputs]
        self._number.update({node: number for number, node in enumerate(inputs)})
        weights = self._number_weights(wanted, outputs, values)
        ops = []
        for node in self._nodes:
            if node in wanted:
                ops.append(self._op(node, values))
        found = tuple(self._number[self._source(node)] for node in outputs)
        return Trace(tuple(values), len(inputs), tuple(weights), tuple(ops), found)

    def _placeholders(self) -> list[Node]:
        program = self._program
        kinds = {spec.arg.name: spec for spec in program.graph_signature.input_specs if hasattr(spec.arg, "name")}
        inputs = []
        for node in program.graph.nodes:
            if node.op != "placeholder":
                continue
            spec = kinds[node.name]
            if spec.kind is InputKind.USER_INPUT:
                if not isinstance(node.meta.get("val"), torch.Tensor):
                    raise ModelError(f"input {node.name!r} is no tensor")
                inputs.append(node)
                continue
            held = program.state_dict if spec.target in program.state_dict else program.constants
            tensor = held.get(spec.target) if spec.target is not None else None
            if not isinstance(tensor, torch.Tensor):
                raise ModelError(f"the model holds {spec.target!r}, which is no tensor")
            self._constants[node] = tensor.detach()
            node.meta["weight_name"] = spec.target
        if len(inputs) != len(self._order):
            raise ModelError(f"the exported model takes {len(inputs)} inputs, not {len(self._order)}")
        return [node for _, node in sorted(zip(self._order, inputs, strict=True), key=lambda pair: pair[0])]

    def _outputs(self) -> list[Node]:
        nodes = {node.name: node for node in self._program.graph.nodes}
        found = []
        for spec in self._program.graph_signature.output_specs:
            if spec.kind is OutputKind.BUFFER_MUTATION:
                raise ModelError(
                    f"the model changes its buffer {spec.target!r} when it runs",
                    remedy="A stage must give the same answer for the same input; keep no state across requests.",
                )
            if spec.kind is OutputKind.USER_OUTPUT and isinstance(spec.arg, TensorArgument):
                found.append(nodes[spec.arg.name])
            elif spec.kind is OutputKind.USER_OUTPUT and not (
                isinstance(spec.arg, ConstantArgument) and spec.arg.value is None
            ):
                raise ModelError(f"the model returns {spec.arg}, which is no tensor")
        if not found:
            raise ModelError("the model returns no tensor")
        return found

    def _source(self, node: Node) -> Node:
        while node in self._alias:
            node = self._alias[node]
        return node

    def _visit(self, node: Node) -> None:
        name = str(node.target)
        if name == "aten._assert_tensor_metadata.default":
            return
        if name == "<built-in function getitem>":
            self._visit_item(node)
            return
        if not isinstance(node.target, torch._ops.OpOverload):
            self._unsupported(node, name)
        if torch.Tag.nondeterministic_seeded in node.target.tags and not name.startswith("aten.scaled_dot_product"):
            raise ModelError(
                f"operator {name} (in {_module_of(node) or 'the model'}) draws random numbers",
                remedy="Stages must give the same answer for the same input.",
            )
        operands = [self._source(item) for item in node.all_input_nodes]
        if all(item in self._constants for item in operands):
            self._constants[node] = self._compute(node, lambda item: self._constants[self._source(item)])
        elif name.split(".")[1] in _FROM_SHAPE_ALONE:
            self._constants[node] = self._compute(node, self._stand_in)
        elif name in _IDENTITIES or (name == "aten.clone.default" and _keeps_layout(node)):
            self._alias[node] = operands[0]
        else:
            self._nodes.append(node)

    def _visit_item(self, node: Node) -> None:
        source, index = node.args
        if not isinstance(source, Node) or not isinstance(index, int):
            self._unsupported(node, "getitem")
        if source in self._constants:
            self._constants[node] = self._constants[source][index]
        elif str(source.target) == _BATCH_NORM:
            if index != 0:
                self._unsupported(node, "batch normalisation's saved statistics")
            self._alias[node] = source
        else:
            # Numbered together with the operation that makes it.
            source.meta.setdefault("items", {})[index] = node

    def _compute(self, node: Node, resolve: Callable[[Node], Any]) -> Any:
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), resolve)
        with torch.no_grad():
            return node.target(*args, **kwargs)  # type: ignore[operator]

    def _stand_in(self, node: Node) -> Any:
        source = self._source(node)
        if source in self._constants:
            return self._constants[source]
        example = source.meta["val"]
        return torch.empty_strided(tuple(example.shape), tuple(example.stride()), dtype=example.dtype)

    def _unsupported(self, node: Node, name: str) -> NoReturn:
        module = _module_of(node)
        raise ModelError(
            f"operator {name}{f' (in {module})' if module else ''} isn't among those that a stage may run",
            remedy="Express it with the operators listed in testbed/model/operators.py.",
        )

    def _operands(self, node: Node) -> list[Node]:
        found = []
        for item in node.all_input_nodes:
            source = self._source(item)
            if str(source.target) == "<built-in function getitem>" and source not in self._constants:
                source = source.args[0]  # type: ignore[assignment]
            found.append(self._source(source))
        return found

    def _needed(self, outputs: Sequence[Node]) -> set[Node]:
        """Operations and constants that the outputs depend on."""
        needed: set[Node] = set()
        todo = []
        for node in outputs:
            source = self._source(node)
            if str(source.target) == "<built-in function getitem>" and source not in self._constants:
                source = self._source(source.args[0])  # type: ignore[arg-type]
            todo.append(source)
        while todo:
            node = todo.pop()
            if node not in needed:
                needed.add(node)
                if node not in self._constants and node.op == "call_function":
                    todo.extend(self._operands(node))
        return needed

    def _number_weights(self, needed: set[Node], outputs: Sequence[Node], values: list[Value]) -> list[torch.Tensor]:
        weights: list[torch.Tensor] = []
        same: dict[tuple[Any, ...], int] = {}
        for node in self._program.graph.nodes:
            if node not in needed or node not in self._constants:
                continue
            tensor = self._constants[node]
            if not isinstance(tensor, torch.Tensor):
                self._unsupported(node, str(node.target))
            key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
            if tensor.numel() and key in same:
                self._number[node] = same[key]
                continue
            value = Value.of(node.meta.get("weight_name", f"constant:{node.name}"), tensor)
            _check_dtype(value)
            if value.order is None:
                tensor = tensor.contiguous()
                value = Value.of(value.name, tensor)
            same[key] = self._number[node] = len(values)
            values.append(value)
            weights.append(tensor.permute(value.order or ()).contiguous())
        return weights

    def _op(self, node: Node, values: list[Value]) -> Op:
        name, args, kwargs = self._call(node)
        if name not in OPERATORS:
            self._unsupported(node, name)
        wrong = check_arguments(OPERATORS[name], args, kwargs)
        if wrong is not None:
            raise ModelError(f"{node.name}: {name} {wrong}")
        results = node.meta["val"]
        if isinstance(results, torch.Tensor) or str(node.target) == _BATCH_NORM:
            first = results if isinstance(results, torch.Tensor) else results[0]
            made = [(node, Value.of(node.name, first))]
        else:
            items = node.meta.get("items", {})
            made = [(items.get(i), Value.of(f"{node.name}.{i}", part)) for i, part in enumerate(results)]
        numbers = []
        for item, value in made:
            _check_dtype(value)
            if item is not None:
                self._number[item] = len(values)
            numbers.append(len(values))
            values.append(value)
        return Op(node.name, name, args, kwargs, tensors_of(args), tuple(numbers), _module_of(node))

    def _call(self, node: Node) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        if str(node.target) == _BATCH_NORM:
            tensor, weight, bias, mean, variance, momentum, eps = map(self._argument, node.args)
            args = (tensor, weight, bias, mean, variance, False, momentum, eps, False)
            return "aten.batch_norm.default", args, {}
        kwargs = {}
        for key, value in node.kwargs.items():
            if key not in _PLACEMENT_KEYWORDS:
                kwargs[key] = self._argument(value)
            elif key == "device" and value is not None and torch.device(str(value)).type != "cpu":
                raise ModelError(f"{node.name} asks for the device {value}", remedy="Models run on the CPU here.")
        return str(node.target), tuple(map(self._argument, node.args)), kwargs

    def _argument(self, value: object) -> Any:
        if isinstance(value, Node):
            return Ref(self._number[self._source(value)])
        if isinstance(value, (list, tuple)):
            return tuple(map(self._argument, value))
        if value is None or isinstance(value, (bool, int, float, str, torch.dtype, torch.memory_format)):
            return value
        raise ModelError(f"an operation has the argument {value!r:.80}, which a stage program can't hold")


def _check_dtype(value: Value) -> None:
    if value.dtype not in DTYPES.values():
        raise ModelError(
            f"{value.name} is {value.dtype}, which can't travel", remedy=f"Use one of {', '.join(DTYPES)}."
        )


def _keeps_layout(node: Node) -> bool:
    source = node.args[0]
    return isinstance(source, Node) and source.meta["val"].stride() == node.meta["val"].stride()


def _module_of(node: Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(entry[0]) for entry in stack.values()]
    return paths[-1] if paths else ""

"""The model as a graph that can be cut between any two operations."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from testbed.errors import ModelError
from testbed.model.liveness import Schedule, Step, schedule
from testbed.model.operators import Ref
from testbed.model.program import Instruction, StageProgram, TensorSpec, dtype_name
from testbed.model.signature import InputShape, inputs_of
from testbed.model.tracing import Op, Value, trace

__all__ = ["Cut", "ModelGraph", "Op"]


@dataclass(frozen=True, slots=True)
class Cut:
    """A place to cut.

    Attributes:
        position: Number of operations before it, from 0 to the number of all.
        tensors: What crosses it: the model's inputs at the first position, its outputs at the last, otherwise all that
            is made before and read after. Weights and constants never cross.
    """

    position: int
    tensors: tuple[TensorSpec, ...]

    @property
    def bytes(self) -> int:
        """Bytes that cross."""
        return sum(spec.bytes for spec in self.tensors)


class ModelGraph:
    """A model's operations in an order of execution, with the tensors between them.

    Values are numbered: inputs, then weights, then results in order. A stage is the operations ``first_op..last_op-1``.

    Attributes:
        values: All tensors.
        ops: All operations.
    """

    def __init__(
        self,
        values: Sequence[Value],
        inputs: int,
        weights: Sequence[torch.Tensor],
        ops: Sequence[Op],
        outputs: Sequence[int],
    ) -> None:
        if not ops:
            raise ModelError("the model computes nothing")
        self.values = tuple(values)
        self.ops = tuple(ops)
        self._inputs = inputs
        self._fixed = inputs + len(weights)
        self._outputs = tuple(outputs)
        self._weights = MappingProxyType({self.values[inputs + i].name: tensor for i, tensor in enumerate(weights)})
        if len(self._weights) != len(weights):
            raise ModelError("two weights of the model have the same name")

    @classmethod
    def trace(
        cls,
        module: torch.nn.Module,
        input_shape: InputShape,
        *,
        example: Sequence[torch.Tensor] | None = None,
    ) -> ModelGraph:
        """The graph of ``module`` for one shape of its input or inputs.

        Args:
            module: In evaluation mode.
            input_shape: One shape, or one for each input (all float32), or what each input is.
            example: Inputs to trace with instead of zeros.

        Raises:
            ModelError: If it can't be exported, or uses what a stage can't run.
        """
        inputs = inputs_of(input_shape)
        if example is None:
            example = [torch.zeros(item.shape, dtype=item.torch_dtype) for item in inputs]
        found = trace(module, inputs, example)
        return cls(found.values, found.inputs, found.weights, found.ops, found.outputs)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The model's inputs."""
        return self.cut(0).tensors

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The model's outputs, flattened."""
        return self.cut(len(self.ops)).tensors

    @property
    def weights(self) -> Mapping[str, torch.Tensor]:
        """Weights that are used, by name, each contiguous; they share the module's memory where they can.

        A weight that the module holds in another order of dimensions (channels last) is here in the order of its
        memory; the programs of its stages turn it back.
        """
        return self._weights

    def cuts(self) -> tuple[Cut, ...]:
        """All places to cut, from before the first operation to behind the last."""
        return tuple(self.cut(position) for position in range(len(self.ops) + 1))

    def cut(self, position: int) -> Cut:
        """The place behind ``position`` operations."""
        specs = self.answer_specs if position == len(self.ops) else map(self.sent_spec, self.crossing(position))
        return Cut(position, tuple(specs))

    def crossing(self, position: int) -> tuple[int, ...]:
        """Numbers of the values that cross there."""
        if position == 0:
            return tuple(range(self._inputs))
        if position == len(self.ops):
            return self._outputs
        return self._crossings[position]

    @functools.cached_property
    def _crossings(self) -> tuple[tuple[int, ...], ...]:
        end = len(self.ops)
        last_use: dict[int, int] = {}
        for index, op in enumerate(self.ops):
            last_use.update(dict.fromkeys(op.reads, index))
        last_use.update(dict.fromkeys(self._outputs, end))
        live = {value for value in range(self._inputs) if value in last_use}
        found = [tuple(sorted(live))]
        for index, op in enumerate(self.ops):
            live.update(value for value in op.makes if last_use.get(value, -1) > index)
            live.difference_update([value for value in op.reads if last_use[value] == index])
            found.append(tuple(sorted(live)))
        return tuple(found)

    @property
    def answer_specs(self) -> tuple[TensorSpec, ...]:
        """The model's outputs, in the order of dimensions that the model gives them."""
        found = [self.values[value] for value in self._outputs]
        return tuple(TensorSpec(item.name, item.shape, dtype_name(item.dtype)) for item in found)

    def sent_spec(self, value: int) -> TensorSpec:
        """A value as it travels between stages: its dimensions in the order of its memory."""
        item = self.values[value]
        shape = item.shape if item.order is None else tuple(item.shape[dim] for dim in item.order)
        return TensorSpec(item.name, shape, dtype_name(item.dtype))

    def _check_stage(self, first_op: int, last_op: int) -> None:
        if not 0 <= first_op < last_op <= len(self.ops):
            raise ValueError(f"no stage {first_op}..{last_op} in a model of {len(self.ops)} operations")

    def turned(self, value: int) -> bool:
        """Whether a value travels with its dimensions in another order than the model sees them in."""
        order = self.values[value].order
        return order is not None and order != tuple(range(len(order)))

    def stage_values(self, first_op: int, last_op: int) -> tuple[int, ...]:
        """Numbers of the weights that a stage reads."""
        self._check_stage(first_op, last_op)
        read = {value for op in self.ops[first_op:last_op] for value in op.reads}
        if last_op == len(self.ops):
            read.update(self._outputs)
        return tuple(value for value in range(self._inputs, self._fixed) if value in read)

    def stage_weights(self, first_op: int, last_op: int) -> dict[str, torch.Tensor]:
        """Weights of the stage by name."""
        names = [self.values[value].name for value in self.stage_values(first_op, last_op)]
        return {name: self._weights[name] for name in names}

    def stage(self, first_op: int, last_op: int) -> StageProgram:
        """The program of operations ``first_op..last_op-1``.

        Its inputs are what crosses at ``first_op``, its outputs what crosses at ``last_op``, in that order. Tensors
        travel in the order of their memory, so a channels-last activation costs no copy and the next stage sees the
        same layout, without which some kernels would round differently. The model's own inputs and outputs are
        contiguous as the model sees them.

        Raises:
            ValueError: If there is no such stage.
        """
        return _StageBuilder(self, first_op, last_op).build()

    def reordered(self, order: Sequence[int]) -> ModelGraph:
        """The same model with its operations in another order.

        Operations are functional, so what each computes doesn't depend on when it runs.

        Args:
            order: Their indices; an operation stands behind those that make what it reads.

        Raises:
            ValueError: If that is no such order.
        """
        if sorted(order) != list(range(len(self.ops))):
            raise ValueError("an order names each operation once")
        number = {value: value for value in range(self._fixed)}
        for index in order:
            op = self.ops[index]
            if not number.keys() >= set(op.reads):
                raise ValueError(f"{op.name} would run before what it reads is made")
            number.update({value: len(number) + place for place, value in enumerate(op.makes)})
        values = list(self.values)
        for old, new in number.items():
            values[new] = self.values[old]
        ops = [_renumbered_op(self.ops[index], number) for index in order]
        outputs = [number[value] for value in self._outputs]
        return ModelGraph(values, self._inputs, tuple(self._weights.values()), ops, outputs)

    def same_form(self, first: int, second: int) -> bool:
        """Whether two values have the same shape, type and order of dimensions in memory."""
        one, other = self.values[first], self.values[second]
        return (one.shape, one.dtype, one.order) == (other.shape, other.dtype, other.order)

    def without(self, runs: Sequence[tuple[int, int]]) -> ModelGraph:
        """The same model with runs of operations left out: what read a run's result reads its input instead.

        Args:
            runs: Each the operations ``first_op..last_op-1``, in order; one tensor crosses at either end, in the same
                form.

        Raises:
            ValueError: If one is no such run, or overlaps the one before.
        """
        instead: dict[int, int] = {}
        left_out: set[int] = set()
        for first_op, last_op in runs:
            self._check_stage(first_op, last_op)
            entering, leaving = self.crossing(first_op), self.crossing(last_op)
            alone = len(entering) == len(leaving) == 1
            if (
                not alone
                or not self.same_form(entering[0], leaving[0])
                or not left_out.isdisjoint(range(first_op, last_op))
            ):
                raise ValueError(f"operations {first_op} to {last_op - 1} can't be left out")
            instead[leaving[0]] = instead.get(entering[0], entering[0])
            left_out.update(range(first_op, last_op))
        number = {value: value for value in range(self._fixed)}
        ops = []
        for index, op in enumerate(self.ops):
            if index not in left_out:
                number.update({value: len(number) + place for place, value in enumerate(op.makes)})
                ops.append(op)
        values = [self.values[value] for value in number]
        number |= {gone: number[kept] for gone, kept in instead.items()}
        kept_ops = [_renumbered_op(op, number) for op in ops]
        outputs = [number[value] for value in self._outputs]
        return ModelGraph(values, self._inputs, tuple(self._weights.values()), kept_ops, outputs)

    def peak_activation_bytes(self, first_op: int, last_op: int) -> int:
        """Most bytes of inputs and results that are alive at once while the stage runs as a program of its own."""
        builder = _StageBuilder(self, first_op, last_op)
        program = builder.build()
        plan = schedule(program.fixed, program.steps(), program.output_values)
        live = set(range(len(program.inputs)))
        return max(_live_profile(program.steps(), plan, builder.values, live, len(program.inputs), program.fixed))

    def live_activation_bytes(self) -> tuple[int, ...]:
        """Bytes of inputs and results that are alive during each operation when the model runs whole."""
        steps = [Step(op.op, op.reads, op.makes) for op in self.ops]
        plan = schedule(self._fixed, steps, self._outputs)
        profile = _live_profile(steps, plan, self.values, set(range(self._inputs)), self._inputs, self._fixed)
        return profile[1:]


def _live_profile(
    steps: Sequence[Step],
    plan: Schedule,
    values: Sequence[Value],
    live: set[int],
    inputs: int,
    fixed: int,
) -> tuple[int, ...]:
    """Bytes before the first step, then during each step. Memory lives as long as anything that shares it."""
    weights = range(inputs, fixed)
    alive = {value: plan.roots[value] for value in live if value not in plan.unused}
    users: dict[int, int] = {}
    for root in alive.values():
        users[root] = users.get(root, 0) + 1
    total = sum(values[root].bytes for root in users)
    found = [sum(values[value].bytes for value in live)]
    for step, frees, in_place in zip(steps, plan.frees, plan.in_place, strict=True):
        reuses = in_place and _same_layout(step, values)
        added = 0
        for value in step.makes:
            root = plan.roots[value]
            if root not in weights:
                if root not in users:
                    added += values[root].bytes
                users[root] = users.get(root, 0) + 1
        total += added
        found.append(total - (added if reuses else 0))
        for value in frees:
            root = plan.roots[value]
            if value not in weights and root in users:
                users[root] -= 1
                if not users[root]:
                    del users[root]
                    total -= values[root].bytes
    return tuple(found)


def _same_layout(step: Step, values: Sequence[Value]) -> bool:
    first, result = values[step.reads[0]], values[step.makes[0]]
    return first.dtype.is_floating_point and all(
        (other.shape, other.dtype, other.strides) == (first.shape, first.dtype, first.strides)
        for other in (result, *(values[value] for value in step.reads[1:]))
    )


class _StageBuilder:
    """Renumbers the values of a stage and adds the changes of layout at its borders."""

    def __init__(self, graph: ModelGraph, first_op: int, last_op: int) -> None:
        graph._check_stage(first_op, last_op)
        self._graph = graph
        self._range = (first_op, last_op)
        self.values: list[Value] = []
        self._number: dict[int, int] = {}
        self._ops: list[Instruction] = []

    def build(self) -> StageProgram:
        """The stage's program; afterwards ``values`` describes each of its values."""
        graph, (first_op, last_op) = self._graph, self._range
        entering = graph.crossing(first_op)
        held = graph.stage_values(first_op, last_op)
        for value in (*entering, *held):
            self._number[value] = len(self.values)
            self.values.append(_as_sent(graph.values[value]))
        for value in (*entering, *held):
            order = graph.values[value].order
            if order is not None and graph.turned(value):
                inverse = tuple(sorted(range(len(order)), key=order.__getitem__))
                self._emit("aten.permute.default", value, (inverse,), graph.values[value])
        for op in graph.ops[first_op:last_op]:
            args = renumbered(op.args, self._number)
            for value in op.makes:
                self._number[value] = len(self.values)
                self.values.append(graph.values[value])
            self._ops.append(Instruction(op.op, args, op.kwargs, len(op.makes)))
        answer = last_op == len(graph.ops)
        outputs = tuple(self._leave(value, answer) for value in graph.crossing(last_op))
        return StageProgram(
            tuple(graph.sent_spec(value) for value in entering),
            tuple(graph.sent_spec(value) for value in held),
            tuple(self._ops),
            graph.cut(last_op).tensors,
            outputs,
        )

    def _emit(self, op: str, value: int, more: tuple[Any, ...], result: Value, **kwargs: Any) -> int:
        self._ops.append(Instruction(op, (Ref(self._number[value]), *more), kwargs))
        number = len(self.values)
        self._number[value] = number
        self.values.append(result)
        return number

    def _leave(self, value: int, answer: bool) -> int:
        item = self._graph.values[value]
        before = self._number[value]
        if item.order is None or (answer and self._graph.turned(value)):
            copied = Value.of(item.name, torch.empty(item.shape, dtype=item.dtype, device="meta"))
            number = self._emit("aten.clone.default", value, (), copied, memory_format=torch.contiguous_format)
        elif self._graph.turned(value):
            number = self._emit("aten.permute.default", value, (item.order,), _as_sent(item))
        else:
            return before
        # The value itself stays what it was, in case it leaves twice.
        self._number[value] = before
        return number


def renumbered(args: tuple[Any, ...], number: Mapping[int, int]) -> tuple[Any, ...]:
    """Arguments of an operation with other numbers for its values."""
    return tuple(
        Ref(number[item.value])
        if isinstance(item, Ref)
        else renumbered(item, number)
        if isinstance(item, tuple)
        else item
        for item in args
    )


def _renumbered_op(op: Op, number: Mapping[int, int]) -> Op:
    return dataclasses.replace(
        op,
        args=renumbered(op.args, number),
        reads=tuple(number[value] for value in op.reads),
        makes=tuple(number[value] for value in op.makes),
    )


def _as_sent(value: Value) -> Value:
    shape = value.shape if value.order is None else tuple(value.shape[dim] for dim in value.order)
    return Value.of(value.name, torch.empty(shape, dtype=value.dtype, device="meta"))

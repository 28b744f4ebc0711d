"""Running a stage program.

Importing this module needs torch alone, and running a stage imports nothing more: it happens in partition servers that
were forked from one process and must not pay for imports of their own.
"""

from __future__ import annotations

import functools
import operator
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from testbed.errors import ProtocolError
from testbed.model.liveness import schedule
from testbed.model.operators import OPERATORS, Ref, tensors_of
from testbed.model.program import Instruction, StageProgram


@dataclass(frozen=True, slots=True)
class _Step:
    """An operation made ready: what to call, where its arguments lie, what to do with the results.

    ``slots`` are indices into one list that holds values and literal arguments alike, so that gathering the arguments
    is one call; ``lists`` are arguments that hold tensors in a list and are rebuilt for each run.
    """

    call: Callable[..., Any]
    gather: Callable[[list[Any]], tuple[Any, ...]]
    lists: tuple[tuple[int, tuple[int, ...]], ...]
    results: tuple[int, ...]
    single: bool
    frees: tuple[int, ...]


class StageExecutor:
    """Runs one stage, again and again, on one thread at a time.

    Operators are resolved and memory is planned once. A result may overwrite an argument that nobody needs any more (an
    activation behind a normalisation, say), but inputs and weights are never written.

    Args:
        program: The stage.
        weights: Its weights by name; more than it needs do no harm. They are used as they are, not copied.

    Raises:
        ProtocolError: If a weight is missing, or has another shape or type than the program says.
    """

    def __init__(self, program: StageProgram, weights: Mapping[str, torch.Tensor]) -> None:
        self.program = program
        held = []
        for spec in program.weight_specs:
            if spec.name not in weights:
                raise ProtocolError(f"the stage needs the weight {spec.name!r}, which is missing")
            wrong = spec.mismatch(weights[spec.name])
            if wrong is not None:
                raise ProtocolError(f"weight {wrong}")
            held.append(weights[spec.name].detach())
        plan = schedule(program.fixed, program.steps(), program.output_values)
        values = program.fixed + sum(item.results for item in program.ops)
        self._memory: list[Any] = [None] * values
        self._memory[len(program.inputs) : program.fixed] = held
        first_weight = len(program.inputs)
        self._steps: list[_Step] = []
        for item, step, frees, in_place in zip(program.ops, program.steps(), plan.frees, plan.in_place, strict=True):
            # Weights stay for the next run; only inputs and results are ever dropped.
            dropped = tuple(value for value in frees if not first_weight <= value < program.fixed)
            self._steps.append(self._prepare(item, step.makes, dropped, in_place))
        self._unused_inputs = tuple(value for value in plan.unused if value < first_weight)

    def _literal(self, value: object) -> int:
        self._memory.append(value)
        return len(self._memory) - 1

    def _prepare(self, item: Instruction, makes: tuple[int, ...], frees: tuple[int, ...], in_place: bool) -> _Step:
        slots: list[int] = []
        lists: list[tuple[int, tuple[int, ...]]] = []
        for argument in item.args:
            if isinstance(argument, Ref):
                slots.append(argument.value)
            elif isinstance(argument, tuple) and tensors_of(argument):
                slot = self._literal(None)
                lists.append((slot, tuple(p.value if isinstance(p, Ref) else self._literal(p) for p in argument)))
                slots.append(slot)
            else:
                slots.append(self._literal(list(argument) if isinstance(argument, tuple) else argument))
        legal = OPERATORS[item.op]
        call = legal.overload
        if item.kwargs:
            keywords = {k: list(v) if isinstance(v, tuple) else v for k, v in item.kwargs.items()}
            call = functools.partial(call, **keywords)
        if in_place and legal.in_place is not None:
            call = _overwriting(call, _in_place_form(legal.in_place, item.kwargs))
        gather = operator.itemgetter(*slots) if len(slots) > 1 else functools.partial(_only, slots[0])
        return _Step(call, gather, tuple(lists), makes, legal.single, frees)

    def run(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The stage's outputs, contiguous, in the order of ``program.outputs``.

        An input is dropped as soon as it is dead; it is freed then if the caller keeps no reference either.

        Raises:
            ProtocolError: If an input has another shape or type than the program says, or an operation of the program
                can't be done.
        """
        memory = self._load(inputs)
        del inputs
        self._execute(memory, None)
        return self._results(memory)

    def run_timed(self, inputs: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[float]]:
        """Like `run`, with the seconds that each of ``program.ops`` took by the wall clock."""
        memory = self._load(inputs)
        seconds: list[float] = []
        self._execute(memory, seconds)
        return self._results(memory), seconds

    def _load(self, inputs: Sequence[torch.Tensor]) -> list[Any]:
        if len(inputs) != len(self.program.inputs):
            raise ProtocolError(f"the stage takes {len(self.program.inputs)} inputs, not {len(inputs)}")
        for spec, tensor in zip(self.program.inputs, inputs, strict=True):
            wrong = spec.mismatch(tensor)
            if wrong is not None:
                raise ProtocolError(f"input {wrong}")
        memory = self._memory.copy()
        memory[: len(inputs)] = inputs
        for value in self._unused_inputs:
            memory[value] = None
        return memory

    def _execute(self, memory: list[Any], seconds: list[float] | None) -> None:
        done = 0
        try:
            with torch.inference_mode():
                for step in self._steps:
                    started_s = time.perf_counter() if seconds is not None else 0.0
                    for slot, parts in step.lists:
                        memory[slot] = [memory[part] for part in parts]
                    result = step.call(*step.gather(memory))
                    if step.single:
                        memory[step.results[0]] = result
                    else:
                        for value, part in zip(step.results, result, strict=True):
                            memory[value] = part
                        del part
                    del result
                    for slot, _ in step.lists:
                        memory[slot] = None
                    for value in step.frees:
                        memory[value] = None
                    if seconds is not None:
                        seconds.append(time.perf_counter() - started_s)
                    done += 1
        except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
            name = self.program.ops[done].op
            raise ProtocolError(f"operation {done} of the stage ({name}) can't be done: {error}") from error

    def _results(self, memory: list[Any]) -> list[torch.Tensor]:
        found = []
        for spec, value in zip(self.program.outputs, self.program.output_values, strict=True):
            tensor = memory[value]
            wrong = spec.mismatch(tensor)
            if wrong is not None:
                raise ProtocolError(f"output {wrong}")
            found.append(tensor.contiguous())
        return found


def _only(slot: int, memory: list[Any]) -> tuple[Any, ...]:
    return (memory[slot],)


def _in_place_form(name: str, kwargs: Mapping[str, Any]) -> Callable[..., torch.Tensor]:
    _, packet, overload = name.split(".")
    call: Callable[..., torch.Tensor] = getattr(getattr(torch.ops.aten, packet), overload)
    return functools.partial(call, **kwargs) if kwargs else call


def _overwriting(fresh: Callable[..., torch.Tensor], in_place: Callable[..., torch.Tensor]) -> Callable[..., Any]:
    """``in_place`` where it gives the same bits in the same layout, else ``fresh``."""

    def call(first: torch.Tensor, *others: Any) -> torch.Tensor:
        if not first.is_floating_point():
            return fresh(first, *others)
        for other in others:
            if isinstance(other, torch.Tensor) and (
                other.shape != first.shape or other.dtype != first.dtype or other.stride() != first.stride()
            ):
                return fresh(first, *others)
        return in_place(first, *others)

    return call

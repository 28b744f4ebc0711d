"""A plan as plain rows: typed ones for files, worded ones for people."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from testbed.planning.plan import Plan, Stage
from testbed.planning.problem import Chain
from testbed.units import format_duration, format_rate, format_size

MIB = 2**20


@dataclass(frozen=True, slots=True)
class StageRow:
    """A stage in the units of ``plan.csv``; operations ``first_op..last_op-1``.

    ``is_bottleneck`` marks the stage that computes the bottleneck or receives over it.
    """

    stage: int
    host: str
    first_op: int
    last_op: int
    weights_mib: float
    memory_mib: float
    compute_ms: float
    transfer_mbit: float
    link_ms: float
    is_bottleneck: bool


def stage_rows(plan: Plan) -> tuple[StageRow, ...]:
    """A row a stage, in the pipeline's order."""
    return tuple(
        StageRow(
            stage=stage.index,
            host=stage.host,
            first_op=stage.first_op,
            last_op=stage.last_op,
            weights_mib=stage.weights_bytes / MIB,
            memory_mib=stage.memory_bytes / MIB,
            compute_ms=stage.compute_s * 1e3,
            transfer_mbit=stage.transfer_bits / 1e6,
            link_ms=stage.link_s * 1e3,
            is_bottleneck=stage.index == plan.bottleneck_stage,
        )
        for stage in plan.stages
    )


@dataclass(frozen=True, slots=True)
class PlanTable:
    """A plan in words, to be laid out by whoever prints it.

    Attributes:
        columns: Headings.
        rows: A row a stage and one for the answer's way back; as many cells as columns.
        marked: Index of the row that holds the bottleneck.
        summary: ``(what, figure)`` of the whole plan.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: int
    summary: tuple[tuple[str, str], ...]


def plan_table(plan: Plan) -> PlanTable:
    """Word a plan for people."""
    back = ("", "answer back", "", "", "", _bits(plan.return_bits), format_duration(plan.return_s), "")
    marked = len(plan.stages) if plan.bottleneck_stage is None else plan.bottleneck_stage
    return PlanTable(
        columns=("stage", "host", "operations", "weights", "memory", "receives", "link", "compute"),
        rows=(*(_stage_cells(stage) for stage in plan.stages), back),
        marked=marked,
        summary=(
            ("strategy", plan.strategy),
            ("throughput", _throughput(plan)),
            ("bottleneck", f"{plan.bottleneck}, {format_duration(plan.bottleneck_s)}"),
            ("latency of one request", _latency(plan)),
            ("energy of one request", f"{plan.energy_j:.4g} J (a model)"),
            *((("cost of one request", f"{plan.cost:.4g}"),) if plan.cost else ()),
            ("optimality", optimality(plan)),
            ("planned in", format_duration(plan.planning_s)),
            *(("note", note) for note in plan.notes),
        ),
    )


def residual_stages(plan: Plan, chain: Chain) -> str:
    """Which stages may be left out when their hosts are lost, and of which ones a part, in words."""
    found = []
    for stage in plan.stages:
        inside = itertools.combinations(range(stage.first, stage.last + 1), 2)
        if chain.may_skip(stage.first, stage.last):
            found.append(f"stage {stage.index} ({stage.host})")
        elif any(chain.may_skip(first, last) for first, last in inside):
            found.append(f"a part of stage {stage.index} ({stage.host})")
    return ", ".join(found) or "no stage"


def optimality(plan: Plan) -> str:
    """What is proven of the bottleneck, in a few words."""
    if plan.gap is None:
        return "nothing proven"
    if plan.gap == 0:
        return "proven optimal"
    if math.isinf(plan.gap):
        return "no bound found in time"
    return f"at most {plan.gap:.2%} above the optimum"


def _stage_cells(stage: Stage) -> tuple[str, ...]:
    last = stage.last_op - 1
    return (
        str(stage.index),
        stage.host,
        str(last) if last == stage.first_op else f"{stage.first_op}–{last}",
        format_size(stage.weights_bytes),
        format_size(stage.memory_bytes),
        _bits(stage.transfer_bits),
        format_duration(stage.link_s),
        format_duration(stage.compute_s),
    )


def _bits(bits: float) -> str:
    return format_rate(bits).removesuffix("/s")


def _latency(plan: Plan) -> str:
    latency, gap = format_duration(plan.latency_s), plan.latency_gap
    if gap is None:
        return latency
    return f"{latency}, proven least" if gap == 0 else f"{latency}, at most {gap:.2%} above the least"


def _throughput(plan: Plan) -> str:
    rate = plan.throughput_rps
    return "unlimited" if math.isinf(rate) else f"{rate:.4g} requests/s"

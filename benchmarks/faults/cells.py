"""The cells of the matrix: which there are, what each does, how it must end, and which stand for all of them. Pure."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.faults.cluster import DISPATCHER, POLICIES, WORKERS, experiment
from benchmarks.faults.kinds import (
    DISPATCHERS,
    KINDS,
    LASTS_S,
    TWO,
    Struck,
)

SEEDS = (1, 2, 3)
DURATION_S = 4.0
ADAPTING_S = 9.0
"""Long enough for a plan to settle (5 s), and for the change that an adaptive policy then makes."""

ADAPTING_LASTS_S = 6.0


@dataclass(frozen=True, slots=True)
class Cell:
    """A kind of fault, what it strikes, the policy, the seed (of weights, plan and which hosts are drawn)."""

    kind: str
    target: str
    policy: str
    seed: int

    @property
    def name(self) -> str:
        """As ``--only`` takes it, or a part of it."""
        return f"{self.kind}/{self.target}/{self.policy}/{self.seed}"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a cell must end: in service, or ``unavailable`` for a reason that has these words.

    Attributes:
        because: None if it must be in service again.
        silent: Whether nobody is left who could say so, because the dispatcher is gone.
        degraded: Whether it may still be without some operations, because hosts that it had are gone for good.
    """

    because: str | None = None
    silent: bool = False
    degraded: bool = False


@dataclass(frozen=True, slots=True)
class First:
    """The plan that a seed's cluster begins with."""

    hosts: tuple[str, ...]
    bottleneck: str


def all_cells(policies: Iterable[str] = POLICIES) -> tuple[Cell, ...]:
    """The whole matrix."""
    return tuple(
        Cell(name, target, policy, seed)
        for name, kind in KINDS.items()
        for target in kind.targets
        for policy in policies
        for seed in SEEDS
    )


def pairs(cell: Cell) -> frozenset[tuple[str, str]]:
    """Kind and target, kind and policy, target and policy."""
    return frozenset(((cell.kind, cell.target), (cell.kind, cell.policy), (cell.target, cell.policy)))


def cover(cells: Sequence[Cell], count: int, seed: int = 1) -> tuple[Cell, ...]:
    """So many cells, drawn with a seed, that stand for all.

    First come cells until every kind, every target with every policy is there, each time the one that brings the most
    pairs (:func:`pairs`) which no other has; then those that bring the most pairs.
    """
    order = list(cells)
    random.Random(f"cover/{seed}").shuffle(order)  # noqa: S311 - repeatable, not secret
    kinds = {cell.kind for cell in cells}
    most = {(cell.target, cell.policy) for cell in cells}
    seen: set[tuple[str, str]] = set()
    chosen: list[Cell] = []
    while order and len(chosen) < count:
        best = max(
            order,
            key=lambda cell: (
                (cell.kind in kinds) + ((cell.target, cell.policy) in most),
                len(pairs(cell) - seen),
            ),
        )
        order.remove(best)
        chosen.append(best)
        kinds.discard(best.kind)
        most.discard((best.target, best.policy))
        seen |= pairs(best)
    return tuple(chosen)


def struck(cell: Cell, first: First) -> tuple[str, ...]:
    """The hosts that a cell's fault strikes, or at whose links; drawn with its seed."""
    draw = random.Random(f"{cell.kind}/{cell.target}/{cell.seed}")  # noqa: S311 - repeatable, not secret
    spare = [host for host in WORKERS if host not in first.hosts]
    if cell.kind == "join":
        return tuple(sorted(draw.sample(spare, 2 if cell.target == TWO else 1)))
    match cell.target:
        case "dispatcher":
            return (DISPATCHER,)
        case "bottleneck":
            return (first.bottleneck,)
        case "many":
            return tuple(draw.sample(first.hosts, len(first.hosts)))
        case "two":
            return tuple(draw.sample(first.hosts, 2))
        case "link" if cell.kind == "partition":
            place = draw.randrange(len(first.hosts) - 1)
            return first.hosts[place : place + 2]
        case _:
            return (draw.choice([host for host in first.hosts if host != first.bottleneck]),)


def document(cell: Cell, first: First) -> dict[str, Any]:
    """The cell's experiment, as its file has it."""
    kind, policy = KINDS[cell.kind], POLICIES[cell.policy]
    adapting = policy.adapts and kind.slows
    lasts_s, duration_s = (ADAPTING_LASTS_S, ADAPTING_S) if adapting else (LASTS_S, DURATION_S)
    entries = kind.entries(Struck(cell.target, struck(cell, first), lasts_s))
    name = re.sub("[,+]", "-", f"{cell.kind}-{cell.target}")
    return experiment(name, policy, cell.seed, duration_s, entries)


def ending(cell: Cell) -> Ending:
    """How a cell must end."""
    kind, policy = KINDS[cell.kind], POLICIES[cell.policy]
    if not kind.takes:
        return Ending()
    if cell.target == DISPATCHERS:
        return Ending("the dispatcher", silent=True)
    if policy.waits:
        return Ending("waiting for ")
    return Ending("no host is left") if cell.kind == "all-kill" else Ending(degraded=True)

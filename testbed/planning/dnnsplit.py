"""DNNSplit (IEEE Access 12:80047, 2024): a few candidate cuts, whatever the infrastructure, over tiers of hosts.

Rule: a cut is a candidate iff fewer bits cross it than cross every earlier cut, the raw input among them. If i < j and
no more bits cross i than j, then cutting at i instead of j moves the segments between to a tier that is no slower (or
dearer) and sends no more: j can be left out. The size of a cut is that of all tensors that cross it; by sizes of single
layers, as published, candidates can lie inside of a residual block, where more crosses than the layer's output.

Model: tiers device → near edge → far edge → cloud; a request goes up and never down, with at most one host of a tier.

    latency = Σ compute on each host + Σ transfers, delays included
    cost    = Σ (price of a second × compute) + Σ (price of a bit × bits)

That no better split exists holds only under ``broken_preconditions``; they are checked, and a plan's notes name those
that fail. It never holds for throughput (a maximum, where moving work up can overload a tier), nor for hosts of one
tier.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from testbed.errors import InfeasibleError, UsageError
from testbed.planning.evaluate import evaluate, stage_memory_bytes, stage_weights_bytes, usable_path
from testbed.planning.infeasible import no_way, no_workers
from testbed.planning.instance import Floats, Instance, Ints
from testbed.planning.plan import Assignment, Plan
from testbed.planning.problem import Problem, Worker
from testbed.planning.threshold import TOLERANCE

TIERS = ("device", "near-edge", "far-edge", "cloud")
"""Names of declared tiers, from where inputs arise upwards."""

NAMED = 3
"""As many broken preconditions are told of one by one."""


def candidates(sizes: Sequence[float]) -> tuple[int, ...]:
    """Positions where ``sizes`` falls below all before, the first (the raw input) included."""
    found, least = [], float("inf")
    for position, size in enumerate(sizes):
        if size < least:
            found.append(position)
            least = size
    return tuple(found)


def tiers_of(problem: Problem) -> tuple[int, ...]:
    """The tier of each worker: as declared, or else by speed, the slowest 0; equal speeds are one tier.

    Raises:
        UsageError: If some workers have a tier and others don't.
    """
    declared = [worker.tier for worker in problem.workers]
    known = [tier for tier in declared if tier is not None]
    if not known:
        ranks = {speed: rank for rank, speed in enumerate(sorted({worker.speed for worker in problem.workers}))}
        return tuple(ranks[worker.speed] for worker in problem.workers)
    for worker in problem.workers:
        if worker.tier is None:
            raise UsageError(
                f"dnnsplit: {worker.name} has no tier, but other hosts have",
                remedy=f"give every host a tier ({', '.join(TIERS)}), or none",
            )
    return tuple(known)


def broken_preconditions(problem: Problem) -> tuple[str, ...]:
    """Why a split beside the candidates might be better, in words; empty if none can be.

    1. A host of a higher tier is no slower, or no dearer for the same work.
    2. It has memory and storage for the whole model.
    3. To reach it directly takes no longer, or costs no more, than by way of a host between.
    """
    tiers, by_cost = tiers_of(problem), problem.objective == "cost"
    found: list[str] = []
    if len(set(tiers)) < 2:
        found.append("all hosts are of one tier, and a request never goes on within a tier")
    segments = problem.chain.segments
    hosts = list(zip(problem.workers, tiers, strict=True))
    for (lower, below), (higher, above) in itertools.permutations(hosts, 2):
        if below < above and _unit(higher, by_cost) > _unit(lower, by_cost) * (1 + TOLERANCE):
            found.append(f"{higher.name} is {'dearer' if by_cost else 'slower'} than {lower.name}, a tier below it")
    for worker, tier in hosts:
        if tier > min(tiers) and not _fits(problem, worker, segments):
            found.append(f"{worker.name} can't hold the whole model")
    sources = [(problem.dispatcher, -1), *((worker.name, tier) for worker, tier in hosts)]
    for source, below in sources:
        for (between, middle), (target, above) in itertools.permutations(hosts, 2):
            if below < middle < above and _detours(problem, (source, between.name, target.name), by_cost):
                found.append(
                    f"from {source} to {target.name} is {'cheaper' if by_cost else 'faster'} by way of {between.name}"
                )
    return tuple(found)


def _unit(worker: Worker, by_cost: bool) -> float:
    """What the work of a second on a whole core takes on a host, in seconds or money."""
    return (worker.price_per_s if by_cost else 1.0) / worker.speed


def _fits(problem: Problem, worker: Worker, segments: int) -> bool:
    memory = stage_memory_bytes(problem, worker, 0, segments)
    storage = stage_weights_bytes(problem, 0, segments)
    return (worker.memory_bytes is None or memory <= worker.memory_bytes) and (
        worker.storage_bytes is None or storage <= worker.storage_bytes
    )


def _detours(problem: Problem, way: tuple[str, str, str], by_cost: bool) -> bool:
    """Whether going by way of the second host can be better than going from the first to the third directly."""
    source, between, target = way
    direct = usable_path(problem, source, target)
    first, second = usable_path(problem, source, between), usable_path(problem, between, target)
    if first is None or second is None:
        return False
    if direct is None:
        return True
    if by_cost:
        return direct.price_per_bit > (first.price_per_bit + second.price_per_bit) * (1 + TOLERANCE)
    per_bit = 1 / direct.rate_bps > (1 / first.rate_bps + 1 / second.rate_bps) * (1 + TOLERANCE)
    return per_bit or direct.delay_s > (first.delay_s + second.delay_s) * (1 + TOLERANCE)


@dataclass(frozen=True, slots=True)
class _Partial:
    """The best partial plans whose latest stage starts on a host: ``(B,)`` spent by boundary, and where from."""

    host: int
    spent: Floats
    before: tuple[tuple[_Partial, int] | None, ...]


def best_split(problem: Problem, boundaries: Sequence[int]) -> tuple[Assignment, ...] | None:
    """The best decision that cuts at ``boundaries`` only and goes up through tiers; None if none is legal.

    Dynamic programming over (stages, host, boundary), exact. Best by ``problem.objective``: ``cost``, else latency.

    Args:
        problem: With at least one worker.
        boundaries: Where it may cut; both ends of the chain are always meant.
    """
    tiers, segments = tiers_of(problem), problem.chain.segments
    at = np.array(sorted({0, segments, *boundaries}))
    tables = _Tables(problem, at)
    hosts = range(len(problem.workers))
    layer: list[_Partial] = []
    for host in hosts:
        spent = np.full(len(at), np.inf)
        spent[0] = tables.sent(problem.dispatcher, problem.workers[host].name)[0]
        layer.append(_Partial(host, spent, (None,) * len(at)))
    least, best = np.inf, None
    for _ in range(min(problem.max_stages or len(set(tiers)), len(set(tiers)))):
        ends = []
        for partial in layer:
            total = partial.spent[:, None] + tables.compute(partial.host)
            starts = total.argmin(axis=0)
            done = total[starts, np.arange(len(at))]
            ends.append((partial, starts, done))
            answered = done[-1] + tables.sent(problem.workers[partial.host].name, problem.dispatcher)[-1]
            if answered < least:
                least, best = float(answered), (partial, int(starts[-1]))
        following = []
        for host in hosts:
            options = [entry for entry in ends if tiers[entry[0].host] < tiers[host]]
            if not options:
                continue
            name = problem.workers[host].name
            costs = np.array(
                [done + tables.sent(problem.workers[partial.host].name, name) for partial, _, done in options]
            )
            costs[:, -1] = np.inf
            choice = costs.argmin(axis=0)
            before = tuple((options[row][0], int(options[row][1][column])) for column, row in enumerate(choice))
            following.append(_Partial(host, costs.min(axis=0), before))
        layer = following
    return None if best is None else _unrolled(problem, at, *best)


def _unrolled(problem: Problem, at: Ints, partial: _Partial, start: int) -> tuple[Assignment, ...]:
    steps, end = [], len(at) - 1
    while True:
        steps.append(Assignment(problem.workers[partial.host].name, int(at[start]), int(at[end])))
        before = partial.before[start]
        if before is None:
            return tuple(reversed(steps))
        end = start
        partial, start = before


class _Tables:
    """Seconds or money of stages and transfers between some boundaries ``(B,)``."""

    def __init__(self, problem: Problem, at: Ints) -> None:
        self._problem, self._by_cost = problem, problem.objective == "cost"
        instance = Instance.of(problem)
        kinds = {host: kind for kind, group in enumerate(instance.members) for host in group}
        self._until = [instance.fits_until[kinds[host]][at] for host in range(len(problem.workers))]
        self._at = at
        self._core_s = instance.compute_before[at]
        self._bits = instance.bits[at]

    def compute(self, host: int) -> Floats:
        """``(B, B)`` of a stage from the row's boundary to the column's; infinite where it may not be."""
        seconds = self._core_s[None, :] - self._core_s[:, None]
        legal = (self._at[None, :] > self._at[:, None]) & (self._at[None, :] <= self._until[host][:, None])
        return np.where(legal, seconds * _unit(self._problem.workers[host], self._by_cost), np.inf)

    def sent(self, source: str, target: str) -> Floats:
        """``(B,)`` of the transfer at each boundary; infinite where they can't talk."""
        path = usable_path(self._problem, source, target)
        if path is None:
            return np.full(len(self._at), np.inf)
        taken = self._bits * path.price_per_bit if self._by_cost else self._bits / path.rate_bps + path.delay_s
        return np.asarray(taken, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Splitter:
    """What of a model lasts from decision to decision: its candidate cuts.

    Attributes:
        cuts: Boundaries of the chain by the rule, the raw input (boundary 0) first.
    """

    cuts: tuple[int, ...]

    @classmethod
    def of(cls, problem: Problem) -> Splitter:
        """Find the candidates of a problem's model."""
        return cls(candidates(problem.chain.boundary_bits))

    def decide(self, problem: Problem) -> Plan:
        """The best split at the candidates for the rates and speeds of a problem.

        Raises:
            InfeasibleError: If no such split is legal; says which preconditions fail.
            UsageError: If tiers are declared for some hosts only, or the objective is cost and nothing has a price.
        """
        started_s = time.monotonic()
        missing = no_workers(problem) or no_way(problem)
        if missing is not None:
            raise missing
        if problem.objective == "cost" and not any(_prices(problem)):
            raise UsageError(
                "dnnsplit: the objective is cost, but no host or link has a price",
                remedy="give hosts price_per_hour or links price_per_gb, or use the objective latency",
            )
        broken = broken_preconditions(problem)
        found = best_split(problem, self.cuts)
        cuts = f"{len(self.cuts) - 1} candidate cut{'s' if len(self.cuts) != 2 else ''}"
        if found is None:
            raise InfeasibleError(
                f"dnnsplit: no split at its {cuts} fits hosts of rising tiers"
                + (f"; {_told(broken)}" if broken else ""),
                remedy="give the hosts of higher tiers memory for the whole model, or use the strategy min-latency",
            )
        notes = [f"{cuts} of {problem.chain.segments} boundaries"]
        if broken:
            notes.append(f"DNNSplit's preconditions don't hold, so a better split may exist: {_told(broken)}")
        return evaluate(problem, found, "dnnsplit", None, time.monotonic() - started_s, notes=notes)


def _prices(problem: Problem) -> Iterator[float]:
    yield from (worker.price_per_s for worker in problem.workers)
    yield from (path.price_per_bit for path in problem.paths.values())


def _told(broken: Sequence[str]) -> str:
    more = len(broken) - NAMED
    return "; ".join(broken[:NAMED]) + (f"; and {more} more" if more > 0 else "")


def solve(problem: Problem) -> Plan:
    """DNNSplit's first decision; see :meth:`Splitter.decide`.

    Raises:
        InfeasibleError: If no split at the candidates is legal.
        UsageError: As there.
    """
    return Splitter.of(problem).decide(problem)

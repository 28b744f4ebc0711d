"""A planning problem as arrays over host types, with everything that doesn't depend on a threshold worked out once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from testbed.planning.evaluate import usable_path
from testbed.planning.hosttypes import merge
from testbed.planning.plan import Assignment
from testbed.planning.problem import Chain, Problem, Worker

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_UNLIMITED = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Step:
    """A stage on some host of a type: segments ``first..last-1``."""

    kind: int
    first: int
    last: int


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """Arrays of a problem with ``L`` segments and ``V`` host types.

    Attributes:
        problem: Where it comes from.
        members: Worker indices of each type.
        bits: ``(L+1,)`` encoded bits at each boundary.
        weights_before: ``(L+1,)`` bytes of weights of the segments before each boundary.
        compute_before: ``(L+1,)`` seconds on a whole core of the segments before each boundary.
        fits_until: ``(V, L+1)`` the farthest boundary that a stage from a boundary may end at by memory and storage.
            Sub-runs of a run that fits fit as well, so the legal ends are exactly those up to it.
        speed: ``(V,)`` shares of a core.
        rate, linked, delay: ``(V, V)`` between hosts of two types (on the diagonal: between two hosts of one type).
            ``rate`` is 1 where ``linked`` is false.
        in_rate, in_linked, in_delay: ``(V,)`` from the dispatcher.
        out_rate, out_linked, out_delay: ``(V,)`` to the dispatcher.
        max_stages: Most stages of any plan.
        stages_limited: Whether that is fewer than there are workers.
    """

    problem: Problem = field(repr=False)
    members: tuple[tuple[int, ...], ...]
    bits: Floats
    weights_before: Ints
    compute_before: Floats
    fits_until: Ints
    speed: Floats
    rate: Floats
    linked: Bools
    delay: Floats
    in_rate: Floats
    in_linked: Bools
    in_delay: Floats
    out_rate: Floats
    out_linked: Bools
    out_delay: Floats
    max_stages: int
    stages_limited: bool

    @property
    def segments(self) -> int:
        """``L``."""
        return self.problem.chain.segments

    @property
    def kinds(self) -> int:
        """``V``."""
        return len(self.members)

    @classmethod
    def of(cls, problem: Problem, *, by_delay: bool = False, apart: bool = False) -> Instance:
        """Build the arrays.

        Args:
            problem: With at least one worker.
            by_delay: Tell hosts apart by delays as well; a bottleneck doesn't depend on them, a latency does.
            apart: Give each host a type of its own, in the order of the workers.
        """
        workers, chain = problem.workers, problem.chain
        count = len(workers)
        # The dispatcher is node ``count`` in these.
        names = [*(worker.name for worker in workers), problem.dispatcher]
        rate = np.zeros((count + 1, count + 1))
        delay = np.zeros((count + 1, count + 1))
        for row, source in enumerate(names):
            for column, target in enumerate(names):
                path = usable_path(problem, source, target) if row != column else None
                if path is not None:
                    rate[row, column] = path.rate_bps
                    delay[row, column] = path.delay_s
        attributes = [(worker.speed, *room_bytes(worker)) for worker in workers]
        # The dispatcher is one of the "third hosts", told from all others by an attribute of its own.
        groups = merge([*attributes, (-1.0,)], [rate, delay] if by_delay else [rate])
        members = tuple((host,) for host in range(count)) if apart else groups
        members = tuple(group for group in members if group != (count,))

        first = np.array([group[0] for group in members])
        second = np.array([group[1] if len(group) > 1 else group[0] for group in members])

        def between(matrix: Floats) -> Floats:
            reduced: Floats = matrix[np.ix_(first, first)]
            np.fill_diagonal(reduced, matrix[first, second])
            return reduced

        rates = between(rate)
        return cls(
            problem=problem,
            members=members,
            bits=np.array(chain.boundary_bits, dtype=np.float64),
            weights_before=np.concatenate(([0], np.cumsum(np.array(chain.weight_bytes, dtype=np.int64)))),
            compute_before=np.concatenate(([0.0], np.cumsum(np.array(chain.compute_s, dtype=np.float64)))),
            fits_until=farthest_ends(chain, [attributes[host][1:] for host in first]),
            speed=np.array([workers[host].speed for host in first]),
            rate=np.where(rates > 0, rates, 1.0),
            linked=rates > 0,
            delay=between(delay),
            in_rate=np.where(rate[count, first] > 0, rate[count, first], 1.0),
            in_linked=rate[count, first] > 0,
            in_delay=delay[count, first],
            out_rate=np.where(rate[first, count] > 0, rate[first, count], 1.0),
            out_linked=rate[first, count] > 0,
            out_delay=delay[first, count],
            max_stages=problem.most_stages,
            stages_limited=problem.most_stages < count,
        )

    def assign(self, steps: Sequence[Step]) -> tuple[Assignment, ...]:
        """Give each step a host of its type, the spec's first ones first; no type more often than it has hosts."""
        free = [iter(group) for group in self.members]
        return tuple(
            Assignment(self.problem.workers[next(free[step.kind])].name, step.first, step.last) for step in steps
        )

    def largest_threshold_s(self) -> float:
        """A bottleneck that no plan exceeds: what is impossible under it is impossible."""
        slowest = [self.compute_before[-1] / self.speed.min()]
        for rate, linked in (
            (self.rate, self.linked),
            (self.in_rate, self.in_linked),
            (self.out_rate, self.out_linked),
        ):
            if linked.any():
                slowest.append(self.bits.max() / rate[linked].min())
        return float(max(slowest))

    def candidates_s(self, low_s: float, high_s: float) -> Floats:
        """Every possible bottleneck in ``(low_s, high_s]``, ascending; those within 1e-10 of another are one.

        The bottleneck of a plan is one of finitely many values: ``bits / rate`` of a link at a boundary, or the
        compute of a run of segments over a host's speed. There can be 10^6 of them: ask for a narrow bracket.
        """
        found = [
            self.bits[:1] / self.in_rate[self.in_linked, None],
            self.bits[-1:] / self.out_rate[self.out_linked, None],
        ]
        found.append(self.bits[None, 1:-1] / np.unique(self.rate[self.linked])[:, None])
        runs = (self.compute_before[None, :] - self.compute_before[:, None])[np.triu_indices(self.segments + 1, 1)]
        found.extend(runs[(runs > low_s * speed) & (runs <= high_s * speed)] / speed for speed in np.unique(self.speed))
        values: Floats = np.concatenate([part.ravel() for part in found])
        values = np.unique(values[(values > low_s) & (values <= high_s)])
        if len(values) < 2:
            return values
        # The larger of near twins stays, so that a threshold at it admits both.
        kept: Floats = values[np.append(values[1:] > values[:-1] * (1 + 1e-10), True)]
        return kept


def room_bytes(worker: Worker) -> tuple[float, float]:
    """What a stage may take of a host's memory, beside the server's overhead, and of its storage."""
    return (
        float(_UNLIMITED if worker.memory_bytes is None else worker.memory_bytes - worker.overhead_bytes),
        float(_UNLIMITED if worker.storage_bytes is None else worker.storage_bytes),
    )


def farthest_ends(chain: Chain, limits: Sequence[tuple[float, ...]]) -> Ints:
    """``(V, L+1)`` farthest end of a stage from each boundary within limits of memory and storage, a row a pair."""
    segments = chain.segments
    before = np.concatenate(([0], np.cumsum(np.array(chain.weight_bytes, dtype=np.int64))))
    weights = np.maximum(before[None, :] - before[:, None], 0)
    activations = np.zeros((segments + 1, segments + 1), dtype=np.int64)
    # Row i, column j: peak of segments i..j-1, zero for j <= i.
    activations[:-1, 1:] = np.maximum.accumulate(
        np.triu(np.broadcast_to(np.array(chain.activation_bytes, dtype=np.int64), (segments, segments))), axis=1
    )
    memory = weights + activations
    starts = np.arange(segments + 1)
    known: dict[tuple[float, ...], Ints] = {}
    for limit in limits:
        if limit not in known:
            fits = (memory <= limit[0]) & (weights <= limit[1])
            known[limit] = np.maximum(fits.sum(axis=1) - 1, starts)
    return np.array([known[limit] for limit in limits])

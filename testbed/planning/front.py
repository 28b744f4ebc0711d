"""Every plan that no other plan beats, by labels: exact, for as long as their number allows.

A label is a partial plan whose latest stage ends at a boundary on a host, with its figures so far. Every aim is a sum
or a maximum over stages and transfers, so of two labels at the same boundary and host, with the same hosts used, the
one that is beaten can't become better than the other: it is dropped. What reaches the end unbeaten is the front.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from testbed.planning.deadline import Deadline, NodeLimit
from testbed.planning.energy import j_per_bit, power_w
from testbed.planning.evaluate import stage_memory_bytes, stage_weights_bytes, usable_path
from testbed.planning.hosttypes import merge
from testbed.planning.instance import Bools, Floats, Ints
from testbed.planning.plan import Assignment
from testbed.planning.problem import Problem
from testbed.planning.tradeoff import AIMS, nondominated

MOST_LABELS = 300_000

LATENCY, BOTTLENECK, ENERGY, TRAFFIC, MEMORY, ACCURACY = range(len(AIMS))


@dataclass(frozen=True, slots=True, eq=False)
class _Labels:
    """``values`` ``(N, 6)`` in the order of ``AIMS``; ``ids`` ``(N,)`` in the search's record."""

    values: Floats
    ids: Ints

    @staticmethod
    def joined(parts: list[_Labels]) -> _Labels:
        return _Labels(np.concatenate([part.values for part in parts]), np.concatenate([part.ids for part in parts]))

    def only(self, mask: Bools) -> _Labels:
        return _Labels(self.values[mask], self.ids[mask])


_State = tuple[int, tuple[int, ...]]
"""Type of the latest host, and how many hosts of each type are used."""


class Front:
    """A search for the front over some aims.

    Args:
        problem: With at least one worker.
        aims: Names out of ``AIMS``; figures of other aims don't keep a plan on the front.
        deadline: Ends the search.
        most_labels: Ends it as well.
    """

    def __init__(
        self, problem: Problem, aims: tuple[str, ...], deadline: Deadline, most_labels: int = MOST_LABELS
    ) -> None:
        self._problem, self._deadline = problem, deadline
        self._columns = [list(AIMS).index(aim) for aim in aims]
        self._labels_left = most_labels
        self._members = _types(problem)
        chain = problem.chain
        self._bits = np.array(chain.boundary_bits)
        self._compute = np.concatenate(([0.0], np.cumsum(chain.compute_s)))
        self._stages = [self._stage_figures(group[0]) for group in self._members]
        self._record: list[tuple[int, int, int, int]] = []  # the label before, type, first, last

    def search(self) -> list[tuple[Assignment, ...]]:
        """The decisions on the front; empty if there is no legal decision at all.

        Raises:
            NodeLimit: If there are too many labels.
            OutOfTime: At the deadline.
        """
        problem, segments = self._problem, self._problem.chain.segments
        most = min(problem.max_stages or segments, segments, len(problem.workers))
        starts: dict[_State, dict[int, list[_Labels]]] = defaultdict(lambda: defaultdict(list))
        nothing = _Labels(np.zeros((1, len(AIMS))), np.array([-1], dtype=np.int64))
        for kind in range(len(self._members)):
            used = tuple(int(other == kind) for other in range(len(self._members)))
            sent = self._sent(nothing, 0, None, kind)
            if sent is not None:
                starts[kind, used][0].append(sent)
        finished: list[_Labels] = []
        for _ in range(most):
            ends = {state: self._run(state[0], at) for state, at in starts.items()}
            starts = defaultdict(lambda: defaultdict(list))
            for (kind, used), at in ends.items():
                for boundary, labels in at.items():
                    if boundary == segments:
                        back = self._sent(labels, segments, kind, None)
                        if back is not None:
                            finished.append(back)
                        continue
                    for follower, into in self._followers(used):
                        sent = self._sent(labels, boundary, kind, follower)
                        if sent is not None:
                            starts[follower, into][boundary].append(sent)
        if not finished:
            return []
        best = self._unbeaten(_Labels.joined(finished))
        return [self._decision(int(label)) for label in best.ids]

    def _run(self, kind: int, starts: dict[int, list[_Labels]]) -> dict[int, _Labels]:
        """Run a stage on a host of a type from wherever labels start; the unbeaten labels by where it ends."""
        begun = {boundary: self._unbeaten(_Labels.joined(parts)) for boundary, parts in starts.items()}
        compute_s, memory, fits, power, losses = self._stages[kind]
        ended = {}
        for end in range(min(begun) + 1, self._problem.chain.segments + 1):
            parts, firsts = [], []
            for boundary, labels in begun.items():
                if boundary < end and fits[boundary, end]:
                    values = labels.values.copy()
                    seconds = compute_s[end] - compute_s[boundary]
                    values[:, LATENCY] += seconds
                    values[:, BOTTLENECK] = np.maximum(values[:, BOTTLENECK], seconds)
                    values[:, ENERGY] += seconds * power
                    values[:, MEMORY] = np.maximum(values[:, MEMORY], memory[boundary, end])
                    values[:, ACCURACY] += losses[end] - losses[boundary]
                    parts.append(_Labels(values, labels.ids))
                    firsts.append(np.full(len(values), boundary))
            if not parts:
                continue
            joined, first = _Labels.joined(parts), np.concatenate(firsts)
            mask = self._mask(joined)
            kept, first = joined.only(mask), first[mask]
            known = len(self._record)
            self._record.extend(
                (int(before), kind, int(start), end) for before, start in zip(kept.ids, first, strict=True)
            )
            ended[end] = _Labels(kept.values, np.arange(known, len(self._record), dtype=np.int64))
        return ended

    def _sent(self, labels: _Labels, boundary: int, source: int | None, target: int | None) -> _Labels | None:
        """Labels after a transfer between hosts of two types (None is the dispatcher); None where they can't talk."""
        names = [self._name(source, 0), self._name(target, int(source == target))]
        path = usable_path(self._problem, *names)
        if path is None:
            return None
        bits = float(self._bits[boundary])
        values = labels.values.copy()
        values[:, LATENCY] += bits / path.rate_bps + path.delay_s
        values[:, BOTTLENECK] = np.maximum(values[:, BOTTLENECK], bits / path.rate_bps)
        values[:, ENERGY] += bits * j_per_bit(path)
        values[:, TRAFFIC] += bits / 8
        return _Labels(values, labels.ids)

    def _name(self, kind: int | None, copy: int) -> str:
        return self._problem.dispatcher if kind is None else self._problem.workers[self._members[kind][copy]].name

    def _followers(self, used: tuple[int, ...]) -> Iterator[tuple[int, tuple[int, ...]]]:
        for kind, group in enumerate(self._members):
            if used[kind] < len(group):
                yield kind, (*used[:kind], used[kind] + 1, *used[kind + 1 :])

    def _unbeaten(self, labels: _Labels) -> _Labels:
        return labels.only(self._mask(labels))

    def _mask(self, labels: _Labels) -> Bools:
        self._labels_left -= len(labels.values)
        if self._labels_left < 0:
            raise NodeLimit
        return nondominated(labels.values[:, self._columns], self._deadline.check)

    def _stage_figures(self, host: int) -> tuple[Floats, Floats, Bools, float, Floats]:
        """Of a host: seconds before a boundary, memory and whether it fits between two, power, loss before one."""
        problem, worker = self._problem, self._problem.workers[host]
        segments = problem.chain.segments
        memory = np.zeros((segments + 1, segments + 1))
        fits = np.zeros((segments + 1, segments + 1), dtype=np.bool_)
        for first in range(segments):
            self._deadline.check()
            for last in range(first + 1, segments + 1):
                need = stage_memory_bytes(problem, worker, first, last)
                if worker.memory_bytes is not None and need > worker.memory_bytes:
                    break
                weights = stage_weights_bytes(problem, first, last)
                if worker.storage_bytes is not None and weights > worker.storage_bytes:
                    break
                memory[first, last], fits[first, last] = need, True
        losses = problem.accuracy_loss.get(worker.name, (0.0,) * segments)
        return self._compute / worker.speed, memory, fits, power_w(worker), np.concatenate(([0.0], np.cumsum(losses)))

    def _decision(self, label: int) -> tuple[Assignment, ...]:
        steps = []
        while label >= 0:
            label, kind, first, last = self._record[label]
            steps.append((kind, first, last))
        free = [iter(group) for group in self._members]
        return tuple(
            Assignment(self._problem.workers[next(free[kind])].name, first, last)
            for kind, first, last in reversed(steps)
        )


def _types(problem: Problem) -> tuple[tuple[int, ...], ...]:
    """Groups of workers that no plan can tell apart in any aim."""
    names = [*(worker.name for worker in problem.workers), problem.dispatcher]
    matrices = np.zeros((3, len(names), len(names)))
    for row, source in enumerate(names):
        for column, target in enumerate(names):
            path = usable_path(problem, source, target) if row != column else None
            if path is not None:
                matrices[:, row, column] = path.rate_bps, path.delay_s, j_per_bit(path)
    attributes: list[tuple[float, ...]] = [
        (
            worker.speed,
            -1.0 if worker.memory_bytes is None else float(worker.memory_bytes),
            -1.0 if worker.storage_bytes is None else float(worker.storage_bytes),
            float(worker.overhead_bytes),
            power_w(worker),
            *problem.accuracy_loss.get(worker.name, ()),
        )
        for worker in problem.workers
    ]
    groups = merge([*attributes, (-1.0,)], list(matrices))
    return tuple(group for group in groups if group != (len(problem.workers),))

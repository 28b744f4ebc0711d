"""A beam search for a plan whose loads add up, led by prices: forwards over the boundaries, all labels at once.

A label is a partial plan with what it has used of every resource. Where many meet on one host the ones whose spending,
with the least that is still to come, is lowest stay. Finding nothing proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from testbed.planning.deadline import Deadline
from testbed.planning.instance import Bools, Floats, Ints, Step
from testbed.planning.loads import Loads
from testbed.planning.prices import Priced, limit_of
from testbed.planning.threshold import TOLERANCE, Threshold

LIVE = 3
"""How many times its width a beam keeps on a host, of labels that started at different boundaries."""


@dataclass(frozen=True, slots=True, eq=False)
class _Labels:
    """``N`` partial plans, each with a latest stage that has started and not ended.

    Attributes:
        host, start, reach: ``(N,)`` of the latest stage: where it is, where it starts, how far it may go.
        record: ``(N,)`` the label's line in the search's record.
        stages: ``(N,)`` stages, the latest included.
        spent: ``(N,)`` what stages and transfers so far cost, without what the latest stage runs.
        rank: ``(N,)`` the least that a whole plan costs, as of when the label was made.
        compute_s: ``(N, n)`` seconds on a whole core of each host's stages, without the latest stage.
        weights, peaks: ``(N, n)`` bytes of each host's stages, without the latest stage.
        visits: ``(N, n)`` stages of each host, the latest included.
        sent: ``(N, M)`` bits over each link.
    """

    host: Ints
    start: Ints
    reach: Ints
    record: Ints
    stages: Ints
    spent: Floats
    rank: Floats
    compute_s: Floats
    weights: Floats
    peaks: Floats
    visits: Ints
    sent: Floats

    def __len__(self) -> int:
        return len(self.host)

    def _parts(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def only(self, chosen: Bools | Ints) -> _Labels:
        return _Labels(*(part[chosen] for part in self._parts()))

    @staticmethod
    def joined(parts: list[_Labels]) -> _Labels:
        return _Labels(*(np.concatenate(same) for same in zip(*(part._parts() for part in parts), strict=True)))


class Beam:
    """Searches under one threshold."""

    def __init__(self, loads: Loads, threshold: Threshold, priced: Priced, deadline: Deadline) -> None:
        self._loads, self._threshold, self._priced, self._deadline = loads, threshold, priced, deadline
        self._limit_s = limit_of(threshold)
        self._budget = self._limit_s * loads.instance.speed
        self._link_budget = self._limit_s * loads.link_rate
        self._record: list[tuple[int, int, int]] = []  # the label before, host, start

    def search(self, width: int) -> list[Step] | None:
        """A plan's steps, or None, which proves nothing.

        Args:
            width: Labels kept of those that start at one boundary on one host.

        Raises:
            OutOfTime: At the deadline.
        """
        segments, hosts = self._loads.instance.segments, self._loads.hosts
        self._record.clear()
        live = self._started(self._nothing(), 0, width)
        for boundary in range(1, segments):
            self._deadline.check()
            done = self._finished(live)
            if done is not None:
                return done
            live = live.only(live.reach >= boundary)
            if not len(live):
                return None
            live = _Labels.joined([live, self._started(self._ended(live, boundary), boundary, width)])
            keep = np.zeros(len(live), dtype=np.bool_)
            for host in range(hosts):
                here = np.flatnonzero(live.host == host)
                keep[here[np.argsort(live.rank[here], kind="stable")[: LIVE * width]]] = True
            live = live.only(keep)
        return self._finished(live)

    def _nothing(self) -> _Labels:
        """The one label before any stage, on the dispatcher."""
        hosts, links = self._loads.hosts, len(self._loads.link_rate)
        none, zero = np.array([hosts]), np.zeros(1, dtype=np.int64)
        flat = np.zeros((1, hosts))
        return _Labels(
            none, zero, zero, zero - 1, zero, np.zeros(1), np.zeros(1), flat, flat, flat,
            np.zeros((1, hosts), dtype=np.int64), np.zeros((1, links)),
        )  # fmt: skip

    def _ended(self, labels: _Labels, boundary: int) -> _Labels:
        """The labels with their latest stages ended at a boundary."""
        instance, rows = self._loads.instance, np.arange(len(labels))
        compute_s, weights, peaks = labels.compute_s.copy(), labels.weights.copy(), labels.peaks.copy()
        compute_s[rows, labels.host] += instance.compute_before[boundary] - instance.compute_before[labels.start]
        weights[rows, labels.host] += instance.weights_before[boundary] - instance.weights_before[labels.start]
        here = self._loads.peaks[labels.start, boundary]
        peaks[rows, labels.host] = np.maximum(peaks[rows, labels.host], here)
        run = self._priced.run
        spent = labels.spent + run[boundary, labels.host] - run[labels.start, labels.host]
        spent += here * np.append(self._priced.peak, 0.0)[labels.host]
        return _Labels(
            labels.host, labels.start, labels.reach, labels.record, labels.stages, spent, labels.rank,
            compute_s, weights, peaks, labels.visits, labels.sent,
        )  # fmt: skip

    def _started(self, labels: _Labels, boundary: int, width: int) -> _Labels:
        """The best labels with one stage more, started at a boundary."""
        loads, instance, priced = self._loads, self._loads.instance, self._priced
        bits, sources = float(instance.bits[boundary]), labels.host
        prices = bits * priced.bit[:, :-1]
        if boundary:
            closed = ~instance.linked | (bits / instance.rate > self._limit_s)
            prices[:-1][closed] = np.inf
        else:
            prices[-1, [host for host in range(loads.hosts) if host not in self._threshold.starts]] = np.inf
        spent = labels.spent[:, None] + prices[sources] + priced.stage
        rank = spent + priced.to_go[boundary]
        legal = (rank <= 1 + TOLERANCE) & (labels.visits < loads.per_host)
        legal &= (labels.stages < loads.most_stages)[:, None]
        made: list[_Labels] = []
        for target in np.flatnonzero(legal.any(axis=0)).tolist():
            rows = np.flatnonzero(legal[:, target])
            rows = rows[np.argsort(rank[rows, target], kind="stable")]
            sent = labels.sent[rows] + bits * loads.crosses[:, sources[rows], target].T
            reach = self._reach(labels, rows, target, boundary)
            good = (sent <= self._link_budget * (1 + TOLERANCE)).all(axis=1) & (reach > boundary)
            kept = np.flatnonzero(good)[:width]
            rows, sent, reach = rows[kept], sent[kept], reach[kept]
            if not len(rows):
                continue
            visits = labels.visits[rows].copy()
            visits[:, target] += 1
            first = len(self._record)
            self._record.extend((int(before), target, boundary) for before in labels.record[rows])
            same = np.ones(len(rows), dtype=np.int64)
            made.append(
                _Labels(
                    same * target,
                    same * boundary,
                    reach,
                    np.arange(first, len(self._record)),
                    labels.stages[rows] + 1,
                    spent[rows, target],
                    rank[rows, target],
                    labels.compute_s[rows],
                    labels.weights[rows],
                    labels.peaks[rows],
                    visits,
                    sent,
                )
            )
        return _Labels.joined(made) if made else labels.only(np.zeros(len(labels), dtype=np.bool_))

    def _reach(self, labels: _Labels, rows: Ints, target: int, boundary: int) -> Ints:
        """How far a stage from ``boundary`` may go on a host, with what each label has left there."""
        loads, instance = self._loads, self._loads.instance
        compute_s = instance.compute_before[boundary] + self._budget[target] - labels.compute_s[rows, target]
        weights = instance.weights_before[boundary:] - instance.weights_before[boundary]
        used, peaks = labels.weights[rows, target], labels.peaks[rows, target]
        ends = [
            np.searchsorted(instance.compute_before, compute_s, side="right") - 1,
            boundary + np.searchsorted(weights, np.minimum(loads.room[target] - peaks, loads.storage[target]) - used,
                                       side="right") - 1,
            boundary + np.searchsorted(weights + loads.peaks[boundary, boundary:], loads.room[target] - used,
                                       side="right") - 1,
        ]  # fmt: skip
        found: Ints = np.minimum(np.minimum.reduce(ends), self._threshold.reach[target, boundary])
        return found

    def _finished(self, labels: _Labels) -> list[Step] | None:
        """A label whose latest stage can go to the end and send the answer back."""
        loads, segments = self._loads, self._loads.instance.segments
        for row in np.flatnonzero((labels.reach >= segments) & self._threshold.returns[labels.host]).tolist():
            sent = labels.sent[row].copy()
            sent[list(loads.links_of[int(labels.host[row]), loads.hosts])] += loads.instance.bits[-1]
            if (sent <= self._link_budget * (1 + TOLERANCE)).all():
                return self._steps(int(labels.record[row]))
        return None

    def _steps(self, line: int) -> list[Step]:
        end, steps = self._loads.instance.segments, []
        while line >= 0:
            line, host, start = self._record[line]
            steps.append(Step(host, start, end))
            end = start
        return steps[::-1]

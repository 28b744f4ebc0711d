"""The plan of least latency among those whose bottleneck keeps to a threshold: A* over (boundary, host, used hosts)."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass

import numpy as np

from testbed.planning.deadline import Deadline, NodeLimit
from testbed.planning.hosttypes import UsedSets
from testbed.planning.instance import Floats, Instance, Ints, Step
from testbed.planning.threshold import TOLERANCE, Threshold

NODE_LIMIT = 4000
FIRST_SLACK = 1.02
GREEDINESS = 1.5
"""How much more the second search trusts the heuristic than what is already spent."""


@dataclass(frozen=True, slots=True, eq=False)
class _Node:
    """A partial plan whose latest stage starts at ``boundary`` on ``kind``, its input received."""

    boundary: int
    kind: int
    used: int
    spent_s: float
    parent: _Node | None

    def steps(self, end: int) -> list[Step]:
        found: list[Step] = []
        node: _Node | None = self
        while node is not None:
            found.append(Step(node.kind, node.boundary, end))
            end = node.boundary
            node = node.parent
        return found[::-1]


class LeastLatency:
    """Searches below one bottleneck threshold; hosts of the instance must be told apart by delay.

    The heuristic is the exact least latency to go when hosts may repeat, by one backward pass, so it never
    overestimates. A node is dropped when an earlier one at the same boundary and host used a subset of its hosts.

    Attributes:
        bound_s: No plan below the threshold has less latency; grows as ``least`` goes on, also when it is cut short.
    """

    def __init__(self, instance: Instance, beta_s: float, deadline: Deadline, node_limit: int = NODE_LIMIT) -> None:
        self.bound_s = 0.0
        self._node_limit = node_limit
        self._instance = instance
        self._threshold = Threshold.of(instance, beta_s)
        self._deadline = deadline
        self._sets = UsedSets([len(group) for group in instance.members], counted=False)
        # What a stage on the row's type that ends at a boundary pays to hand over to the column's: (L, V, V).
        limit = beta_s * (1 + TOLERANCE)
        times = instance.bits[:-1, None, None] / instance.rate[None]
        self._hand_over = np.where(instance.linked[None] & (times <= limit), times + instance.delay[None], np.inf)
        self._to_go, self._after = self._bounds()
        entry = instance.bits[0] / instance.in_rate + instance.in_delay
        self._entry = [(kind, float(entry[kind])) for kind in self._threshold.starts]

    def _bounds(self) -> tuple[Floats, Floats]:
        """``(L+1, V)`` least latency to go from a stage's start, and from its end, with distinctness forgotten."""
        instance, segments = self._instance, self._instance.segments
        to_go = np.full((segments + 1, instance.kinds), np.inf)
        after = np.full((segments + 1, instance.kinds), np.inf)
        back = instance.bits[-1] / instance.out_rate + instance.out_delay
        after[segments] = np.where(self._threshold.returns, back, np.inf)
        positions = np.arange(segments + 1)[:, None]
        for boundary in range(segments - 1, -1, -1):
            ends = positions[boundary + 1 :]
            compute = instance.compute_before[boundary + 1 :, None] - instance.compute_before[boundary]
            total = compute / instance.speed + after[boundary + 1 :]
            to_go[boundary] = np.where(ends <= self._threshold.reach[:, boundary], total, np.inf).min(axis=0)
            if boundary:
                after[boundary] = (self._hand_over[boundary] + to_go[boundary][None, :]).min(axis=1)
        return to_go, after

    def search(self, known_s: float) -> list[Step] | None:
        """Steps of the plan of least latency, or None if none is below ``known_s``.

        Where the nodes run out, a greedy search looks for some plan below ``known_s`` instead.

        Raises:
            OutOfTime: At the deadline; nothing is known then.
        """
        try:
            return self.least(known_s)
        except NodeLimit:
            return self.greedy(known_s)

    def greedy(self, known_s: float) -> list[Step] | None:
        """Steps of some plan below ``known_s``, found soon; None proves nothing.

        Raises:
            OutOfTime: At the deadline.
        """
        try:
            return self._search_below(known_s * (1 - TOLERANCE), GREEDINESS, itertools.count(1))[0]
        except NodeLimit:
            return None

    def least(self, known_s: float) -> list[Step] | None:
        """A* with a growing limit: nodes above it aren't kept, which keeps the heap small.

        Returns:
            Steps of the plan of least latency; None proves that no plan is below ``known_s``.

        Raises:
            NodeLimit: If the nodes ran out.
            OutOfTime: At the deadline.
        """
        pops, below_s = itertools.count(1), known_s * (1 - TOLERANCE)
        limit, lowest = 0.0, min((spent + float(self._to_go[0, kind]) for kind, spent in self._entry), default=np.inf)
        while lowest < below_s:
            self.bound_s = max(self.bound_s, lowest)
            limit = min(max(limit, lowest) * FIRST_SLACK, below_s)
            steps, lowest = self._search_below(limit, 1.0, pops)
            if steps is not None:
                return steps
        self.bound_s = max(self.bound_s, min(lowest, known_s))
        return None

    def _search_below(
        self, limit: float, greediness: float, pops: itertools.count[int]
    ) -> tuple[list[Step] | None, float]:
        """The first plan up to ``limit``; else the least estimate above it (infinite when there is none).

        With a greediness of 1 the first plan is the best.

        Raises:
            NodeLimit: If the nodes ran out.
            OutOfTime: At the deadline.
        """
        segments, order = self._instance.segments, itertools.count()
        # An infinite estimate is no way at all, whatever the limit.
        limit = min(limit, float(np.finfo(np.float64).max))
        heap: list[tuple[float, int, _Node | None, list[Step] | None]] = []
        beyond = np.inf
        for kind, spent_s in self._entry:
            to_go = float(self._to_go[0, kind])
            if spent_s + to_go <= limit:
                root = _Node(0, kind, self._sets.add(0, kind), spent_s, None)
                heapq.heappush(heap, (spent_s + greediness * to_go, next(order), root, None))
            else:
                beyond = min(beyond, spent_s + to_go)
        settled: dict[tuple[int, int], list[int]] = {}
        while heap:
            self._deadline.check()
            estimate, _, node, steps = heapq.heappop(heap)
            if greediness == 1:
                self.bound_s = max(self.bound_s, min(estimate, beyond))
            if node is None:
                return steps, beyond
            earlier = settled.setdefault((node.boundary, node.kind), [])
            if any(used & node.used == used for used in earlier):
                continue
            earlier.append(node.used)
            if next(pops) > self._node_limit:
                raise NodeLimit
            farthest = int(self._threshold.reach[node.kind, node.boundary])
            if farthest == segments and self._threshold.returns[node.kind]:
                total = node.spent_s + self._compute_s(node, segments) + float(self._after[segments, node.kind])
                if total <= limit:
                    heapq.heappush(heap, (total, next(order), None, node.steps(segments)))
                else:
                    beyond = min(beyond, total)
            ends, spent, estimates = self._children(node)
            above = estimates[estimates > limit]
            beyond = min(beyond, float(above.min())) if above.size else beyond
            for row, kind in np.argwhere(estimates <= limit).tolist():
                spent_s = float(spent[row, kind])
                child = _Node(int(ends[row]), kind, self._sets.add(node.used, kind), spent_s, node)
                ahead_s = float(estimates[row, kind]) - spent_s
                heapq.heappush(heap, (spent_s + greediness * ahead_s, next(order), child, None))
        return None, beyond

    def _children(self, node: _Node) -> tuple[Ints, Floats, Floats]:
        """Where the node's stage may end, ``(E,)``, and what comes of it for each next type, ``(E, V)``.

        That is the latency up to the next stage's start, and the least in all: infinite where it may not be.
        """
        instance = self._instance
        farthest = min(int(self._threshold.reach[node.kind, node.boundary]), instance.segments - 1)
        ends = np.arange(node.boundary + 1, farthest + 1)
        compute = (instance.compute_before[ends] - instance.compute_before[node.boundary]) / instance.speed[node.kind]
        spent = node.spent_s + compute[:, None] + self._hand_over[ends, node.kind]
        allowed = node.used.bit_count() + self._threshold.hops[ends] <= instance.max_stages
        allowed[:, [self._sets.full(node.used, kind) for kind in range(instance.kinds)]] = False
        return ends, spent, np.where(allowed, spent + self._to_go[ends], np.inf)

    def _compute_s(self, node: _Node, end: int) -> float:
        before = self._instance.compute_before
        return float((before[end] - before[node.boundary]) / self._instance.speed[node.kind])

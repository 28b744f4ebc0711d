"""The minimum bottleneck where loads add up: hosts with several stages, links that several paths share.

Bisects the threshold between a lower and an upper bound. Prices decide most thresholds: they prove that there is no
plan, or lead a beam to one. What they leave open a depth-first search with the same prices decides, exactly if it
finishes within its nodes; those grow as the thresholds left open narrow.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence

import numpy as np

from testbed.planning.beam import Beam
from testbed.planning.deadline import Deadline, NodeLimit
from testbed.planning.instance import Step
from testbed.planning.loads import Loads
from testbed.planning.prices import Market, Priced, limit_of
from testbed.planning.threshold import TOLERANCE, Threshold

NARROW, WIDE = 4, 24
FIRST_NODES = 1000
MORE_NODES = 4
LAST = 0.1
"""When so much of the gap is left to bisect, it is asked instead whether anything is better than the best plan."""

CLOSE = 2e-4
"""The same when so much of the best bottleneck is left."""

MOST_FAILED = 64
"""Failed states remembered for a boundary and a host."""


class Answer(enum.Enum):
    """What is known of a threshold."""

    PLAN = enum.auto()
    NONE = enum.auto()
    OPEN = enum.auto()


class Revisits:
    """A search for plans of less and less bottleneck.

    Args:
        loads: What is asked about.
        deadline: Ends it.
        keep: Given the steps of each plan that is found; returns the least bottleneck so far.
    """

    def __init__(self, loads: Loads, deadline: Deadline, keep: Callable[[Sequence[Step]], float]) -> None:
        self._loads, self._deadline, self._keep = loads, deadline, keep
        self._market = Market(loads, deadline)
        self.lower_s = 0.0
        self.upper_s = float("inf")
        self.impossible = False

    def minimise(self, lower_s: float, upper_s: float) -> None:
        """Close the gap between the bounds; ``lower_s`` and ``upper_s`` of the search are what is known at any time.

        An infinite upper bound asks for any plan first; where there is none the search is ``impossible``.

        Raises:
            OutOfTime: At the deadline.
        """
        self.lower_s, self.upper_s = lower_s, upper_s
        if np.isinf(upper_s) and not self._any():
            self.impossible = True
            return
        nodes = FIRST_NODES
        open_s = self.lower_s
        if self.upper_s > self.lower_s * (1 + 2 * TOLERANCE):
            self._ask(self.lower_s, nodes)
        while self.upper_s > self.lower_s * (1 + 2 * TOLERANCE):
            open_s = max(open_s, self.lower_s)
            strict_s = self.upper_s * (1 - 4 * TOLERANCE)
            last = self.upper_s - open_s <= max(LAST * (self.upper_s - self.lower_s), CLOSE * self.upper_s)
            middle_s = strict_s if last else (open_s * self.upper_s) ** 0.5 if open_s else self.upper_s / 16
            if not last and middle_s < self.upper_s * 1e-12:
                middle_s = 0.0
            answer = self._ask(middle_s, nodes)
            if answer is Answer.NONE:
                self.lower_s = self.upper_s if last else middle_s
            elif answer is Answer.OPEN:
                open_s = middle_s
                if last:
                    nodes *= MORE_NODES
                    open_s = self.lower_s

    def _any(self) -> bool:
        """Find any plan, or prove that there is none.

        Raises:
            OutOfTime: At the deadline.
        """
        loads = self._loads
        most_s = loads.instance.largest_threshold_s() * (loads.most_stages + 1)
        nodes = FIRST_NODES
        while (answer := self._ask(most_s, nodes)) is Answer.OPEN:
            nodes *= MORE_NODES
        return answer is Answer.PLAN

    def _ask(self, beta_s: float, nodes: int) -> Answer:
        """Whether a plan keeps to a threshold; one that is found is kept."""
        self._deadline.check()
        threshold = Threshold.of(self._loads.instance, beta_s)
        if not threshold.possible:
            return Answer.NONE
        priced, steps = self._market.settle(threshold)
        if steps is None and priced.impossible:
            return Answer.NONE
        beam = Beam(self._loads, threshold, priced, self._deadline)
        steps = steps or beam.search(NARROW) or beam.search(WIDE)
        if steps is None:
            try:
                steps = PricedDepthFirst(self._loads, threshold, priced, self._deadline, nodes).search()
            except NodeLimit:
                return Answer.OPEN
        if steps is None:
            return Answer.NONE
        self.upper_s = self._keep(steps)
        return Answer.PLAN


class PricedDepthFirst:
    """Forwards, cheapest first; whatever costs more than everything is left out, failed states are remembered.

    A state fails for good: whoever comes to the same boundary and host with no more left on any host that can still
    take a stage, and no more left of any link, fails as well.
    """

    def __init__(self, loads: Loads, threshold: Threshold, priced: Priced, deadline: Deadline, node_limit: int) -> None:
        self._loads, self._threshold, self._priced, self._deadline = loads, threshold, priced, deadline
        instance, limit_s = loads.instance, limit_of(threshold)
        self._nodes_left = node_limit
        self._segments = instance.segments
        self._compute_left = (limit_s * instance.speed).tolist()
        self._weights_left = np.minimum(loads.room, loads.storage).tolist()
        self._room = loads.room.tolist()
        self._storage = loads.storage.tolist()
        self._weights = [0.0] * loads.hosts
        self._peaks = [0.0] * loads.hosts
        self._visits_left = [loads.per_host] * loads.hosts
        self._sent = [0.0] * len(loads.link_rate)
        self._link_budget = (limit_s * loads.link_rate * (1 + TOLERANCE)).tolist()
        self._stages = 0
        self._failed: dict[tuple[int, int], list[tuple[tuple[float, ...], ...]]] = {}
        self._steps: list[Step] = []

    def search(self) -> list[Step] | None:
        """A plan's steps, or None if there is none under the threshold.

        Raises:
            NodeLimit: If the nodes ran out before an answer.
            OutOfTime: At the deadline.
        """
        priced, bits = self._priced, float(self._loads.instance.bits[0])
        entry = bits * priced.bit[-1, :-1] + priced.stage
        for host in sorted(self._threshold.starts, key=lambda host: float(entry[host] + priced.to_go[0, host])):
            if self._fresh_twin(host) or not self._send(self._loads.hosts, host, bits):
                continue
            if self._extend(0, host, float(entry[host])):
                return self._steps[::-1]
            self._send(self._loads.hosts, host, -bits)
        return None

    def _fresh_twin(self, host: int) -> bool:
        """Whether an unused host before this one is just like it."""
        if self._visits_left[host] < self._loads.per_host:
            return False
        classes = self._loads.classes
        return any(
            classes[other] == classes[host] and self._visits_left[other] == self._loads.per_host
            for other in range(classes[host], host)
        )

    def _send(self, source: int, target: int, bits: float) -> bool:
        """Load a path's links, or unload them with negative bits; False, and nothing loaded, if one is full."""
        links = self._loads.links_of.get((source, target), ())
        if bits > 0 and any(self._sent[link] + bits > self._link_budget[link] for link in links):
            return False
        for link in links:
            self._sent[link] += bits
        return True

    def _reach(self, boundary: int, host: int) -> int:
        """How far a stage from a boundary may go on a host with what is left there."""
        loads, instance = self._loads, self._loads.instance
        weights = instance.weights_before[boundary:] - instance.weights_before[boundary]
        room = min(self._room[host] - self._peaks[host], self._storage[host]) - self._weights[host]
        compute_s = instance.compute_before[boundary] + self._compute_left[host]
        by_peak = weights + loads.peaks[boundary, boundary:]
        return min(
            int(np.searchsorted(instance.compute_before, compute_s, side="right")) - 1,
            boundary + int(np.searchsorted(weights, room, side="right")) - 1,
            boundary + int(np.searchsorted(by_peak, self._room[host] - self._weights[host], side="right")) - 1,
            int(self._threshold.reach[host, boundary]),
        )

    def _left(self, boundary: int) -> tuple[tuple[float, ...], ...]:
        """What is left for stages from a boundary on: compute, weights, peaks and stages of hosts, bits of links."""
        per_host: list[float] = []
        for host, visits in enumerate(self._visits_left):
            if visits:
                room = min(self._room[host], self._storage[host])
                per_host += (self._compute_left[host], room - self._weights[host], -self._peaks[host], visits)
            else:
                per_host += (-np.inf,) * 4
        return tuple(per_host), (-float(self._stages), *(-sent for sent in self._sent))

    def _extend(self, boundary: int, host: int, spent: float) -> bool:
        """Finish a plan whose latest stage starts at ``boundary`` on ``host``; ``_steps`` grows from the end."""
        self._deadline.check()
        reach = self._reach(boundary, host)
        instance, loads = self._loads.instance, self._loads
        if reach <= boundary:
            return False
        back = float(instance.bits[-1])
        if reach >= self._segments and self._threshold.returns[host] and self._send(host, loads.hosts, back):
            self._steps.append(Step(host, boundary, self._segments))
            return True
        left = self._left(boundary)
        failed = self._failed.setdefault((boundary, host), [])
        flat = left[0] + left[1]
        if any(all(mine <= theirs for mine, theirs in zip(flat, other[0] + other[1], strict=True)) for other in failed):
            return False
        if not self._nodes_left:
            raise NodeLimit
        self._nodes_left -= 1
        if self._stages + 2 <= loads.most_stages and self._branch(boundary, host, spent, reach):
            return True
        if len(failed) < MOST_FAILED:
            failed.append(left)
        return False

    def _branch(self, boundary: int, host: int, spent: float, reach: int) -> bool:
        instance, loads, priced = self._loads.instance, self._loads, self._priced
        ends = np.arange(boundary + 1, min(reach, self._segments - 1) + 1)
        run = priced.run[ends, host] - priced.run[boundary, host] + loads.peaks[boundary, ends] * priced.peak[host]
        bits = instance.bits[ends]
        entry = spent + run[:, None] + bits[:, None] * priced.bit[host, :-1] + priced.stage
        total = entry + priced.to_go[ends]
        limit_s = limit_of(self._threshold)
        total[:, ~instance.linked[host]] = np.inf
        total[bits[:, None] / instance.rate[host] > limit_s] = np.inf
        rows, targets = np.nonzero(total <= 1 + TOLERANCE)
        order = np.argsort(total[rows, targets], kind="stable")
        compute_left, weights, peak = self._compute_left[host], self._weights[host], self._peaks[host]
        self._visits_left[host] -= 1
        self._stages += 1
        for row, target in zip(rows[order].tolist(), targets[order].tolist(), strict=True):
            if not self._visits_left[target]:
                continue
            end, sent = int(ends[row]), float(bits[row])
            if self._fresh_twin(target) or not self._send(host, target, sent):
                continue
            self._compute_left[host] = compute_left - float(
                instance.compute_before[end] - instance.compute_before[boundary]
            )
            self._weights[host] = weights + float(instance.weights_before[end] - instance.weights_before[boundary])
            self._peaks[host] = max(peak, float(loads.peaks[boundary, end]))
            if self._extend(end, target, float(entry[row, target])):
                self._steps.append(Step(host, boundary, end))
                return True
            self._send(host, target, -sent)
        self._compute_left[host], self._weights[host], self._peaks[host] = compute_left, weights, peak
        self._visits_left[host] += 1
        self._stages -= 1
        return False

"""The label sweep: forwards over the boundaries, labels remember which *critical* hosts a walk has used.

A label at boundary c on a host is (used, reach): the future depends on nothing else, since how a walk got there matters
only through which hosts it used and how far its latest stage may still go. So at one boundary and host, a label is
dominated by another that used a subset and reaches as far. Hosts outside the critical set may repeat, which only adds
walks: no walk proves that there is no plan.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import numpy as np

from testbed.planning.capacity import Capacity
from testbed.planning.deadline import Deadline
from testbed.planning.hosttypes import UsedSets
from testbed.planning.instance import Step
from testbed.planning.threshold import Threshold


@dataclass(frozen=True, slots=True, eq=False)
class Label:
    """A partial walk whose latest stage starts at ``start`` on ``kind`` and may end anywhere up to ``reach``.

    Attributes:
        used: The critical hosts that it has used.
        stages: How many stages it has.
        earliest: The first boundary after which the hosts that are free could hold the rest.
    """

    used: int
    stages: int
    earliest: int
    reach: int
    kind: int
    start: int
    parent: Label | None

    def steps(self, end: int) -> list[Step]:
        """The walk's stages when the latest one ends at ``end``."""
        found = [Step(self.kind, self.start, end)]
        later, label = self, self.parent
        while label is not None:
            found.append(Step(label.kind, label.start, later.start))
            later, label = label, label.parent
        return found[::-1]


Order = Callable[[Label], tuple[float, ...]]

LABELS_A_LOOK = 32
"""So many labels are made between two looks at the clock."""


class LabelSweep:
    """Sweeps under one threshold."""

    def __init__(self, threshold: Threshold, deadline: Deadline) -> None:
        instance = threshold.instance
        self._threshold = threshold
        self._deadline = deadline
        self._sets = UsedSets([len(group) for group in instance.members], counted=instance.stages_limited)
        self._capacity = Capacity(threshold, self._sets)
        self._reach = threshold.reach.tolist()

    def beam(self, width: int, *, by_spare: bool = False) -> list[Step] | None:
        """A plan found with at most ``width`` labels a host type, or None, which proves nothing.

        Args:
            width: Labels kept on each host type.
            by_spare: Keep those whose unused hosts have the most to spare, not those that reach farthest.
        """
        everything = range(self._threshold.instance.kinds)
        return self._sweep(everything, width, self._sparing if by_spare else self._farthest)

    def walk(self, critical: Collection[int]) -> list[Step] | None:
        """A walk in which only hosts of types outside ``critical`` may repeat; None proves that there is no plan."""
        return self._sweep(critical, None, self._farthest)

    def repeated(self, steps: Iterable[Step]) -> set[int]:
        """Types that a walk uses more often than they have hosts; none of them: it is a plan."""
        used = [step.kind for step in steps]
        return {kind for kind in used if used.count(kind) > len(self._threshold.instance.members[kind])}

    @staticmethod
    def _farthest(label: Label) -> tuple[float, ...]:
        return (-label.reach, label.used.bit_count())

    def _sparing(self, label: Label) -> tuple[float, ...]:
        instance = self._threshold.instance
        spare = self._capacity.of(label.used)
        weights = float(instance.weights_before[-1] - instance.weights_before[label.reach])
        compute = float(instance.compute_before[-1] - instance.compute_before[label.reach])
        return (
            -min(
                spare.weights_bytes / weights if weights else np.inf,
                spare.compute_s / compute if compute else np.inf,
            ),
        )

    def _sweep(self, critical: Collection[int], width: int | None, order: Order) -> list[Step] | None:
        threshold, segments = self._threshold, self._threshold.instance.segments
        is_critical = [kind in critical for kind in range(threshold.instance.kinds)]
        if self._capacity.of(0).earliest > 0:
            return None
        live: list[list[Label]] = [[] for _ in is_critical]
        for kind in threshold.starts:
            first = self._label(0, 0, kind, is_critical[kind], None)
            if first is None:
                continue
            if first.reach == segments and threshold.returns[kind]:
                return first.steps(segments)
            live[kind].append(first)
        for boundary in range(1, segments):
            self._deadline.check()
            for kind, labels in enumerate(live):
                live[kind] = [label for label in labels if label.reach >= boundary]
            sources = threshold.open_at(boundary)
            sources[[not labels for labels in live], :] = False
            fresh: dict[int, list[Label]] = {}
            for target in np.flatnonzero(sources.any(axis=0)).tolist():
                parents = np.flatnonzero(sources[:, target]).tolist()
                labels = self._arrivals(boundary, target, is_critical[target], [live[kind] for kind in parents])
                if labels and labels[0].reach == segments and threshold.returns[target]:
                    return labels[0].steps(segments)
                fresh[target] = labels
            for target, labels in fresh.items():
                self._deadline.check()
                live[target] = self._merged(live[target], labels)
                if width is not None and len(live[target]) > width:
                    live[target] = sorted(live[target], key=order)[:width]
        return None

    def _label(self, used: int, boundary: int, kind: int, critical: bool, parent: Label | None) -> Label | None:
        """The label of a stage that starts at ``boundary``, or None if the rest can't fit the hosts then free."""
        grown = self._sets.add_stage(self._sets.add(used, kind) if critical else used)
        reach = self._reach[kind][boundary]
        earliest = self._capacity.of(grown).earliest
        if reach < earliest:
            return None
        return Label(grown, self._sets.stages(grown), earliest, reach, kind, boundary, parent)

    def _arrivals(self, boundary: int, target: int, critical: bool, sources: Iterable[list[Label]]) -> list[Label]:
        """Undominated new labels of stages that start at ``boundary`` on ``target``; they all reach equally far."""
        spare_stages = self._threshold.instance.max_stages - int(self._threshold.hops[boundary, target])
        full = self._sets.full
        parents: dict[int, Label] = {}
        for labels in sources:
            for label in labels:
                if label.earliest > boundary or label.stages > spare_stages or label.used in parents:
                    continue
                if not (critical and full(label.used, target)):
                    parents[label.used] = label
        arrivals: list[Label] = []
        for count, used in enumerate(sorted(parents, key=int.bit_count)):
            if not count % LABELS_A_LOOK:
                self._deadline.check()
            new = self._label(used, boundary, target, critical, parents[used])
            if new is not None and not _dominated(new.used, arrivals):
                arrivals.append(new)
        return arrivals

    @staticmethod
    def _merged(old: list[Label], new: list[Label]) -> list[Label]:
        """Both without the dominated. A later stage reaches at least as far as an earlier one on the same host."""
        if not new:
            return old
        equal_reach = [label for label in old if label.reach == new[0].reach]
        kept = [label for label in new if not _dominated(label.used, equal_reach)]
        return [label for label in old if not _dominated(label.used, kept)] + kept


def _dominated(used: int, by: Iterable[Label]) -> bool:
    """Whether one of the labels used a subset of these hosts."""
    rest = ~used
    # Not any(): a generator costs as much again, and here most of the search's time is spent.
    for label in by:  # noqa: SIM110
        if not label.used & rest:
            return True
    return False

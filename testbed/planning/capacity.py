"""How much of the model the hosts that are still free could take at best: prunes searches that ran out of hosts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from testbed.planning.hosttypes import UsedSets
from testbed.planning.threshold import TOLERANCE, Threshold


@dataclass(frozen=True, slots=True)
class Spare:
    """What is left outside a used-set.

    Attributes:
        earliest: The first boundary after which all of the model could fit the free hosts.
        weights_bytes: The most weights that the free hosts could hold.
        compute_s: The most compute, in seconds on a whole core, that they could do under the threshold.
    """

    earliest: int
    weights_bytes: float
    compute_s: float


class Capacity:
    """Bounds by sums: each free host takes at most its largest single stage, whatever its place in the chain."""

    def __init__(self, threshold: Threshold, sets: UsedSets) -> None:
        instance = threshold.instance
        starts = np.arange(instance.segments + 1)
        self._threshold = threshold
        self._sets = sets
        self._copies = [len(group) for group in instance.members]
        rows = threshold.reach
        self._weights = [int((instance.weights_before[row] - instance.weights_before[starts]).max()) for row in rows]
        self._compute = [float((instance.compute_before[row] - instance.compute_before[starts]).max()) for row in rows]
        self._by_weights = sorted(range(instance.kinds), key=lambda kind: -self._weights[kind])
        self._by_compute = sorted(range(instance.kinds), key=lambda kind: -self._compute[kind])
        self._known: dict[int, Spare] = {}

    def of(self, used: int) -> Spare:
        """What is left outside ``used`` (remembered)."""
        known = self._known.get(used)
        if known is None:
            known = self._known[used] = self._measure(used)
        return known

    def _measure(self, used: int) -> Spare:
        instance = self._threshold.instance
        stages = instance.max_stages - self._sets.stages(used)
        free = [copies - self._sets.copies(used, kind) for kind, copies in enumerate(self._copies)]
        weights = compute = 0.0
        left = stages
        for kind in self._by_weights:
            taken = min(free[kind], left)
            weights += taken * self._weights[kind]
            left -= taken
            if not left:
                break
        left = stages
        for kind in self._by_compute:
            taken = min(free[kind], left)
            compute += taken * self._compute[kind]
            left -= taken
            if not left:
                break
        by_weights = int(np.searchsorted(instance.weights_before, instance.weights_before[-1] - weights, side="left"))
        needed = instance.compute_before[-1] * (1 - TOLERANCE) - compute * (1 + TOLERANCE)
        by_compute = int(np.searchsorted(instance.compute_before, needed, side="left"))
        return Spare(max(by_weights, by_compute), weights, compute)

"""What is possible under a bottleneck threshold when hosts may repeat: reach of stages, open links, the walk bound."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from testbed.planning.instance import Bools, Floats, Instance, Ints

TOLERANCE = 1e-9
"""Relative slack on every comparison with a threshold; the only tolerance in the search."""

FAR = np.int64(1 << 40)
"""More hosts than any plan: stands for "no way from here"."""


@dataclass(frozen=True, slots=True, eq=False)
class Threshold:
    """The relaxation in which a plan is a walk over host types that may return to a host.

    Attributes:
        instance: What it is about.
        beta_s: The threshold.
        reach: ``(V, L+1)`` the farthest boundary that a stage from a boundary may end at.
        hops: ``(L, V)`` fewest stages from "a host of type v starts at boundary c" to the end, that one included;
            ``FAR`` where there is no way. A valid lower bound, since forgetting which hosts were used only adds walks.
        returns: ``(V,)`` whether the answer may go back from a host.
        starts: Types that a walk short enough may start on, fewest hops first.
    """

    instance: Instance
    beta_s: float
    reach: Ints
    hops: Ints
    returns: Bools
    starts: tuple[int, ...]
    _successors: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, instance: Instance, beta_s: float) -> Threshold:
        """Work out reaches and hops backwards over the boundaries, O(L·V² + L²·V) in NumPy."""
        limit = beta_s * (1 + TOLERANCE)
        segments = instance.segments
        reach = np.minimum(instance.fits_until, _computes_until(instance, limit))
        returns = instance.out_linked & (instance.bits[-1] / instance.out_rate <= limit)
        # ends[e, v]: fewest stages from the end of a stage on v at boundary e, that one included.
        ends = np.full((segments + 1, instance.kinds), FAR)
        ends[segments, returns] = 1
        hops = np.full((segments, instance.kinds), FAR)
        positions = np.arange(segments + 1)[:, None]
        closed = ~instance.linked
        for boundary in range(segments - 1, -1, -1):
            farthest = int(reach[:, boundary].max())
            if farthest > boundary:
                window = ends[boundary + 1 : farthest + 1]
                within = positions[boundary + 1 : farthest + 1] <= reach[:, boundary]
                hops[boundary] = np.where(within, window, FAR).min(axis=0)
            if boundary and hops[boundary].min() < FAR:
                shut = closed | (instance.bits[boundary] / instance.rate > limit)
                onward = np.where(shut, FAR, hops[boundary][None, :]).min(axis=1)
                ends[boundary] = np.minimum(onward + 1, FAR)
        accepts = instance.in_linked & (instance.bits[0] / instance.in_rate <= limit)
        starts = np.flatnonzero(accepts & (hops[0] <= instance.max_stages))
        order = sorted((int(kind) for kind in starts), key=lambda kind: (int(hops[0, kind]), -int(reach[kind, 0])))
        return cls(instance, beta_s, reach, hops, returns, tuple(order))

    @property
    def possible(self) -> bool:
        """Whether a walk short enough exists; if not, no plan keeps to the threshold."""
        return bool(self.starts)

    def open_at(self, boundary: int) -> Bools:
        """``(V, V)`` whether a stage may end at ``boundary`` on the row's type and the next start on the column's."""
        instance = self.instance
        limit = self.beta_s * (1 + TOLERANCE)
        fast = instance.linked & (instance.bits[boundary] / instance.rate <= limit)
        return np.asarray(fast & (self.hops[boundary] <= instance.max_stages), dtype=np.bool_)

    def successors(self, boundary: int, kind: int) -> tuple[int, ...]:
        """Types that may follow ``kind`` at ``boundary``: fewest hops to the end first, then farthest reach."""
        key = (boundary, kind)
        known = self._successors.get(key)
        if known is None:
            instance = self.instance
            limit = self.beta_s * (1 + TOLERANCE)
            hops = self.hops[boundary]
            legal = instance.linked[kind] & (instance.bits[boundary] / instance.rate[kind] <= limit)
            legal &= hops <= instance.max_stages
            kinds = np.flatnonzero(legal)
            order = np.lexsort((kinds, -self.reach[kinds, boundary], hops[kinds]))
            known = self._successors[key] = tuple(int(follower) for follower in kinds[order])
        return known


def _computes_until(instance: Instance, limit_s: float) -> Ints:
    before = instance.compute_before
    known: dict[float, Ints] = {}
    for speed in instance.speed.tolist():
        if speed not in known:
            budget: Floats = before + limit_s * speed
            known[speed] = np.searchsorted(before, budget, side="right") - 1
    return np.array([known[speed] for speed in instance.speed.tolist()], dtype=np.int64)

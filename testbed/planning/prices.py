"""Prices of resources: a proof that no plan keeps to a threshold, or a guide to one that does.

A plan under a threshold uses at most all of each resource: of each host's time, room and number of stages, of each
link's time, of the number of all stages. So with any prices for whole resources, what it uses costs no more than all of
them together. The cheapest walk over hosts, limits forgotten, costs no more than the cheapest plan; it is found by one
backward pass. If even that costs more than everything, no plan keeps to the threshold (a Lagrangian bound; the walk
bound of :mod:`testbed.planning.threshold` and the sum of all hosts' speeds are special cases of it).

Good prices are found by multiplicative weights: what the cheapest walk overuses becomes dearer (Plotkin, Shmoys and
Tardos, "Fast approximation algorithms for fractional packing and covering problems", 1995).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from testbed.planning.deadline import Deadline
from testbed.planning.instance import Floats, Ints, Step
from testbed.planning.loads import Loads
from testbed.planning.threshold import TOLERANCE, Threshold

ROUNDS = 60
STEP = 0.35
"""How much dearer, as a natural logarithm, what is used twice over becomes in a round."""

MINOR = 1e-3
"""First price of what seldom binds, relative to a host's time."""


def limit_of(threshold: Threshold) -> float:
    """Seconds that a resource may be busy; never 0, so that shares of it are numbers."""
    return max(threshold.beta_s * (1 + TOLERANCE), 1e-200)


@dataclass(frozen=True, slots=True, eq=False)
class Priced:
    """Under one threshold and one set of prices that sum to 1, what is to be paid.

    Attributes:
        run: ``(L+1, n)`` for the segments before a boundary, on each host, but for activations.
        peak: ``(n,)`` for a byte of a stage's peak of activations.
        stage: ``(n,)`` for one more stage on a host.
        bit: ``(n+1, n+1)`` for a bit from the row's node to the column's; infinite where there is no path.
        ends: ``(L+1, n)`` the least from the end of a stage on a host at a boundary to the end, transfers included.
        to_go: ``(L+1, n)`` the least from a stage's start on a host at a boundary, without the price of that stage.
        least: The least of a whole walk; above 1, no plan keeps to the threshold.
    """

    run: Floats
    peak: Floats
    stage: Floats
    bit: Floats
    ends: Floats
    to_go: Floats
    least: float

    @property
    def impossible(self) -> bool:
        """Whether no plan keeps to the threshold."""
        return self.least > 1 + TOLERANCE


@dataclass(slots=True, eq=False)
class _Prices:
    """Logarithms of the prices of whole resources."""

    compute: Floats
    weights: Floats
    visits: Floats
    stages: float
    links: Floats


class Market:
    """Looks for prices; those found for one threshold are where the search begins at the next."""

    def __init__(self, loads: Loads, deadline: Deadline) -> None:
        self._loads, self._deadline = loads, deadline
        hosts, minor = loads.hosts, float(np.log(MINOR))
        self._prices = _Prices(
            np.zeros(hosts), np.full(hosts, minor), np.full(hosts, minor), minor, np.full(len(loads.link_rate), minor)
        )
        most = loads.instance.weights_before[-1] + loads.peaks.max()
        room = np.minimum(loads.room, loads.storage)
        self._room = np.where(room < most, np.maximum(room, 1.0), np.inf)
        # The largest peak of a host's stages is at least their sum over the most stages it may have.
        self._peak_share = np.where(loads.room <= loads.storage, 1 / loads.per_host, 0.0)

    def settle(self, threshold: Threshold, rounds: int = ROUNDS) -> tuple[Priced, list[Step] | None]:
        """The prices under which walks cost most, and a plan if one was met on the way.

        A plan, or prices that prove that there is none, end the search at once.

        Raises:
            OutOfTime: At the deadline.
        """
        best, walk = self._cheapest(threshold)
        for number in range(rounds):
            self._deadline.check()
            if best.impossible or walk is None:
                break
            if fits(self._loads, threshold, walk):
                return best, walk
            self._adjust(threshold, walk, STEP / (1 + number / 15))
            priced, walk = self._cheapest(threshold)
            if priced.least > best.least:
                best = priced
        return best, None

    def _cheapest(self, threshold: Threshold) -> tuple[Priced, list[Step] | None]:
        loads, instance = self._loads, self._loads.instance
        segments, hosts = instance.segments, loads.hosts
        limit_s = limit_of(threshold)
        whole = [np.exp(part) for part in (self._prices.compute, self._prices.weights, self._prices.visits)]
        stages, links = float(np.exp(self._prices.stages)), np.exp(self._prices.links)
        total = sum(float(part.sum()) for part in whole) + stages + float(links.sum())
        compute, weights, visits = (part / total for part in whole)
        per_second = compute / (limit_s * instance.speed)
        run = instance.compute_before[:, None] * per_second + instance.weights_before[:, None] * (weights / self._room)
        peak = weights / self._room * self._peak_share
        stage = visits / loads.per_host + stages / total / loads.most_stages
        per_bit = links / total / (limit_s * loads.link_rate)
        bit = np.tensordot(per_bit, loads.crosses, axes=1) if len(links) else np.zeros((hosts + 1, hosts + 1))

        ends = np.full((segments + 1, hosts), np.inf)
        to_go = np.full((segments + 1, hosts), np.inf)
        where = np.zeros((segments + 1, hosts), dtype=np.int64)
        follower = np.zeros((segments + 1, hosts), dtype=np.int64)
        ends[segments] = np.where(threshold.returns, instance.bits[-1] * bit[:-1, -1], np.inf)
        positions = np.arange(segments + 1)[:, None]
        columns = np.arange(hosts)
        for boundary in range(segments - 1, -1, -1):
            farthest = int(threshold.reach[:, boundary].max())
            if farthest > boundary:
                window = ends[boundary + 1 : farthest + 1] + run[boundary + 1 : farthest + 1]
                window += loads.peaks[boundary, boundary + 1 : farthest + 1, None] * peak
                window[positions[boundary + 1 : farthest + 1] > threshold.reach[:, boundary]] = np.inf
                chosen = window.argmin(axis=0)
                where[boundary] = boundary + 1 + chosen
                to_go[boundary] = window[chosen, columns] - run[boundary]
            if boundary:
                onward = instance.bits[boundary] * bit[:-1, :-1] + (stage + to_go[boundary])
                onward[~instance.linked | (instance.bits[boundary] / instance.rate > limit_s)] = np.inf
                follower[boundary] = onward.argmin(axis=1)
                ends[boundary] = onward[columns, follower[boundary]]
        begin = np.full(hosts, np.inf)
        starts = list(threshold.starts)
        begin[starts] = (instance.bits[0] * bit[-1, :-1] + stage + to_go[0])[starts]
        least = float(begin.min())
        priced = Priced(run, peak, stage, bit, ends, to_go, least)
        return priced, None if np.isinf(least) else _walk(int(begin.argmin()), where, follower, segments)

    def _adjust(self, threshold: Threshold, walk: list[Step], step: float) -> None:
        """Make dearer what the walk overuses, cheaper what it doesn't."""
        use = _Use.of(self._loads, self._room, self._peak_share, threshold, walk)
        prices = self._prices
        prices.compute += step * (np.minimum(use.compute, 3) - 1)
        prices.weights += step * (np.minimum(use.weights, 3) - 1)
        prices.visits += step * (np.minimum(use.visits, 3) - 1)
        prices.stages += step * (min(use.stages, 3) - 1)
        prices.links += step * (np.minimum(use.links, 3) - 1)
        everything = (prices.compute, prices.weights, prices.visits, prices.links)
        top = max(prices.stages, *(float(part.max()) for part in everything if len(part)))
        prices.stages = max(prices.stages - top, -30.0)
        for part in everything:
            np.maximum(part - top, -30.0, out=part)


@dataclass(frozen=True, slots=True, eq=False)
class _Use:
    """What share of each resource a walk uses."""

    compute: Floats
    weights: Floats
    visits: Floats
    stages: float
    links: Floats

    @classmethod
    def of(cls, loads: Loads, room: Floats, peak_share: Floats, threshold: Threshold, walk: list[Step]) -> _Use:
        instance = loads.instance
        limit_s = limit_of(threshold)
        compute, weights, visits = np.zeros(loads.hosts), np.zeros(loads.hosts), np.zeros(loads.hosts)
        sent = np.zeros(len(loads.link_rate))
        nodes = [loads.hosts, *(step.kind for step in walk), loads.hosts]
        for index, pair in enumerate(itertools.pairwise(nodes)):
            bits = instance.bits[walk[index].first] if index < len(walk) else instance.bits[-1]
            sent[list(loads.links_of[pair])] += bits
        for step in walk:
            compute[step.kind] += instance.compute_before[step.last] - instance.compute_before[step.first]
            weights[step.kind] += instance.weights_before[step.last] - instance.weights_before[step.first]
            weights[step.kind] += peak_share[step.kind] * loads.peaks[step.first, step.last]
            visits[step.kind] += 1
        return cls(
            compute / (limit_s * instance.speed),
            weights / room,
            visits / loads.per_host,
            len(walk) / loads.most_stages,
            sent / (limit_s * loads.link_rate),
        )


def fits(loads: Loads, threshold: Threshold, walk: list[Step]) -> bool:
    """Whether a walk is a plan: no resource overused, peaks of activations and storage included."""
    use = _Use.of(loads, np.maximum(loads.storage, 1.0), np.zeros(loads.hosts), threshold, walk)
    shares = np.concatenate((use.compute, use.weights, use.visits, [use.stages], use.links))
    if float(shares.max()) > 1 + TOLERANCE:
        return False
    weights, peaks = np.zeros(loads.hosts), np.zeros(loads.hosts)
    before = loads.instance.weights_before
    for step in walk:
        weights[step.kind] += before[step.last] - before[step.first]
        peaks[step.kind] = max(peaks[step.kind], loads.peaks[step.first, step.last])
    return bool(((weights + peaks <= loads.room) & (weights <= loads.storage) | (weights + peaks == 0)).all())


def _walk(host: int, where: Ints, follower: Ints, segments: int) -> list[Step]:
    boundary, steps = 0, []
    while True:
        end = int(where[boundary, host])
        steps.append(Step(host, boundary, end))
        if end == segments:
            return steps
        host, boundary = int(follower[end, host]), end

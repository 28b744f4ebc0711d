"""Dynamic Split Computing (arXiv:2205.11269): a cut smaller than the input, chosen anew as rate and load change.

Cuts that fewer bits cross than the input's ("natural bottlenecks") are worth sending; one of them splits the model into
a head and a tail on two hosts, or a single host takes all of it. Of these the one of least latency is taken that keeps
up with the requests; where none keeps up, the one of most throughput. The choice is a pure function of the problem; in
a run the dispatcher makes it anew with the rates, speeds and demand that it has measured.
"""

from __future__ import annotations

import math
import time

import numpy as np

from testbed.errors import InfeasibleError
from testbed.planning.evaluate import evaluate, usable_path
from testbed.planning.infeasible import no_way, no_workers
from testbed.planning.instance import Floats, Instance
from testbed.planning.plan import Assignment, Plan
from testbed.planning.problem import Chain, Problem
from testbed.planning.threshold import TOLERANCE


def bottleneck_cuts(chain: Chain) -> tuple[int, ...]:
    """Inner boundaries that fewer bits cross than the input has."""
    bits = chain.boundary_bits
    return tuple(boundary for boundary in range(1, chain.segments) if bits[boundary] < bits[0])


def solve(problem: Problem) -> Plan:
    """The split for the rates, speeds and demand of a problem.

    Raises:
        InfeasibleError: If the model fits neither a host nor two of them at such a cut.
    """
    started_s = time.monotonic()
    missing = no_workers(problem) or no_way(problem)
    if missing is not None:
        raise missing
    cuts = bottleneck_cuts(problem.chain)
    splits = _Splits(problem)
    best: tuple[tuple[bool, float, float], tuple[Assignment, ...]] | None = None
    for decision, bottleneck_s, latency_s in splits.each(cuts):
        keeps_up = bottleneck_s <= _slowest_s(problem)
        # Behind what keeps up comes what doesn't, by throughput.
        rank = (not keeps_up, 0.0 if keeps_up else bottleneck_s, latency_s)
        if best is None or rank < best[0]:
            best = rank, decision
    if best is None:
        raise InfeasibleError(
            "dynamic: the model fits no host, nor two hosts that can talk with a cut smaller than the input "
            f"({len(cuts)} of {problem.chain.segments - 1} cuts are)",
            remedy="give a host more memory, or use the strategy exact, which may use more than two hosts",
        )
    notes = [] if cuts else ["no cut is smaller than the input, so the model isn't split"]
    if best[0][0]:
        notes.append(f"no split keeps up with {problem.demand_rps:g} requests/s")
    return evaluate(problem, best[1], "dynamic", None, time.monotonic() - started_s, notes=notes)


def _slowest_s(problem: Problem) -> float:
    """The largest bottleneck that keeps up with the demand."""
    return (1 + TOLERANCE) / problem.demand_rps if problem.demand_rps else math.inf


class _Splits:
    """Bottleneck and latency of a head on one host and a tail on another, for all pairs of hosts at once."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._names = [worker.name for worker in problem.workers]
        instance = Instance.of(problem)
        kinds = {host: kind for kind, group in enumerate(instance.members) for host in group}
        self._until = np.array([instance.fits_until[kinds[host]] for host in range(len(self._names))])
        self._speed = np.array([worker.speed for worker in problem.workers])
        self._core_s, self._bits = instance.compute_before, instance.bits
        nodes = [*self._names, problem.dispatcher]
        self._linked = np.zeros((len(nodes), len(nodes)), dtype=np.bool_)
        self._per_bit = np.zeros((len(nodes), len(nodes)))
        self._delay = np.zeros((len(nodes), len(nodes)))
        for row, source in enumerate(nodes):
            for column, target in enumerate(nodes):
                path = usable_path(problem, source, target) if row != column else None
                if path is not None:
                    self._linked[row, column] = True
                    self._per_bit[row, column], self._delay[row, column] = 1 / path.rate_bps, path.delay_s

    def each(self, cuts: tuple[int, ...]) -> list[tuple[tuple[Assignment, ...], float, float]]:
        """The decisions worth considering, with bottleneck and latency: at each cut, and without one.

        At each cut these are the pair of hosts of least latency among those that keep up, and that of least bottleneck.
        """
        problem, segments = self._problem, self._problem.chain.segments
        slowest_s = _slowest_s(problem)
        found = []
        for cut in (segments, *(cuts if (problem.max_stages or 2) > 1 else ())):
            bottleneck, latency = self._costs(cut)
            keeping = np.where(bottleneck <= slowest_s, latency, np.inf)
            for scores in (keeping, bottleneck):
                head, tail = (int(index) for index in np.unravel_index(scores.argmin(), scores.shape))
                if np.isfinite(scores[head, tail]):
                    stages = [Assignment(self._names[head], 0, cut)]
                    if cut < segments:
                        stages.append(Assignment(self._names[tail], cut, segments))
                    found.append((tuple(stages), float(bottleneck[head, tail]), float(latency[head, tail])))
        return found

    def _costs(self, cut: int) -> tuple[Floats, Floats]:
        """``(n, n)`` of a head on the row's host and a tail on the column's; without a cut on the diagonal."""
        segments, hosts = self._problem.chain.segments, len(self._names)
        arrives = self._bits[0] * self._per_bit[-1, :-1]
        returns = self._bits[-1] * self._per_bit[:-1, -1]
        head = self._core_s[cut] / self._speed
        tail = (self._core_s[-1] - self._core_s[cut]) / self._speed
        delay_in, delay_out = self._delay[-1, :-1], self._delay[:-1, -1]
        one, pair = np.eye(hosts, dtype=np.bool_), ~np.eye(hosts, dtype=np.bool_)
        if cut == segments:
            times = [np.broadcast_to(part[:, None], (hosts, hosts)) for part in (arrives, head, returns)]
            legal = one & (self._until[:, 0] >= segments)[:, None]
            delays = np.broadcast_to((delay_in + delay_out)[:, None], (hosts, hosts))
        else:
            between = self._bits[cut] * self._per_bit[:-1, :-1]
            rows = [np.broadcast_to(part[:, None], (hosts, hosts)) for part in (arrives, head)]
            columns = [np.broadcast_to(part[None, :], (hosts, hosts)) for part in (tail, returns)]
            times = [*rows, between, *columns]
            legal = pair & (self._until[:, 0] >= cut)[:, None] & (self._until[:, cut] >= segments)[None, :]
            delays = delay_in[:, None] + self._delay[:-1, :-1] + delay_out[None, :]
            legal &= self._linked[:-1, :-1]
        stacked = np.array(times)
        # The head hears the dispatcher, and the dispatcher hears the tail.
        legal &= self._linked[-1, :-1][:, None] & self._linked[:-1, -1][None, :]
        return np.where(legal, stacked.max(axis=0), np.inf), np.where(legal, stacked.sum(axis=0) + delays, np.inf)

"""The least latency of one request, over any number of hosts: what Neurosurgeon and DNN Surgery optimise.

Neurosurgeon (ASPLOS 2017) chooses one cut between a device and a cloud, DNN Surgery (INFOCOM 2019) a minimum cut of the
graph. Here a plan may cut at every boundary of the chain and use any number of hosts. The chain that this strategy is
given has the minimum cuts for all speeds of two hosts and all rates between them among its boundaries, several tensors
wide where that is best. By :mod:`testbed.model.tier_cuts` they hold the optimum over the DAG for any number of tiers,
unless a host's memory is too small for it or a host is worth using as a mere relay. A* with a bound that forgets which
hosts were used finds the least and proves it; under a time limit it keeps the best plan so far and says how far that
may be from the least.
"""

from __future__ import annotations

import math
import time

from testbed.errors import InfeasibleError
from testbed.planning.deadline import Clock, Deadline, NodeLimit, OutOfTime
from testbed.planning.evaluate import evaluate
from testbed.planning.infeasible import explain
from testbed.planning.instance import Instance
from testbed.planning.plan import Assignment, Plan
from testbed.planning.problem import Problem
from testbed.planning.shortest import LeastLatency
from testbed.planning.threshold import TOLERANCE

NODE_LIMIT = 400_000
"""Nodes of the search, some 200 bytes each."""


def solve(problem: Problem, clock: Clock = time.monotonic) -> Plan:
    """The plan of least latency; ``Plan.latency_bound_s`` and ``Plan.latency_gap`` say what is proven.

    Raises:
        InfeasibleError: If there is no plan, with the constraint that binds; or if none was found in time.
    """
    deadline = Deadline(problem.time_limit_s, clock)
    if not problem.workers:
        raise explain(problem, deadline)
    instance = Instance.of(problem, by_delay=True)
    search = LeastLatency(instance, instance.largest_threshold_s(), deadline, NODE_LIMIT)
    best: tuple[Assignment, ...] | None = None
    known_s = math.inf
    proven = False
    try:
        steps = search.greedy(known_s)
        if steps is not None:
            best = instance.assign(steps)
            known_s = evaluate(problem, best, "min-latency", None, 0.0).latency_s
        steps = search.least(known_s)
        proven = True
        if steps is not None:
            best = instance.assign(steps)
    except (OutOfTime, NodeLimit):
        if best is None:
            raise InfeasibleError(
                f"min-latency: no plan was found within {deadline.elapsed_s():.3g} s, and none was ruled out either",
                remedy="give the hosts more memory, add hosts, or use the strategy exact",
            ) from None
    if best is None:
        raise explain(problem, deadline)
    latency_s = evaluate(problem, best, "min-latency", None, 0.0).latency_s
    bound_s = latency_s if proven or search.bound_s >= latency_s * (1 - TOLERANCE) else search.bound_s
    return evaluate(problem, best, "min-latency", None, deadline.elapsed_s(), latency_bound_s=bound_s)

"""The baseline of all four papers: the whole model on one host."""

from __future__ import annotations

import time

from testbed.errors import InfeasibleError
from testbed.planning.evaluate import evaluate, usable_path, violations
from testbed.planning.infeasible import enough, limit_bytes, need_bytes, no_workers, overhead_words
from testbed.planning.plan import Assignment, Plan
from testbed.planning.problem import Problem
from testbed.units import format_size


def solve(problem: Problem) -> Plan:
    """The whole model on the host with the least bottleneck, then the least latency, then the first in order.

    Raises:
        InfeasibleError: If no host has room for the model and a way from and to the dispatcher.
    """
    started_s = time.monotonic()
    missing = no_workers(problem)
    if missing is not None:
        raise missing
    plans = []
    for worker in problem.workers:
        whole = (Assignment(worker.name, 0, problem.chain.segments),)
        if not violations(problem, whole):
            plans.append(evaluate(problem, whole, "single", None, 0.0))
    if not plans:
        raise _explain(problem)
    best = min(plans, key=lambda plan: (plan.bottleneck_s, plan.latency_s))
    whole = (Assignment(best.stages[0].host, 0, problem.chain.segments),)
    return evaluate(problem, whole, "single", None, time.monotonic() - started_s)


def _explain(problem: Problem) -> InfeasibleError:
    """The host that comes closest, and by how much it is short."""
    dispatcher, segments = problem.dispatcher, problem.chain.segments
    reachable = [
        worker
        for worker in problem.workers
        if usable_path(problem, dispatcher, worker.name) and usable_path(problem, worker.name, dispatcher)
    ]
    if not reachable:
        return InfeasibleError(
            f"single: no host has a way both from and to {dispatcher}",
            remedy=f"link {dispatcher} to a host, or to a switch that hosts are linked to",
        )

    def short(worker_index: int, resource: str) -> int:
        worker = reachable[worker_index]
        limit = limit_bytes(worker, resource)
        return 0 if limit is None else max(0, need_bytes(problem, worker, resource, 0, segments) - limit)

    closest = min(range(len(reachable)), key=lambda index: (short(index, "memory") + short(index, "storage"), index))
    resource = "memory" if short(closest, "memory") else "storage"
    worker = reachable[closest]
    need = need_bytes(problem, worker, resource, 0, segments)
    return InfeasibleError(
        f"single: the whole model needs {format_size(need)} of {resource}{overhead_words(worker, resource)}; "
        f"{worker.name}, the host that comes closest, has {format_size(need - short(closest, resource))}: "
        f"short by {format_size(short(closest, resource))}",
        remedy=f"give {worker.name} at least {enough(need)} of {resource}, or use the strategy exact",
    )

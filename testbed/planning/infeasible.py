"""Why there is no plan: the constraint that binds, by how much, and what would make a plan possible.

Asked only when a search has proven that there is none. The plain causes come first (one host or one segment shows
them), then sums over hosts, then causes that only a search with one constraint lifted can tell.
"""

from __future__ import annotations

from dataclasses import replace

from testbed.errors import InfeasibleError
from testbed.planning.deadline import Deadline, OutOfTime
from testbed.planning.decision import Decision
from testbed.planning.evaluate import stage_memory_bytes, stage_weights_bytes, usable_path
from testbed.planning.instance import Instance
from testbed.planning.problem import Problem, Worker
from testbed.units import format_size


def explain(problem: Problem, deadline: Deadline) -> InfeasibleError:
    """The error to raise for a problem without a plan. The last causes are searched for until the deadline."""
    plain = (
        no_workers(problem)
        or no_way(problem)
        or _segment_too_large(problem, "memory")
        or _segment_too_large(problem, "storage")
        or _several_stages(problem)
        or _too_little_together(problem, "storage", deadline)
        or _too_little_together(problem, "memory", deadline)
    )
    if plain is not None:
        return plain
    try:
        return _searched(problem, deadline)
    except OutOfTime:
        return InfeasibleError(
            f"no plan fits the model on {_all_hosts(problem)}; time ran out before the reason was found",
            remedy="give the hosts more memory, or add hosts",
        )


def need_bytes(problem: Problem, worker: Worker, resource: str, first: int, last: int) -> int:
    """What segments ``first..last-1`` take of a host's ``memory`` or ``storage``."""
    if resource == "memory":
        return stage_memory_bytes(problem, worker, first, last)
    return stage_weights_bytes(problem, first, last)


def limit_bytes(worker: Worker, resource: str) -> int | None:
    """A host's ``memory`` or ``storage``; None means unlimited."""
    return worker.memory_bytes if resource == "memory" else worker.storage_bytes


def overhead_words(worker: Worker, resource: str) -> str:
    """``" incl. 16MiB server overhead"``, or nothing where there is none."""
    if resource != "memory" or not worker.overhead_bytes:
        return ""
    return f" incl. {format_size(worker.overhead_bytes)} server overhead"


def enough(size_bytes: int) -> str:
    """A size for people to write down: never less than ``size_bytes``, rounded up to tenths of a unit."""
    for name, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size_bytes >= factor:
            tenths = -(-size_bytes * 10 // factor)
            return f"{tenths / 10:.12g}{name}"
    return f"{size_bytes}B"


NAMED = 4
"""As many hosts are named in a message; more are counted."""


def _any_host(problem: Problem) -> str:
    names = [worker.name for worker in problem.workers]
    if len(names) == 1:
        return names[0]
    return f"any of {', '.join(names)}" if len(names) <= NAMED else f"any of the {len(names)} hosts"


def _all_hosts(problem: Problem) -> str:
    names = [worker.name for worker in problem.workers]
    if len(names) == 1:
        return names[0]
    return f"{', '.join(names)} together" if len(names) <= NAMED else f"all {len(names)} hosts together"


def _operations(first: int, last: int) -> str:
    return f"operation {first}" if first == last else f"operations {first} to {last}"


def _stages(count: int) -> str:
    return f"{count} stage" if count == 1 else f"{count} stages"


def no_workers(problem: Problem) -> InfeasibleError | None:
    """The error for a problem without workers, else None."""
    if problem.workers:
        return None
    return InfeasibleError(
        "no host is left to hold a stage", remedy=f"add at least one host besides {problem.dispatcher}"
    )


def no_way(problem: Problem) -> InfeasibleError | None:
    """The error where nobody hears the dispatcher, or it hears nobody; else None."""
    dispatcher = problem.dispatcher
    remedy = f"link {dispatcher} to a host, or to a switch that hosts are linked to"
    names = [worker.name for worker in problem.workers]
    if not any(usable_path(problem, dispatcher, name) for name in names):
        return InfeasibleError(f"{dispatcher} can't reach {_any_host(problem)}", remedy=remedy)
    if not any(usable_path(problem, name, dispatcher) for name in names):
        return InfeasibleError(f"{dispatcher} can't be reached from {_any_host(problem)}", remedy=remedy)
    return None


def _segment_too_large(problem: Problem, resource: str) -> InfeasibleError | None:
    """Some segment, which can't be cut, fits no host."""
    worst: tuple[int, int, Worker] | None = None
    for segment in range(problem.chain.segments):
        best: tuple[int, Worker] | None = None
        for worker in problem.workers:
            limit = limit_bytes(worker, resource)
            if limit is None:
                best = None
                break
            short = need_bytes(problem, worker, resource, segment, segment + 1) - limit
            if best is None or short < best[0]:
                best = (short, worker)
        if best is not None and best[0] > 0 and (worst is None or best[0] > worst[0]):
            worst = (best[0], segment, best[1])
    if worst is None:
        return None
    short, segment, worker = worst
    need = need_bytes(problem, worker, resource, segment, segment + 1)
    ops = problem.chain.boundary_ops
    return InfeasibleError(
        f"the largest indivisible segment ({_operations(ops[segment], ops[segment + 1] - 1)}) needs "
        f"{format_size(need)} of {resource}{overhead_words(worker, resource)}; "
        f"the best host for it, {worker.name}, has {format_size(need - short)}: short by {format_size(short)}",
        remedy=f"give {worker.name} at least {enough(need)} of {resource}, or split the model finer",
    )


def _several_stages(problem: Problem) -> InfeasibleError | None:
    """The error where hosts may hold several stages: how much they hold follows from sums alone, else from a search."""
    if problem.stages_per_host == 1:
        return None
    need = sum(problem.chain.weight_bytes)
    for resource in ("memory", "storage"):
        limits = [limit_bytes(worker, resource) for worker in problem.workers]
        own = [need_bytes(problem, worker, resource, 0, 0) for worker in problem.workers]
        have = sum(max(limit - taken, 0) for limit, taken in zip(limits, own, strict=True) if limit is not None)
        if None not in limits and have < need:
            besides = " besides the servers' overhead" if resource == "memory" else ""
            return InfeasibleError(
                f"the {resource} of {_all_hosts(problem)} holds {format_size(have)}{besides}, "
                f"the model has {format_size(need)} of weights: short by {format_size(need - have)}",
                remedy=f"give the hosts more {resource}, or add hosts",
            )
    return InfeasibleError(
        f"no cuts of the model fit {_all_hosts(problem)} as they are linked, with at most "
        f"{_stages(problem.stages_per_host)} a host and {_stages(problem.most_stages)} in all",
        remedy="give the hosts more memory or storage, add hosts, or allow more stages",
    )


def _too_little_together(problem: Problem, resource: str, deadline: Deadline) -> InfeasibleError | None:
    """The hosts' largest stages, each alone, don't add up to the model's weights."""
    relaxed = replace(
        problem,
        workers=tuple(
            replace(worker, storage_bytes=None) if resource == "memory" else replace(worker, memory_bytes=None)
            for worker in problem.workers
        ),
    )
    instance = Instance.of(relaxed)
    before = instance.weights_before
    largest = sorted(
        (
            int((before[instance.fits_until[kind]] - before).max())
            for kind, group in enumerate(instance.members)
            for _ in group
        ),
        reverse=True,
    )
    have, need = sum(largest[: instance.max_stages]), int(before[-1])
    if have >= need:
        return None
    hosts, short = _all_hosts(problem), format_size(need - have)
    if sum(largest) >= need:
        return InfeasibleError(
            f"with at most {_stages(instance.max_stages)}, the largest that fit hold {format_size(have)} of the "
            f"model's {format_size(need)} of weights: short by {short}",
            remedy=f"allow more stages (there are {len(problem.workers)} hosts), or give the hosts more {resource}",
        )
    besides = " besides activations and server overhead" if resource == "memory" else ""
    try:
        extra = _least_extra_bytes(problem, (resource,), deadline)
    except OutOfTime:
        extra = None
    more = f"more {resource}" if extra is None else f"{enough(extra)} more {resource}"
    return InfeasibleError(
        f"the {resource} of {hosts} holds {format_size(have)} of the model's {format_size(need)} of weights{besides}: "
        f"short by {short}",
        remedy=f"give every host {more}, or add hosts",
    )


def _searched(problem: Problem, deadline: Deadline) -> InfeasibleError:
    """Lift one constraint at a time and see which one lets a plan through.

    Raises:
        OutOfTime: At the deadline.
    """
    stages = _stages(min(problem.max_stages or len(problem.workers), len(problem.workers)))
    if problem.max_stages is not None and _feasible(replace(problem, max_stages=None), deadline):
        least = next(
            allowed
            for allowed in range(problem.max_stages + 1, len(problem.workers) + 1)
            if _feasible(replace(problem, max_stages=allowed), deadline)
        )
        return InfeasibleError(
            f"no plan has at most {stages}; these hosts and links need at least {least}",
            remedy=f"allow {least} stages, or give the hosts more memory",
        )
    for resources in (("memory",), ("storage",), ("memory", "storage")):
        extra = _least_extra_bytes(problem, resources, deadline)
        if extra is not None:
            names = " and ".join(resources)
            return InfeasibleError(
                f"no cut of the model fits the {names} of {_all_hosts(problem)} as they are linked: "
                f"short by {format_size(extra)} a host",
                remedy=f"give every host {enough(extra)} more {names}, or add hosts",
            )
    everything = _with_more(replace(problem, max_stages=None), ("memory", "storage"), _whole_model(problem))
    if _feasible(everything, deadline):
        return InfeasibleError(
            f"no plan has at most {stages} and fits {_all_hosts(problem)} as they are linked; "
            "neither more stages nor more memory alone would help",
            remedy="allow more stages and give the hosts more memory",
        )
    return InfeasibleError(
        f"no chain of hosts leads from {problem.dispatcher} through hosts that could hold the model and back",
        remedy="link the hosts to each other, or to a common switch",
    )


def _least_extra_bytes(problem: Problem, resources: tuple[str, ...], deadline: Deadline) -> int | None:
    """The least more of some resources on every host that lets a plan through; None if no amount does.

    Raises:
        OutOfTime: At the deadline.
    """

    def enough_with(more: int) -> bool:
        return _feasible(_with_more(problem, resources, more), deadline)

    low, high = 1, _whole_model(problem)
    if not enough_with(high):
        return None
    while low < high:
        middle = (low + high) // 2
        if enough_with(middle):
            high = middle
        else:
            low = middle + 1
    return low


def _feasible(problem: Problem, deadline: Deadline) -> bool:
    instance = Instance.of(problem)
    return Decision(instance, deadline).plan(instance.largest_threshold_s()) is not None


def _whole_model(problem: Problem) -> int:
    """Bytes with which any host could hold any stage."""
    overhead = max(worker.overhead_bytes for worker in problem.workers)
    return sum(problem.chain.weight_bytes) + max(problem.chain.activation_bytes) + overhead


def _with_more(problem: Problem, resources: tuple[str, ...], more: int) -> Problem:
    def grown(worker: Worker, name: str) -> int | None:
        limit = limit_bytes(worker, name)
        return limit if limit is None or name not in resources else limit + more

    return replace(
        problem,
        workers=tuple(
            replace(worker, memory_bytes=grown(worker, "memory"), storage_bytes=grown(worker, "storage"))
            for worker in problem.workers
        ),
    )

"""What a decision costs, recomputed from the data alone.

Every strategy ends here, so that no strategy's own shortcuts (prefix sums, tolerances, bounds) reach a plan's figures.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from testbed.planning.energy import compute_energy_j, transfer_energy_j
from testbed.planning.occupation import Transfer, busiest, occupations
from testbed.planning.plan import Assignment, Plan, Stage
from testbed.planning.problem import Path, Problem, Worker
from testbed.units import format_size


def stage_weights_bytes(problem: Problem, first: int, last: int) -> int:
    """Bytes of weights of segments ``first..last-1``; what they take of a host's storage."""
    return sum(problem.chain.weight_bytes[first:last])


def stage_memory_bytes(problem: Problem, worker: Worker, first: int, last: int) -> int:
    """Bytes that segments ``first..last-1`` take on a host: weights, peak live activations, the server's overhead."""
    activations = max(problem.chain.activation_bytes[first:last], default=0)
    return stage_weights_bytes(problem, first, last) + activations + worker.overhead_bytes


def route(problem: Problem, assignments: Sequence[Assignment]) -> tuple[tuple[str, str], ...]:
    """The ``(source, target)`` pairs that a request crosses: into every stage, then back to the dispatcher."""
    hosts = [problem.dispatcher, *(assignment.host for assignment in assignments), problem.dispatcher]
    return tuple(itertools.pairwise(hosts))


def usable_path(problem: Problem, source: str, target: str) -> Path | None:
    """The path between two hosts, or None where they can't talk (no path, or a rate of zero)."""
    path = problem.paths.get((source, target))
    return path if path is not None and path.rate_bps > 0 else None


def _structure(problem: Problem, assignments: Sequence[Assignment], *, skipping: bool) -> Iterator[str]:
    """Faults that leave a decision without a cost."""
    chain = problem.chain
    if not assignments:
        yield "there is no stage"
        return
    names = {worker.name for worker in problem.workers}
    expected = 0
    for index, assignment in enumerate(assignments):
        if assignment.host not in names:
            yield f"stage {index} is on {assignment.host}, which is no worker"
        if assignment.first != expected and not (skipping and chain.may_skip(expected, assignment.first)):
            yield f"stage {index} starts at boundary {assignment.first}, where {expected} is due"
        if assignment.last <= assignment.first:
            yield f"stage {index} is empty"
        expected = assignment.last
    if expected != chain.segments and not (skipping and chain.may_skip(expected, chain.segments)):
        yield f"the last stage ends at boundary {expected}, the model at {chain.segments}"
    for source, target in route(problem, assignments):
        if source != target and usable_path(problem, source, target) is None:
            yield f"{source} can't reach {target}"


def skipped_segments(problem: Problem, assignments: Sequence[Assignment]) -> tuple[tuple[int, int], ...]:
    """Runs of segments ``first..last-1`` that a decision leaves out, in order; empty for one that serves the model."""
    ends = [0, *(at.last for at in assignments)]
    begins = [*(at.first for at in assignments), problem.chain.segments]
    return tuple((end, begin) for end, begin in zip(ends, begins, strict=True) if end < begin)


def violations(problem: Problem, assignments: Sequence[Assignment], *, skipping: bool = False) -> tuple[str, ...]:
    """Every broken constraint in words; empty for a legal decision.

    Args:
        problem: What is planned for.
        assignments: The decision.
        skipping: Whether it may leave segments out, between two boundaries of one residual stream.
    """
    found = list(_structure(problem, assignments, skipping=skipping))
    held: dict[str, list[int]] = {}
    for index, assignment in enumerate(assignments):
        held.setdefault(assignment.host, []).append(index)
        before = assignments[index - 1] if index else None
        if before is not None and (before.host, before.last) == (assignment.host, assignment.first):
            found.append(f"stages {index - 1} and {index} are both on {assignment.host}, and so are one stage")
    workers = {worker.name: worker for worker in problem.workers}
    for host, indices in held.items():
        if len(indices) > problem.stages_per_host:
            allowed = problem.stages_per_host
            found.append(f"{host} holds {len(indices)} stages, {allowed} {'is' if allowed == 1 else 'are'} allowed")
        if host in workers:
            found += _overfull(problem, workers[host], indices, [assignments[index] for index in indices])
    if problem.max_stages is not None and len(assignments) > problem.max_stages:
        found.append(f"{len(assignments)} stages, {problem.max_stages} are allowed")
    return tuple(found)


def _overfull(problem: Problem, worker: Worker, indices: Sequence[int], stages: Sequence[Assignment]) -> Iterator[str]:
    """What a host's stages need beyond what it has. All weights stay; one stage computes at a time."""
    one = len(stages) == 1
    who = f"stage {indices[0]} needs" if one else f"stages {', '.join(map(str, indices))} together need"
    storage = sum(stage_weights_bytes(problem, at.first, at.last) for at in stages)
    peak = max(max(problem.chain.activation_bytes[at.first : at.last], default=0) for at in stages)
    memory = storage + peak + worker.overhead_bytes
    needs = (("memory", memory, worker.memory_bytes), ("storage", storage, worker.storage_bytes))
    for resource, need, limit in needs:
        if limit is not None and need > limit:
            yield (
                f"{who} {format_size(need)} of {resource}, {worker.name} has {format_size(limit)}: "
                f"short by {format_size(need - limit)}"
            )


def evaluate(
    problem: Problem,
    assignments: Sequence[Assignment],
    strategy: str,
    lower_bound_s: float | None,
    planning_s: float,
    *,
    latency_bound_s: float | None = None,
    notes: Sequence[str] = (),
    skipping: bool = False,
) -> Plan:
    """Cost a decision.

    Memory, storage and numbers of stages are not enforced here (see ``violations``), so that a decision that breaks
    them can still be shown. With ``skipping`` it may leave segments out, as in ``violations``.

    Raises:
        ValueError: If the decision has no cost: gaps, empty stages, unknown hosts, hosts that can't talk.
    """
    faults = list(_structure(problem, assignments, skipping=skipping))
    if faults:
        raise ValueError("; ".join(faults))
    chain = problem.chain
    workers = {worker.name: worker for worker in problem.workers}
    legs = [problem.paths.get(pair, Path(math.inf)) for pair in route(problem, assignments)]
    stages = tuple(
        Stage(
            index=index,
            host=at.host,
            first=at.first,
            last=at.last,
            first_op=chain.boundary_ops[at.first],
            last_op=chain.boundary_ops[at.last],
            weights_bytes=stage_weights_bytes(problem, at.first, at.last),
            memory_bytes=stage_memory_bytes(problem, workers[at.host], at.first, at.last),
            compute_s=math.fsum(chain.compute_s[at.first : at.last]) / workers[at.host].speed,
            transfer_bits=chain.boundary_bits[at.first],
            link_s=chain.boundary_bits[at.first] / leg.rate_bps,
        )
        for index, (at, leg) in enumerate(zip(assignments, legs[:-1], strict=True))
    )
    return_bits = chain.boundary_bits[-1]
    return_s = return_bits / legs[-1].rate_bps
    sent_bits = [*(stage.transfer_bits for stage in stages), return_bits]
    receivers = [*range(len(stages)), None]
    transfers = [
        Transfer(*pair, leg, bits, stage)
        for pair, leg, bits, stage in zip(route(problem, assignments), legs, sent_bits, receivers, strict=True)
    ]
    bottleneck = busiest(occupations([(stage.host, stage.compute_s) for stage in stages], transfers))
    parts_s = [*(stage.compute_s for stage in stages), *(stage.link_s for stage in stages), return_s]
    energies = [compute_energy_j(workers[stage.host], stage.compute_s) for stage in stages]
    energies += [transfer_energy_j(leg, bits) for leg, bits in zip(legs, sent_bits, strict=True)]
    prices = [workers[stage.host].price_per_s * stage.compute_s for stage in stages]
    prices += [leg.price_per_bit * bits for leg, bits in zip(legs, sent_bits, strict=True)]

    return Plan(
        strategy=strategy,
        stages=stages,
        return_bits=return_bits,
        return_s=return_s,
        bottleneck_s=bottleneck.busy_s,
        bottleneck=bottleneck.name,
        bottleneck_stage=bottleneck.stage,
        latency_s=math.fsum([*parts_s, *(leg.delay_s for leg in legs)]),
        lower_bound_s=lower_bound_s,
        planning_s=planning_s,
        energy_j=math.fsum(energies),
        cost=math.fsum(prices),
        latency_bound_s=latency_bound_s,
        notes=tuple(notes),
        skipped=tuple(
            (chain.boundary_ops[first], chain.boundary_ops[last])
            for first, last in skipped_segments(problem, assignments)
        ),
    )

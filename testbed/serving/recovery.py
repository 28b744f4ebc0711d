"""What the policies decide: which plan comes next, whether a change pays, and who keeps copies of what.

Pure functions of what the dispatcher knows; :mod:`testbed.serving.epochs` acts on them.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from testbed.planning.advantage import advantage
from testbed.planning.evaluate import evaluate, stage_weights_bytes, violations
from testbed.planning.plan import Assignment, Plan, Strategy
from testbed.planning.problem import Problem, Worker

TOLERANCE = 0.05
"""A plan this much worse than the best one, by what its strategy is for, is preferred when it moves fewer bytes."""

SAME_BYTES = 0.1
"""Of plans that move nearly the fewest bytes, within so much, the one that changes the fewest stages is preferred: what
runs already is not to be stopped for a few kilobytes."""

MAX_RELABELLINGS = 720

Lacks = Mapping[str, Sequence[int]]
"""For each host, of each segment the bytes of weights that it doesn't hold; a host that is missing here holds nothing.
"""


def moved_bytes(problem: Problem, lacks: Lacks, assignments: Sequence[Assignment]) -> int:
    """Bytes of weights that the hosts of a decision lack."""
    return sum(_lacked_bytes(problem, lacks, assignment) for assignment in assignments)


def _lacked_bytes(problem: Problem, lacks: Lacks, at: Assignment) -> int:
    return sum(lacks.get(at.host, problem.chain.weight_bytes)[at.first : at.last])


def transfer_s(problem: Problem, lacks: Lacks, assignments: Sequence[Assignment]) -> float:
    """How long the missing weights take from the dispatcher.

    All of them leave over the dispatcher's own link, whose rate is that of its fastest path at least; each crosses its
    own path.
    """
    source = problem.dispatcher
    rates = [path.rate_bps for (origin, _), path in problem.paths.items() if origin == source]
    shared_s = moved_bytes(problem, lacks, assignments) * 8 / max(rates, default=math.inf)
    bits: dict[str, int] = {}
    for at in assignments:
        bits[at.host] = bits.get(at.host, 0) + _lacked_bytes(problem, lacks, at) * 8
    own_s = [
        lacked / rate if (rate := problem.paths[source, host].rate_bps) else math.inf
        for host, lacked in bits.items()
        if lacked and (source, host) in problem.paths
    ]
    return max([shared_s, *own_s])


def pays(times_better: float, move_s: float, horizon_s: float, gain: float) -> bool:
    """Whether a change to a plan that is so many times better is worth it.

    Compared is what is got within a horizon (requests answered; one after the other, where latency counts): with the
    present plan all the time, and with the new one for what is left of it after ``move_s`` of transfer. The new one
    must be ahead by ``gain``, relative: without such a threshold two plans that are nearly alike would take turns with
    every wobble of a measurement.

    Args:
        times_better: The new plan's advantage (:mod:`testbed.planning.advantage`); infinite if the present plan is no
            longer possible.
        move_s: How long its weights travel.
        horizon_s: The time within which it must pay.
        gain: Relative.
    """
    return math.isinf(times_better) or max(0.0, 1 - move_s / horizon_s) * times_better >= 1 + gain


def _relabellings(problem: Problem, assignments: Sequence[Assignment]) -> Iterator[tuple[Assignment, ...]]:
    """The same cuts on other hosts, as many as are worth trying; what one host has, another one gets."""
    names = [worker.name for worker in problem.workers]
    present = list(dict.fromkeys(at.host for at in assignments))
    for hosts in itertools.islice(itertools.permutations(names, len(present)), MAX_RELABELLINGS):
        yield _moved(assignments, dict(zip(present, hosts, strict=True)))


def _moved(assignments: Sequence[Assignment], to: Mapping[str, str]) -> tuple[Assignment, ...]:
    """The decision with all stages of some hosts on others."""
    return tuple(dataclasses.replace(at, host=to.get(at.host, at.host)) for at in assignments)


def _patched(problem: Problem, previous: Sequence[Assignment]) -> Iterator[tuple[Assignment, ...]]:
    """The previous decision with each lost host replaced by one that is free, or each of its stages by one."""
    live = [worker.name for worker in problem.workers]
    used = {at.host for at in previous}
    stages = [index for index, at in enumerate(previous) if at.host not in live]
    lost = list(dict.fromkeys(previous[index].host for index in stages))
    free = [name for name in live if name not in used]
    for hosts in itertools.islice(itertools.permutations(free, len(lost)), MAX_RELABELLINGS):
        yield _moved(previous, dict(zip(lost, hosts, strict=True)))
    if len(stages) > len(lost):
        for hosts in itertools.islice(itertools.permutations(free, len(stages)), MAX_RELABELLINGS):
            patched = list(previous)
            for index, host in zip(stages, hosts, strict=True):
                patched[index] = dataclasses.replace(patched[index], host=host)
            yield tuple(patched)


def _merged(problem: Problem, previous: Sequence[Assignment]) -> Iterator[tuple[Assignment, ...]]:
    """The previous decision with each lost stage joined to the stage before it or behind it."""
    live = {worker.name for worker in problem.workers}
    survivors = [assignment for assignment in previous if assignment.host in live]
    gaps = [
        [at.first for at in previous if before.last <= at.first <= after.first] or [after.first]
        for before, after in itertools.pairwise(survivors)
    ]
    if not survivors:
        return
    for cuts in itertools.islice(itertools.product(*gaps), MAX_RELABELLINGS):
        bounds = [0, *cuts, problem.chain.segments]
        yield _joined(
            Assignment(at.host, first, last)
            for at, (first, last) in zip(survivors, itertools.pairwise(bounds), strict=True)
        )


def _joined(assignments: Iterable[Assignment]) -> tuple[Assignment, ...]:
    """The decision with stages of one host that follow each other as one."""
    found: list[Assignment] = []
    for at in assignments:
        if found and found[-1].host == at.host:
            found[-1] = dataclasses.replace(found[-1], last=at.last)
        else:
            found.append(at)
    return tuple(found)


def replan(
    problem: Problem,
    strategy: Strategy,
    previous: Sequence[Assignment],
    lacks: Lacks,
    *,
    tolerance: float = TOLERANCE,
) -> Plan:
    """The strategy's plan, or one nearly as fast that moves less.

    Compared are the strategy's own decision, the same cuts on other hosts, and the previous decision with its lost
    hosts replaced, or their stages joined to their neighbours'. Of those within ``tolerance`` (relative) of its own
    one, by what the strategy is for, count those that move the fewest bytes, within 10 %; of these wins the one that
    changes the fewest stages, then the best. An infinite tolerance asks for the least movement, whatever the speed: a
    standby's.

    Raises:
        InfeasibleError: If the hosts that are left can't hold the model.
    """
    best = strategy(problem)
    own = tuple(Assignment(stage.host, stage.first, stage.last) for stage in best.stages)
    candidates = [(moved_bytes(problem, lacks, own), _changed(previous, own), best)]
    for decision in itertools.chain(
        _patched(problem, previous), _merged(problem, previous), _relabellings(problem, own)
    ):
        if not violations(problem, decision):
            plan = evaluate(problem, decision, best.strategy, best.lower_bound_s, best.planning_s)
            candidates.append((moved_bytes(problem, lacks, decision), _changed(previous, decision), plan))
    rated = [(*found, advantage(problem, best.strategy, found[2], best)) for found in candidates]
    good = [found for found in rated if found[3] * (1 + tolerance) >= 1]
    fewest_bytes = min(found[0] for found in good)
    light = [found for found in good if found[0] <= fewest_bytes * (1 + SAME_BYTES)]
    return min(light, key=lambda found: (found[1], -found[3], found[2].latency_s))[2]


def takeover(problem: Problem, strategy: str, previous: Sequence[Assignment], lacks: Lacks) -> Plan | None:
    """The previous decision with its lost stages where all of their weights are already; it needs no search.

    Of several such decisions the one that changes the fewest stages wins, then the fastest.

    Args:
        problem: Of the hosts that are left.
        strategy: The name that the plan bears.
        previous: The decision before.
        lacks: What hosts don't hold.

    Returns:
        None if something would have to move.
    """
    found = [
        (_changed(previous, decision), evaluate(problem, decision, strategy, None, 0.0))
        for decision in itertools.chain(_patched(problem, previous), _merged(problem, previous))
        if not moved_bytes(problem, lacks, decision) and not violations(problem, decision)
    ]
    return min(found, key=lambda one: (one[0], one[1].bottleneck_s, one[1].latency_s), default=(0, None))[1]


def _changed(previous: Sequence[Assignment], decision: Sequence[Assignment]) -> int:
    """Stages of a decision that ran nowhere or elsewhere before."""
    return len(set(decision) - set(previous))


def standbys(problem: Problem, decision: Sequence[Assignment], replicas: int) -> dict[str, tuple[Assignment, ...]]:
    """Who is to keep a copy of which stages, besides the stage it runs.

    Each stage is kept by ``replicas`` hosts, or by as many as there is room for. A host without a stage comes first, as
    it can take over at once; then the hosts before and behind in the pipeline, which can join the stage to their own.
    Within each kind the host that keeps fewest bytes so far is taken, and only one whose memory could run the stage.

    Returns:
        For each keeping host the stages, as the decision has them.
    """
    busy = {worker.name: [at for at in decision if at.host == worker.name] for worker in problem.workers}
    used = {
        host: sum(stage_weights_bytes(problem, at.first, at.last) for at in stages) for host, stages in busy.items()
    }
    extra = dict.fromkeys(used, 0)
    kept: dict[str, list[Assignment]] = {}
    for _ in range(replicas):
        for index, at in enumerate(decision):
            weights_bytes = stage_weights_bytes(problem, at.first, at.last)
            beside = {decision[near].host for near in (index - 1, index + 1) if 0 <= near < len(decision)}
            fit = [
                (bool(busy[worker.name]), extra[worker.name], position, worker.name)
                for position, worker in enumerate(problem.workers)
                if (not busy[worker.name] or worker.name in beside)
                and at not in kept.get(worker.name, ())
                and (worker.storage_bytes is None or used[worker.name] + weights_bytes <= worker.storage_bytes)
                and _could_run(problem, worker, [at, *busy[worker.name]])
            ]
            if fit:
                host = min(fit)[-1]
                kept.setdefault(host, []).append(at)
                used[host] += weights_bytes
                extra[host] += weights_bytes
    return {host: tuple(stages) for host, stages in kept.items()}


def _could_run(problem: Problem, worker: Worker, stages: Sequence[Assignment]) -> bool:
    """Whether a host has memory for stages, those that follow each other as one."""
    weights_bytes = sum(stage_weights_bytes(problem, at.first, at.last) for at in stages)
    activations = max(max(problem.chain.activation_bytes[at.first : at.last], default=0) for at in stages)
    return worker.memory_bytes is None or weights_bytes + activations + worker.overhead_bytes <= worker.memory_bytes

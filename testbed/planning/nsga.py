"""A front by NSGA-II (pymoo) where there are too many plans to label: good plans that don't beat each other, no proof.

As in CNNParted a genome holds cut positions and hosts, with simulated binary crossover (0.9, eta 15) and polynomial
mutation (eta 20). Unlike there no genome is malformed: cuts are sorted, equal ones leave out a stage, and hosts are
ordered by random keys, so that none comes twice. What breaks memory, storage or reach is worse by how much it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from testbed.errors import UsageError
from testbed.planning.deadline import Deadline, OutOfTime
from testbed.planning.evaluate import evaluate, route, stage_memory_bytes, stage_weights_bytes, usable_path
from testbed.planning.instance import Floats
from testbed.planning.plan import Assignment
from testbed.planning.problem import Problem
from testbed.planning.tradeoff import figures, nondominated

POPULATION = 60
GENERATIONS = 150

Decision = tuple[Assignment, ...]


class Genome:
    """From vectors of numbers to decisions and back: ``stages - 1`` cuts, then a key for each worker."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        workers = len(problem.workers)
        self._segments = problem.chain.segments
        self.stages = min(workers, self._segments, problem.max_stages or workers)
        self.length = self.stages - 1 + workers
        cuts = self.stages - 1
        self.lowest = np.zeros(self.length)
        self.highest = np.array([self._segments] * cuts + [1.0] * workers, dtype=np.float64)

    def decode(self, numbers: Floats) -> Decision:
        """The decision of a genome; always one run of stages over the whole chain on distinct hosts."""
        cuts = sorted(int(cut) for cut in np.rint(numbers[: self.stages - 1]))
        hosts = np.argsort(numbers[self.stages - 1 :], kind="stable")
        bounds = [0, *cuts, self._segments]
        workers = self._problem.workers
        return tuple(
            Assignment(workers[int(hosts[index])].name, bounds[index], bounds[index + 1])
            for index in range(self.stages)
            if bounds[index] < bounds[index + 1]
        )

    def encode(self, decision: Decision) -> Floats:
        """A genome of a decision of at most ``stages`` stages."""
        numbers = np.full(self.length, 1.0)
        numbers[: self.stages - 1] = self._segments
        index = {worker.name: place for place, worker in enumerate(self._problem.workers)}
        for place, assignment in enumerate(decision):
            if place:
                numbers[place - 1] = assignment.first
            numbers[self.stages - 1 + index[assignment.host]] = place / (len(decision) + 1)
        return numbers


def shortage(problem: Problem, decision: Decision) -> float:
    """How far a decision is from legal: relative excess of memory and storage, and pairs of hosts that can't talk."""
    workers = {worker.name: worker for worker in problem.workers}
    total = float(sum(usable_path(problem, *pair) is None for pair in route(problem, decision)))
    for at in decision:
        worker = workers[at.host]
        for need, limit in (
            (stage_memory_bytes(problem, worker, at.first, at.last), worker.memory_bytes),
            (stage_weights_bytes(problem, at.first, at.last), worker.storage_bytes),
        ):
            if limit is not None and need > limit:
                total += (need - limit) / max(limit, 1)
    return total


class _Scores:
    """Figures of decisions, each worked out once; the legal ones make the front."""

    def __init__(self, problem: Problem, aims: Sequence[str], deadline: Deadline) -> None:
        self._problem, self._aims, self._deadline = problem, aims, deadline
        self.legal: dict[Decision, tuple[float, ...]] = {}
        self._illegal: dict[Decision, float] = {}

    def of(self, decision: Decision) -> tuple[tuple[float, ...], float]:
        """Figures and shortage; a decision that isn't legal has no figures worth comparing."""
        self._deadline.check()
        if decision not in self.legal and decision not in self._illegal:
            short = shortage(self._problem, decision)
            if short:
                self._illegal[decision] = short
            else:
                found = figures(self._problem, evaluate(self._problem, decision, "pareto", None, 0.0))
                self.legal[decision] = tuple(found[aim] for aim in self._aims)
        if decision in self.legal:
            return self.legal[decision], 0.0
        return (0.0,) * len(self._aims), self._illegal[decision]


def evolve(problem: Problem, aims: Sequence[str], seeds: Sequence[Decision], deadline: Deadline) -> list[Decision]:
    """Legal decisions that don't beat each other, out of all that were tried until the deadline.

    Args:
        problem: With at least one worker; its ``seed`` drives every draw.
        aims: Names out of ``AIMS``.
        seeds: Legal decisions to begin with, such as the best in one aim.
        deadline: When to stop; what was found until then counts.

    Raises:
        UsageError: If pymoo isn't installed.
    """
    algorithm, population = _algorithm()
    genome, scores = Genome(problem), _Scores(problem, aims, deadline)
    try:
        for decision in seeds:
            scores.of(decision)
        if genome.length > 1:
            random = np.random.default_rng(problem.seed)
            first = random.uniform(genome.lowest, genome.highest, (POPULATION, genome.length))
            for row, decision in zip(first, seeds, strict=False):
                row[:] = genome.encode(decision)
            _generations(algorithm, population, genome, scores, first, problem.seed)
    except OutOfTime:
        pass
    decisions = list(scores.legal)
    if not decisions:
        return []
    mask = nondominated(np.array([scores.legal[decision] for decision in decisions]))
    return [decision for decision, stays in zip(decisions, mask, strict=True) if stays]


def _generations(algorithm: Any, space: Any, genome: Genome, scores: _Scores, first: Floats, seed: int) -> None:
    """Let pymoo breed, and score what it asks for.

    Raises:
        OutOfTime: At the deadline.
    """
    count = len(scores.of(genome.decode(first[0]))[0])
    box = space(n_var=genome.length, n_obj=count, n_ieq_constr=1, xl=genome.lowest, xu=genome.highest)
    search = algorithm(first)
    search.setup(box, termination=("n_gen", GENERATIONS), seed=seed, verbose=False)
    while search.has_next():
        asked = search.ask()
        scored = [scores.of(genome.decode(numbers)) for numbers in asked.get("X")]
        asked.set("F", np.array([values for values, _ in scored]))
        asked.set("G", np.array([[short] for _, short in scored]))
        for individual in asked:
            individual.evaluated.update(("F", "G"))
        search.tell(infills=asked)


def _algorithm() -> tuple[Any, Any]:
    """NSGA-II for a first population, and pymoo's class of problems.

    Raises:
        UsageError: If pymoo isn't installed.
    """
    try:
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.core.problem import Problem as Space
        from pymoo.operators.crossover.sbx import SBX
        from pymoo.operators.mutation.pm import PM
    except ImportError:
        raise UsageError(
            "this problem has too many plans to list, and NSGA-II needs pymoo, which isn't installed",
            remedy="install the extra: pip install 'edge-inference-testbed[pareto]'; or allow fewer stages "
            "(placement.max_stages), or weigh fewer aims",
        ) from None

    def nsga2(first: Floats) -> Any:
        return NSGA2(
            pop_size=len(first),
            sampling=first,
            crossover=SBX(prob=0.9, eta=15),
            mutation=PM(eta=20),
            eliminate_duplicates=True,
        )

    return nsga2, Space

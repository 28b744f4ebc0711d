"""Does ``exact`` prove its plans, in time, and what is planning cuts and hosts together worth?

Five models on five families of clusters with compute and the dispatcher's links; a family at the edge of its memory,
where a proof takes longer than anyone waits; and 20 unequal boards on a star, against schemes that cut first and place
afterwards. With two stages a host loads add up, and a proof is often out of reach: there it counts that models of few
segments are proven, that nothing is worse than with one stage, and that bound and time limit are kept. Times, and time
limits, are CPU seconds of one thread, which other load on the machine hardly changes.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from benchmarks.planning_clusters import FAMILIES, HARD, Model, attempt, models, problem
from benchmarks.planning_rows import Options, Row
from testbed.errors import InfeasibleError
from testbed.planning import even, exact
from testbed.planning.evaluate import violations
from testbed.planning.instance import Instance
from testbed.planning.minsum import MinSum
from testbed.planning.plan import Assignment, Plan
from testbed.planning.problem import Chain, Problem

HOSTS = (5, 10, 20, 50)
LIMIT_S = 10.0
PROVEN_SHARE = 0.99
MEDIAN_S = 0.1
P95_S = 1.0
SHORT_LIMIT_S = 0.5
OVERRUN = 1.05
STEP_S = 0.25
"""What the search does between two looks at the clock, and the costing of its plan, at 50 hosts."""

SEVERAL_HOSTS = (5, 10, 20)
SEVERAL_HOSTS_QUICK = (5, 10)
SEVERAL_LIMIT_S = 5.0
SEVERAL_PROVEN_SHARE = 0.65
"""Measured: 0.8. What isn't proven is mostly the compute of few hosts, where segments must add up like coins."""
COARSE_SEGMENTS = 12

UNEQUAL_HOSTS = 20
UNEQUAL_RATIO = 1.3
TOLERANCE = 1e-9
EVEN_BEST = "best even cuts, optimal hosts"
BEST = "best of the papers' schemes"


def rows(options: Options) -> Iterator[Row]:
    """All questions."""
    chosen = models(options.paper, options.seed)
    for model in chosen:
        yield Row("exact", model.name, "segments", model.chain.segments, note=model.origin)
    yield from _families(chosen, 3 if options.quick else 12, options.seed)
    yield from _hard(chosen, options)
    hosts, instances = (SEVERAL_HOSTS_QUICK, 1) if options.quick else (SEVERAL_HOSTS, 3)
    yield from _several(chosen, instances, hosts, options.seed)
    yield from _unequal(chosen, 3 if options.quick else 10, options.seed)


def legal(posed: Problem, plan: Plan) -> bool:
    """Whether the plan breaks no constraint."""
    return not violations(posed, [Assignment(stage.host, stage.first, stage.last) for stage in plan.stages])


def _families(chosen: Sequence[Model], instances: int, seed: int) -> Iterator[Row]:
    """Proven share and times; problems without a plan are counted, not timed."""
    everything: list[float] = []
    proven_in_all = 0
    for family, hosts in itertools.product(FAMILIES, HOSTS):
        times: list[float] = []
        proven = infeasible = 0
        for number, (index, model) in itertools.product(range(instances), enumerate(chosen)):
            rng = np.random.default_rng((seed, FAMILIES.index(family), hosts, number, index))
            posed = problem(family, hosts, model.chain, rng, LIMIT_S)
            started_s = time.process_time()
            plan = attempt(posed, "exact")
            elapsed_s = time.process_time() - started_s
            if isinstance(plan, InfeasibleError) and "within" not in plan.message:
                infeasible += 1
                continue
            times.append(elapsed_s)
            proven += isinstance(plan, Plan) and plan.gap == 0 and legal(posed, plan)
        everything += times
        proven_in_all += proven
        yield Row(
            "exact",
            f"{family}, {hosts} hosts",
            "median CPU s",
            float(np.median(times)) if times else math.nan,
            note=f"p95 {np.quantile(times, 0.95):.2f}, max {max(times):.2f}; {proven} of {len(times)} proven"
            f"; {infeasible} have no plan"
            if times
            else f"{infeasible} have no plan",
        )
    case = f"{len(everything)} feasible instances"
    yield Row("exact", case, "proven and legal share", proven_in_all / len(everything), low=PROVEN_SHARE)
    yield Row("exact", case, "median CPU s", float(np.median(everything)), high=MEDIAN_S)
    yield Row("exact", case, "p95 CPU s", float(np.quantile(everything, 0.95)), high=P95_S)
    yield Row("exact", case, "max CPU s", max(everything), high=LIMIT_S * OVERRUN)


def _hard(chosen: Sequence[Model], options: Options) -> Iterator[Row]:
    """Unequal memory within 2 % of the edge: the limit is kept, the bound is honest, the gap is what it says."""
    few = [model for model in chosen if model.name in ("resnet50", "inception_resnet_v2")]
    for hosts, model in itertools.product((10, 20, 50), few if options.quick else chosen):
        rng = np.random.default_rng((options.seed, hosts))
        posed = problem(HARD, hosts, model.chain, rng, LIMIT_S)
        case = f"{HARD}, {hosts} hosts, {model.name}"
        started_s = time.process_time()
        plan = attempt(posed, "exact")
        elapsed_s = time.process_time() - started_s
        gap = plan.gap if isinstance(plan, Plan) else None
        said = "no plan in time, and it says so" if gap is None else f"gap {gap:.1%}" if gap else "proven"
        yield Row("exact", case, "CPU s", elapsed_s, high=LIMIT_S * OVERRUN, note=said)
        if not isinstance(plan, Plan) or plan.lower_bound_s is None:
            continue
        # A bound is a claim on every plan: no other strategy, and no shorter search's bound, may contradict it.
        found = [plan.bottleneck_s]
        found += [
            other.bottleneck_s
            for name in ("random", "joint-greedy", "k-path", "even", "single")
            if isinstance(other := attempt(replace(posed, time_limit_s=SHORT_LIMIT_S), name), Plan)
        ]
        started_s = time.process_time()
        short = attempt(replace(posed, time_limit_s=SHORT_LIMIT_S), "exact")
        elapsed_s = time.process_time() - started_s
        bounds, said = [plan.lower_bound_s], "no plan in time, and it says so"
        if isinstance(short, Plan) and short.lower_bound_s is not None:
            found.append(short.bottleneck_s)
            bounds.append(short.lower_bound_s)
            said = f"gap {short.gap:.1%}" if short.gap else "proven"
        case_short = f"limit {SHORT_LIMIT_S} s: CPU s"
        yield Row("exact", case, case_short, elapsed_s, high=SHORT_LIMIT_S + STEP_S, note=said)
        worst = max(bounds) / min(found)
        yield Row("exact", case, "largest bound / best plan", worst, high=1 + TOLERANCE, note="legal" if
                  legal(posed, plan) else "ILLEGAL", low=0.0 if legal(posed, plan) else math.inf)  # fmt: skip


def _several(chosen: Sequence[Model], instances: int, counts_of_all: Sequence[int], seed: int) -> Iterator[Row]:
    """Two stages a host, on the families; models of few segments first, which must all be proven."""
    for segments, counts in ((COARSE_SEGMENTS, (5,)), (None, counts_of_all)):
        times, gaps, gains = [], [], []
        for hosts in counts:
            taken: list[float] = []
            shares: list[float] = []
            for family, number, (index, model) in itertools.product(FAMILIES, range(instances), enumerate(chosen)):
                chain = model.chain if segments is None else coarse(model.chain, segments)
                rng = np.random.default_rng((seed, FAMILIES.index(family), hosts, number, index))
                posed = problem(family, hosts, chain, rng, SEVERAL_LIMIT_S)
                several = replace(posed, stages_per_host=2)
                started_s = time.process_time()
                plan = attempt(several, "exact")
                elapsed_s = time.process_time() - started_s
                one = attempt(posed, "exact")
                if isinstance(plan, InfeasibleError):
                    # Without a plan it must be for the same reason with one stage, which is legal with two.
                    gains += [0.0] if isinstance(one, Plan) else []
                    continue
                taken.append(elapsed_s)
                shares.append(math.inf if plan.gap is None or not legal(several, plan) else plan.gap)
                gains.append(one.bottleneck_s / plan.bottleneck_s if isinstance(one, Plan) else math.inf)
            times += taken
            gaps += shares
            yield Row(
                "exact",
                f"2 stages a host, {segments or 'all'} segments, {hosts} hosts",
                "median CPU s",
                float(np.median(taken)),
                note=f"p95 {np.quantile(taken, 0.95):.2f}; {shares.count(0)} of {len(shares)} proven, "
                f"largest gap {max(shares):.1%}",
            )
        case = f"2 stages a host, {segments or 'all'} segments: {len(times)} instances"
        bar = SEVERAL_PROVEN_SHARE if segments is None else 1.0
        finite = [gain for gain in gains if math.isfinite(gain)]
        note = f"better on {sum(gain > 1 + TOLERANCE for gain in gains)}, by up to {max(finite) - 1:.1%}"
        yield Row("exact", case, "proven share", gaps.count(0) / len(gaps), low=bar)
        yield Row("exact", case, "largest gap", max(gaps), note="of the best plan over the bound")
        yield Row("exact", case, "max CPU s", max(times), high=SEVERAL_LIMIT_S * OVERRUN)
        yield Row("exact", case, "least one stage / two", min(gains), low=1 - TOLERANCE, note=note)


def coarse(model: Chain, segments: int) -> Chain:
    """The chain with as many segments, of about as much compute each."""
    return merged(model, even.partition(model.compute_s, segments))


def merged(model: Chain, boundaries: Sequence[int]) -> Chain:
    """The chain with a segment a stage, so that only its placement is left to plan."""
    pairs = list(itertools.pairwise(boundaries))
    return Chain(
        boundary_ops=tuple(model.boundary_ops[boundary] for boundary in boundaries),
        boundary_bits=tuple(model.boundary_bits[boundary] for boundary in boundaries),
        weight_bytes=tuple(sum(model.weight_bytes[a:b]) for a, b in pairs),
        activation_bytes=tuple(max(model.activation_bytes[a:b]) for a, b in pairs),
        compute_s=tuple(math.fsum(model.compute_s[a:b]) for a, b in pairs),
    )


def placed_s(posed: Problem, cuts: Sequence[int]) -> float | None:
    """The least bottleneck of any placement of these stages on distinct hosts; None where they fit nowhere."""
    fixed = replace(posed, chain=merged(posed.chain, cuts))
    instance = Instance.of(fixed)
    # A stage ends at the next boundary or doesn't fit; two may not become one.
    ends = np.minimum(instance.fits_until, np.arange(instance.segments + 1) + 1)
    try:
        return exact.solve(fixed, instance=replace(instance, fits_until=ends)).bottleneck_s
    except InfeasibleError:
        return None


def schemes(posed: Problem) -> dict[str, float]:
    """Bottlenecks of schemes that cut first and place afterwards, by name, where they have a plan.

    "Optimal hosts" are the optimal placement of given cuts, on distinct hosts: as good as a placement can be.
    """
    found = {}
    for name in ("joint-greedy", "k-path", "even"):
        if isinstance(plan := attempt(posed, name), Plan):
            found[name] = plan.bottleneck_s
    try:
        cuts = MinSum().partition(posed, "min-sum")
    except InfeasibleError:
        cuts = ()
    if cuts and (bottleneck_s := placed_s(posed, cuts)) is not None:
        found["min-sum cuts, optimal hosts"] = bottleneck_s
    for stages in range(1, min(len(posed.workers), posed.chain.segments) + 1):
        cuts = even.partition(posed.chain.compute_s, stages)
        if (bottleneck_s := placed_s(posed, cuts)) is not None:
            found[EVEN_BEST] = min(found.get(EVEN_BEST, math.inf), bottleneck_s)
    return found


def _unequal(chosen: Sequence[Model], instances: int, seed: int) -> Iterator[Row]:
    """How much better the joint optimum is than the best scheme, as the geometric mean over instances."""
    ratios: dict[str, list[float]] = {}
    for number, (index, model) in itertools.product(range(instances), enumerate(chosen)):
        rng = np.random.default_rng((seed, number, index))
        posed = problem("types", UNEQUAL_HOSTS, model.chain, rng, LIMIT_S)
        best = attempt(posed, "exact")
        if not isinstance(best, Plan):
            continue
        found = schemes(posed)
        for name, bottleneck_s in found.items():
            ratios.setdefault(name, []).append(bottleneck_s / best.bottleneck_s)
        # Nobody published even cuts with the best number and placement found by search; they are shown, without a bar.
        published = [bottleneck_s for name, bottleneck_s in found.items() if name != EVEN_BEST]
        if published:
            ratios.setdefault(BEST, []).append(min(published) / best.bottleneck_s)
    for name, values in ratios.items():
        yield Row(
            "exact",
            f"{UNEQUAL_HOSTS} boards of 3 classes, star",
            f"{name} / exact",
            float(np.exp(np.mean(np.log(values)))),
            note=f"geometric mean of {len(values)}; {min(values):.2f} to {max(values):.2f}",
            low=UNEQUAL_RATIO if name == BEST else 1 - TOLERANCE,
        )

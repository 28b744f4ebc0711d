"""SEIFER's own grid: do our strategies, with its rules, give its published figures, and what is the optimum there?

Every cell (model, memory, hosts) is planned on the same drawn graphs by every strategy, under SEIFER's published rules
and under the corrected ones. A published figure is the mean over 50 graphs of its authors; ours must lie within the
sampling error of both. Of right figures 95 % lie in their own 95 % intervals, so each row's bar is the interval that
holds all rows at once with 95 % (Šidák), and another row counts those outside their own.
"""

from __future__ import annotations

import csv
import math
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from statistics import NormalDist

import numpy as np

from benchmarks.planning_rows import Options, Row
from testbed.errors import InfeasibleError
from testbed.planning import joint_greedy, k_path, random_plan
from testbed.planning.minsum import MinSum
from testbed.planning.plan import Plan
from testbed.planning.problem import Problem
from testbed.planning.published import (
    LayerGraph,
    chain,
    exact_under,
    load_layer_graphs,
    mean_bottleneck_s,
    problem,
    scattered_rates_bps,
)
from testbed.planning.seifer import CLASSES, CORRECTED, PUBLISHED, SeiferRules, farthest_ends

PUBLISHED_GRAPHS = 50
CONFIDENCE = 0.95
EXACT_LIMIT_S = 60.0
QUIRK_NODES = 20
ALGORITHMS = ("k-path", "joint-greedy", "random")

Outcome = float | InfeasibleError


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """A column of the grid."""

    model: str
    nodes: int
    capacity_mib: int

    def __str__(self) -> str:
        return f"{self.model} {self.capacity_mib} MiB, {self.nodes} hosts"


@dataclass(frozen=True, slots=True)
class Figure:
    """A published mean; ``classes`` is None where the algorithm has none."""

    algorithm: str
    cell: Cell
    classes: int | None
    bottleneck_s: float


@dataclass(slots=True)
class Measured:
    """What came of a cell: bottlenecks by algorithm and classes, a number a graph.

    Attributes:
        outcomes: Bottlenecks, or why there is none.
        exact_s: The optimum's.
        proven: How many of those are proven.
        worst: The largest of exact's bottleneck over that of a plan that fits; at most 1 if exact is right.
        misfits: Plans with a stage that doesn't fit its host by the very rules.
    """

    outcomes: dict[tuple[str, int | None], list[Outcome]] = field(default_factory=dict)
    exact_s: list[Outcome] = field(default_factory=list)
    proven: int = 0
    worst: float = 0.0
    misfits: int = 0


def read_figures(file: Path) -> tuple[Figure, ...]:
    """The published grid."""
    with file.open(newline="", encoding="utf-8") as lines:
        return tuple(
            Figure(
                row["algorithm"],
                Cell(row["model"], int(row["nodes"]), int(row["capacity_mib"])),
                int(row["bandwidth_classes"]) if row["bandwidth_classes"] else None,
                float(row["bottleneck_s"]),
            )
            for row in csv.DictReader(lines)
        )


class Planner:
    """One model under one set of rules; its partitioners live as long as the authors' notebooks."""

    def __init__(self, graph: LayerGraph, rules: SeiferRules) -> None:
        self.rules = rules
        self._chain = chain(graph, rules)
        self._greedy, self._k_path = MinSum(rules), MinSum(rules)

    def problem(self, cell: Cell, number: int, seed: int) -> Problem:
        """Graph ``number`` of the cell; the same hosts for all models, memories and rules."""
        rates = scattered_rates_bps(cell.nodes + 1, np.random.default_rng((seed, cell.nodes, number)))
        # Graphs are shared, but each cell draws its own cuts and colours, else the errors of all cells were one.
        own = int(np.random.default_rng((seed, cell.nodes, cell.capacity_mib, number, 1)).integers(2**31))
        return problem(self._chain, cell.capacity_mib, rates, self.rules, seed=own, time_limit_s=EXACT_LIMIT_S)

    def order(self, posed: Problem, classes: int) -> tuple[int, ...]:
        """The order of classes among the chosen transfers, which is all that k-path takes from their number."""
        boundaries = self._k_path.partition(posed, "k-path")
        sizes = posed.chain.boundary_bits[1 if self.rules.dispatcher_ignored else 0 :]
        chosen = [posed.chain.boundary_bits[boundary] for boundary in boundaries]
        numbers = k_path.classify(chosen, sizes, classes, self.rules)
        return (max(numbers) > classes, *np.unique(numbers, return_inverse=True)[1].tolist())

    def plan(self, posed: Problem, algorithm: str, classes: int | None) -> Plan | InfeasibleError:
        """What the algorithm makes of it."""
        try:
            if algorithm == "random":
                return random_plan.solve(posed, self.rules)
            if algorithm == "joint-greedy":
                return joint_greedy.solve(posed, self.rules, self._greedy)
            return k_path.solve(posed, self.rules, classes or CLASSES, self._k_path)
        except InfeasibleError as error:
            return error

    def exact(self, posed: Problem) -> Plan | InfeasibleError:
        """The optimum under the same rules."""
        try:
            return exact_under(posed, self.rules)
        except InfeasibleError as error:
            return error


def measure(
    planner: Planner,
    cell: Cell,
    asked: Sequence[tuple[str, int | None]],
    graphs: int,
    exact_graphs: int,
    seed: int,
) -> Measured:
    """Plan the cell on so many graphs, on the first ones of them exactly as well."""
    found = Measured(outcomes={key: [] for key in asked})
    for number in range(graphs):
        posed = planner.problem(cell, number, seed)
        best = planner.exact(posed) if number < exact_graphs else None
        reach = farthest_ends(posed, planner.rules)
        if best is not None:
            found.exact_s.append(best if isinstance(best, InfeasibleError) else best.bottleneck_s)
            found.proven += isinstance(best, InfeasibleError) or best.gap == 0
        known: dict[tuple[int, ...], Plan | InfeasibleError] = {}
        for key in asked:
            if key[0] == "k-path":
                order = planner.order(posed, key[1] or CLASSES)
                plan = known[order] = known.get(order) or planner.plan(posed, *key)
            else:
                plan = planner.plan(posed, *key)
            if isinstance(plan, InfeasibleError):
                found.outcomes[key].append(plan)
                continue
            found.outcomes[key].append(plan.bottleneck_s)
            if best is None:
                continue
            if any(stage.last > reach[stage.first] for stage in plan.stages):
                found.misfits += 1
            elif isinstance(best, InfeasibleError):
                found.worst = math.inf
            elif plan.bottleneck_s:
                found.worst = max(found.worst, best.bottleneck_s / plan.bottleneck_s)
    return found


def rows(options: Options) -> Iterator[Row]:
    """The grid under the published rules, each slip's part, the grid under the corrected rules."""
    if options.paper is None:
        yield Row("seifer", "not measured", "published data", math.nan, note="give --paper DIR")
        return
    graphs = load_layer_graphs(options.paper / "layer_graphs.json")
    figures = read_figures(options.paper / "seifer_bottleneck.csv")
    count, exact_count = (100, 50) if options.quick else (600, 200)
    cells = sorted({figure.cell for figure in figures})
    asked = {cell: [(f.algorithm, f.classes) for f in figures if f.cell == cell] for cell in cells}

    headline: list[tuple[str, int | None]] = [("k-path", CLASSES), ("joint-greedy", None), ("random", None)]
    shown = [cell for cell in cells if cell.nodes == QUIRK_NODES and ("random", None) in asked[cell]]
    # Nothing is timed here, so all CPUs may work; a model's cells stay together, as their partitioners remember.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:

        def grid(rules: SeiferRules, wanted: Asked, graphs_each: int) -> Grid:
            return {
                name: pool.submit(_model, graph, rules, of_model, graphs_each, exact_count, options.seed)
                for name, graph in graphs.items()
                if (of_model := {cell: keys for cell, keys in wanted.items() if cell.model == name})
            }

        published = grid(PUBLISHED, asked, count)
        corrected = grid(CORRECTED, dict.fromkeys(cells, headline), exact_count)
        slips = [pool.submit(_slips, graphs[cell.model], cell, PUBLISHED_GRAPHS, options.seed) for cell in shown]

        measured = _gathered(published, cells)
        yield from _reproduction(figures, measured, count)
        yield from _optimality("published rules", measured)
        for found in slips:
            yield from found.result()
        measured = _gathered(corrected, cells)
        for cell in cells:
            yield from _means(f"{cell}", "corrected", measured[cell], CORRECTED)
        yield from _optimality("corrected rules", measured)


Asked = Mapping[Cell, Sequence[tuple[str, int | None]]]
"""Of each cell the algorithms, with their classes."""

Grid = Mapping[str, Future[Mapping[Cell, Measured]]]
"""The measured cells of each model."""


def _model(
    graph: LayerGraph,
    rules: SeiferRules,
    asked: Asked,
    graphs: int,
    exact_graphs: int,
    seed: int,
) -> Mapping[Cell, Measured]:
    """All cells of a model, with one planner."""
    planner = Planner(graph, rules)
    return {cell: measure(planner, cell, keys, graphs, exact_graphs, seed) for cell, keys in asked.items()}


def _gathered(grid: Grid, cells: Sequence[Cell]) -> dict[Cell, Measured]:
    """The cells in this order, once they are measured."""
    return {cell: grid[cell.model].result()[cell] for cell in cells}


def _reproduction(figures: Sequence[Figure], measured: dict[Cell, Measured], count: int) -> Iterator[Row]:
    """A row a published figure."""
    above_zero = sum(figure.bottleneck_s > 0 for figure in figures)
    wide = NormalDist().inv_cdf((1 + CONFIDENCE ** (1 / above_zero)) / 2)
    narrow = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    inside = 0
    for figure in figures:
        outcomes = measured[figure.cell].outcomes[figure.algorithm, figure.classes]
        mean, error, _ = mean_bottleneck_s(outcomes, PUBLISHED)
        # The authors' mean has the error of 50 graphs, ours that of ``count``; both draw from the same distribution.
        both = error * math.sqrt(1 + count / PUBLISHED_GRAPHS)
        off = 0.0 if mean == figure.bottleneck_s else (mean - figure.bottleneck_s) / both if both else math.inf
        if figure.bottleneck_s:
            inside += abs(off) <= narrow
        classes = f", {figure.classes} classes" if figure.classes else ""
        yield Row(
            "seifer",
            f"{figure.cell}",
            f"{figure.algorithm}{classes}: mean s",
            mean,
            figure.bottleneck_s - wide * both,
            figure.bottleneck_s + wide * both,
            figure.bottleneck_s,
            f"{off:+.2f} standard errors" + ("" if abs(off) <= narrow else ", outside its own 95 % interval"),
        )
    expected = above_zero * (1 - CONFIDENCE)
    yield Row(
        "seifer",
        f"{above_zero} published figures above 0",
        "outside their own 95 % interval",
        above_zero - inside,
        # Rows of a cell share our graphs, so the number spreads more than a binomial one.
        high=2 * expected,
        reference=expected,
        note="reference: what chance alone would give",
    )


def _means(case: str, rules_name: str, measured: Measured, rules: SeiferRules) -> Iterator[Row]:
    """A row an algorithm, without a bar; the optimum's mean on the graphs where both have a plan as reference."""
    for (algorithm, _), outcomes in measured.outcomes.items():
        mean, _, answered = mean_bottleneck_s(outcomes, rules)
        optimum = [
            best
            for best, outcome in zip(measured.exact_s, outcomes, strict=True)
            if isinstance(best, float) and isinstance(outcome, float)
        ]
        failed = len(outcomes) - answered
        yield Row(
            "seifer",
            case,
            f"{algorithm}, {rules_name}: mean s",
            mean,
            reference=float(np.mean(optimum)) if optimum else math.nan,
            note=f"reference: exact on {len(optimum)} graphs"
            + (f"; no plan on {failed} of {len(outcomes)} graphs" if failed else ""),
        )


def _optimality(name: str, measured: dict[Cell, Measured]) -> Iterator[Row]:
    """Is exact ever worse, is it always proven?"""
    for cell, found in measured.items():
        misfits = f"; {found.misfits} plans left out, whose stages don't fit by these rules" if found.misfits else ""
        case = f"{cell}"
        yield Row("seifer", case, f"{name}: worst exact/other", found.worst, high=1 + 1e-9, note=f"paired{misfits}")
        yield Row("seifer", case, f"{name}: proven share", found.proven / len(found.exact_s), low=1.0)


def _slips(graph: LayerGraph, cell: Cell, count: int, seed: int) -> list[Row]:
    """What each slip alone does to the published means: it is corrected, all others stay."""
    rows = []
    before = _slip_means(Planner(graph, PUBLISHED), cell, count, seed)
    for slip in fields(SeiferRules):
        rules = replace(PUBLISHED, **{slip.name: not getattr(PUBLISHED, slip.name)})
        after = _slip_means(Planner(graph, rules), cell, count, seed)
        change = "without" if getattr(PUBLISHED, slip.name) else "with"
        rows += [
            Row(
                "seifer",
                f"{cell}",
                f"{algorithm} {change} {slip.name}",
                after[algorithm],
                reference=before[algorithm],
                note="mean s; reference: as published",
            )
            for algorithm in ALGORITHMS
            if after[algorithm] != before[algorithm]
        ]
    return rows


def _slip_means(planner: Planner, cell: Cell, count: int, seed: int) -> dict[str, float]:
    problems = [planner.problem(cell, number, seed) for number in range(count)]
    found = {}
    for algorithm in ALGORITHMS:
        plans = [planner.plan(posed, algorithm, CLASSES) for posed in problems]
        outcomes = [plan if isinstance(plan, InfeasibleError) else plan.bottleneck_s for plan in plans]
        found[algorithm] = mean_bottleneck_s(outcomes, planner.rules)[0]
    return found

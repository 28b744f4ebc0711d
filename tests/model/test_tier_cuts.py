"""Cuts between two tiers against brute force over every set of operations that holds what it reads."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from testbed.model.costs import chain
from testbed.model.executor import StageExecutor
from testbed.model.graph import ModelGraph
from testbed.model.operators import Ref
from testbed.model.tier_cuts import TICKS_PER_S, arranged, tier_cuts
from testbed.model.tracing import Op, Value
from testbed.planning import min_latency
from testbed.planning.adapter import chain_from
from testbed.planning.problem import Path, Problem, Worker

Loaded = Callable[[str], tuple[nn.Module, ModelGraph]]


def drawn(seed: int, *, narrowing: bool = False) -> tuple[ModelGraph, list[float]]:
    """A DAG of up to nine operations, with up to two inputs and two outputs, and times, some of them zero.

    Its tensors are of any size, or shrink from operation to operation more or less.
    """
    draw = random.Random(seed)  # noqa: S311 - no secret

    def value(name: str, place: int = 0) -> Value:
        sizes = (1, 1, 2, 5, 9, 20)
        return Value.of(name, torch.empty(draw.choice(sizes) * (2 ** (9 - place) if narrowing else 1), device="meta"))

    inputs = draw.choice((1, 1, 2))
    values = [value(f"x{i}") for i in range(inputs)]
    ops = []
    for index in range(draw.randint(2, 9)):
        recent = range(max(0, len(values) - 4), len(values))
        reads = tuple(draw.choice(recent) for _ in range(draw.choice((1, 1, 2))))
        op = "aten.relu.default" if len(reads) == 1 else "aten.add.Tensor"
        ops.append(Op(f"op{index}", op, tuple(map(Ref, reads)), {}, reads, (len(values),)))
        values.append(value(f"op{index}", index + 1))
    read = {number for op in ops for number in op.reads}
    outputs = [number for number in range(inputs, len(values)) if number not in read]
    if draw.random() < 0.3:
        outputs.append(draw.choice(range(inputs, len(values))))
    seconds = [draw.choice((0.0, 0.001, 0.004, 0.02)) for _ in ops]
    return ModelGraph(values, inputs, (), ops, list(dict.fromkeys(outputs))), seconds


def legal_sets(graph: ModelGraph) -> Iterator[frozenset[int]]:
    made = {number: index for index, op in enumerate(graph.ops) for number in op.makes}
    needs = [{made[number] for number in op.reads if number in made} for op in graph.ops]
    for size in range(len(graph.ops) + 1):
        for chosen in itertools.combinations(range(len(graph.ops)), size):
            held = frozenset(chosen)
            if all(needs[index] <= held for index in held):
                yield held


def crossing_bits(graph: ModelGraph, held: frozenset[int]) -> int:
    """Counted anew, one value after another."""
    total = 0
    outputs = graph.crossing(len(graph.ops))
    made = {number: index for index, op in enumerate(graph.ops) for number in op.makes}
    for number in range(len(graph.values)):
        outside = any(number in op.reads for index, op in enumerate(graph.ops) if index not in held)
        if (number not in made or made[number] in held) and (outside or number in outputs):
            total += 8 * graph.values[number].bytes
    return total


def test_for_every_weight_the_best_set_is_among_the_cuts() -> None:
    wide = 0
    for seed in range(150):
        graph, seconds = drawn(seed)
        ticks = [round(item * TICKS_PER_S) for item in seconds]
        everything = frozenset(range(len(graph.ops)))
        figures = {held: (sum(ticks[i] for i in held), crossing_bits(graph, held)) for held in legal_sets(graph)}
        cuts = tier_cuts(graph, seconds)
        assert all(cut in figures for cut in cuts), seed
        assert all(small < large for small, large in itertools.pairwise(cuts)), seed
        tried = (frozenset(), *cuts, everything)
        slopes = {Fraction(bits, ticks or 1) for ticks, bits in figures.values()}
        for weight in (Fraction(0), *slopes, *(-slope for slope in slopes), Fraction(10**9), Fraction(-(10**9))):
            best = min(weight * time + bits for time, bits in figures.values())
            assert min(weight * figures[cut][0] + figures[cut][1] for cut in tried) == best, (seed, weight)
        prefixes = {frozenset(range(count)) for count in range(len(graph.ops) + 1)}
        wide += any(cut not in prefixes for cut in cuts)
    assert wide > 20  # cuts that no position of the given order is


def least_over_all_sets_s(graph: ModelGraph, seconds: list[float], problem: Problem) -> float:
    """Two hosts, brute force: every proper set on one, the rest on the other; and all on one."""
    found = []
    sent, back = (problem.chain.boundary_bits[place] for place in (0, -1))
    for first, second in itertools.permutations(problem.workers):
        into, between, out = (
            problem.paths[pair] for pair in (("d", first.name), (first.name, second.name), (second.name, "d"))
        )
        ends_s = sent / into.rate_bps + into.delay_s + back / out.rate_bps + out.delay_s
        for held in legal_sets(graph):
            if not held or len(held) == len(graph.ops):
                continue
            on_first = sum(seconds[index] for index in held)
            found.append(
                ends_s
                + on_first / first.speed
                + (sum(seconds) - on_first) / second.speed
                + crossing_bits(graph, held) / between.rate_bps
                + between.delay_s
            )
        home = problem.paths[first.name, "d"]
        alone_s = sent / into.rate_bps + into.delay_s + back / home.rate_bps + home.delay_s
        found.append(alone_s + sum(seconds) / first.speed)
    return min(found)


def test_two_tiers_get_the_least_latency_over_the_graph() -> None:
    better = compared = 0
    for seed in range(200):
        graph, seconds = drawn(seed)
        draw = random.Random(seed)  # noqa: S311
        # The input arises on the device, as in DNN Surgery.
        workers = (Worker("device", draw.uniform(0.05, 0.5)), Worker("server", draw.uniform(0.5, 4)))
        rate = Path(10 ** draw.uniform(3, 6), 0.0)
        paths = dict.fromkeys(itertools.permutations(("d", "device", "server"), 2), rate)
        paths["d", "device"] = paths["device", "d"] = Path(1e12)
        plain = Problem(chain_from(chain(graph, seconds)), workers, "d", paths)
        found = arranged(graph, seconds)
        wide = chain_from(chain(found.graph, found.op_seconds, also=found.positions))
        plan = min_latency.solve(Problem(wide, workers, "d", paths))
        before_s = min_latency.solve(plain).latency_s
        assert plan.latency_s <= before_s * (1 + 1e-9), seed
        better += plan.latency_s < before_s * (1 - 1e-6)
        least_s = least_over_all_sets_s(graph, seconds, plain)
        # With several inputs the last of them may be read late: the whole on one host is then another question.
        if len(graph.inputs) == 1:
            compared += 1
            assert plan.latency_s == pytest.approx(least_s, rel=1e-7), seed
    assert compared > 80
    assert better > 10


def least_over_three_hosts_s(graph: ModelGraph, seconds: list[float], problem: Problem) -> float:
    """Brute force: every chain of nested sets over one, two and three hosts in every order."""
    count = len(graph.ops)
    sets = list(legal_sets(graph))
    done_s = np.array([sum(seconds[index] for index in held) for held in sets])
    bits = np.array([crossing_bits(graph, held) for held in sets], dtype=float)
    proper = np.array([0 < len(held) < count for held in sets])
    within = np.array([[small < large for large in sets] for small in sets]) & proper[:, None] & proper[None, :]
    whole_s, ends = sum(seconds), [problem.chain.boundary_bits[place] for place in (0, -1)]
    found = []
    for hosts in itertools.chain.from_iterable(itertools.permutations(problem.workers, size) for size in (1, 2, 3)):
        names = ["d", *(host.name for host in hosts), "d"]
        legs = [problem.paths[pair] for pair in itertools.pairwise(names)]
        fixed_s = sum(leg.delay_s for leg in legs) + ends[0] / legs[0].rate_bps + ends[1] / legs[-1].rate_bps
        fixed_s += whole_s / hosts[-1].speed
        # What a set on the hosts up to one saves or costs against having it behind, and what it sends.
        turns = [
            done_s * (1 / host.speed - 1 / after.speed) + bits / leg.rate_bps
            for host, after, leg in zip(hosts[:-1], hosts[1:], legs[1:-1], strict=True)
        ]
        if len(hosts) == 1:
            found.append(fixed_s)
        elif len(hosts) == 2 and proper.any():
            found.append(fixed_s + float(turns[0][proper].min()))
        elif len(hosts) == 3 and within.any():
            found.append(fixed_s + float((turns[0][:, None] + turns[1][None, :])[within].min()))
    return min(found)


def test_three_tiers_get_the_least_latency_over_the_graph() -> None:
    """As :mod:`testbed.model.tier_cuts` proves it, where going by way of a host is never faster than directly."""
    thrice = wide = 0
    for seed in range(1000):
        graph, seconds = drawn(seed, narrowing=True)
        draw = random.Random(seed)  # noqa: S311 - no secret
        line = ("d", "device", "edge", "cloud")
        workers = tuple(Worker(name, draw.uniform(1, 2) * 2**tier) for tier, name in enumerate(line[1:]))
        # Weights of time between those at which the best cut changes.
        cuts = [frozenset(), *tier_cuts(graph, seconds), frozenset(range(len(graph.ops)))]
        corners = [(sum(seconds[index] for index in held), crossing_bits(graph, held)) for held in cuts]
        turns = [(b[1] - a[1]) / (a[0] - b[0]) for a, b in itertools.pairwise(corners) if b[0] > a[0] and a[1] > b[1]]
        between = [(one * other) ** 0.5 for one, other in itertools.pairwise(turns)]
        if len(graph.inputs) > 1 or len(between) < 2:
            continue
        device, edge, cloud = (worker.speed for worker in workers)
        rates = [1e12, between[0] / (1 / device - 1 / edge), between[-1] / (1 / edge - 1 / cloud)]
        # Upwards a path has the least rate of the links on its way; downwards it is free.
        paths = {
            (line[a], line[b]): Path(min(rates[a:b]) if a < b else 1e12, 1e-6 * abs(a - b))
            for a, b in itertools.permutations(range(4), 2)
        }
        found = arranged(graph, seconds)
        chained = chain_from(chain(found.graph, found.op_seconds, also=found.positions))
        problem = Problem(chained, workers, "d", paths)
        narrow = Problem(chain_from(chain(graph, seconds)), workers, "d", paths)
        plan = min_latency.solve(problem)
        assert plan.latency_s == pytest.approx(least_over_three_hosts_s(graph, seconds, problem), rel=1e-7), seed
        thrice += len(plan.stages) == 3
        wide += plan.latency_s < (1 - 1e-6) * min_latency.solve(narrow).latency_s
    assert thrice >= 5
    assert wide > 10


def test_arranging_keeps_every_narrow_cut_and_the_model(loaded: Loaded) -> None:
    for name in ("googlenet", "squeezenet1_1"):
        _, graph = loaded(name)
        draw = random.Random(name)  # noqa: S311
        seconds = [draw.uniform(1e-5, 1e-3) for _ in graph.ops]
        found = arranged(graph, seconds)
        narrow = {cut.tensors[0].name for cut in graph.cuts() if len(cut.tensors) == 1}
        assert {cut.tensors[0].name for cut in found.graph.cuts() if len(cut.tensors) == 1} >= narrow
        assert sum(found.op_seconds) == pytest.approx(sum(seconds))
        assert {op.name: second for op, second in zip(found.graph.ops, found.op_seconds, strict=True)} == {
            op.name: second for op, second in zip(graph.ops, seconds, strict=True)
        }
        assert set(found.graph.weights) == set(graph.weights)


class Branches(nn.Module):
    """Shrinks one branch early and the other late, so that the least to send is one of each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.left = nn.Sequential(nn.Conv2d(16, 2, 1), nn.ReLU(), nn.Conv2d(2, 32, 3, padding=1))
        self.right = nn.Sequential(nn.Conv2d(16, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 2, 1))
        self.head = nn.Conv2d(34, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        # The left branch stands first in the graph, so a cut within both is no position of its order.
        return self.head(torch.cat((self.left(x), self.right(x)), 1)).mean((2, 3))


def test_a_cut_across_branches_is_a_stage_and_computes_the_same_bits() -> None:
    torch.manual_seed(0)
    graph = ModelGraph.trace(Branches().eval(), (1, 3, 32, 32))
    # What widens a branch again, and all behind it, takes long.
    slow = [op.module in ("left.2", "head") or not op.module for op in graph.ops]
    found = arranged(graph, [1e-3 if late else 1e-4 for late in slow])
    wide = [position for position in found.positions if len(found.graph.cut(position).tensors) > 1]
    names = [{op.name for op in found.graph.ops[:position]} for position in wide]
    orders = [{op.name for op in graph.ops[:position]} for position in range(len(graph.ops))]
    assert any(held not in orders for held in names)
    x = torch.randn(1, 3, 32, 32)
    (expected,) = StageExecutor(graph.stage(0, len(graph.ops)), graph.weights).run([x])
    for position in wide:
        front, back = found.graph.stage(0, position), found.graph.stage(position, len(graph.ops))
        sent = StageExecutor(front, found.graph.stage_weights(0, position)).run([x])
        assert len(sent) == len(found.graph.cut(position).tensors)
        (answer,) = StageExecutor(back, found.graph.weights).run([tensor.clone() for tensor in sent])
        assert torch.equal(answer, expected)


def test_an_order_must_be_one() -> None:
    graph, _ = drawn(0)
    count = len(graph.ops)
    for order in ([0] * count, [], range(1, count + 1)):
        with pytest.raises(ValueError, match="each operation once"):
            graph.reordered(order)
    chained = ModelGraph.trace(nn.Sequential(nn.Linear(2, 2), nn.ReLU()).eval(), (1, 2))
    with pytest.raises(ValueError, match="before what it reads"):
        chained.reordered([1, 0])
    with pytest.raises(ValueError, match="times"):
        tier_cuts(graph, [])

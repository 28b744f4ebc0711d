"""SEIFER's rules as switches: what its authors' code does, and what their paper means.

SEIFER (arXiv:2210.12219, code ANRGUSC/SEIFER) cuts a model by the least sum of transfers and places the stages by
colour coding, or greedily as its baseline. Its published figures depend on slips of its code. Each is a switch here, so
that the figures can be reproduced and each slip's part in them measured; the strategies run without any of them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from testbed.planning import instance
from testbed.planning.evaluate import usable_path
from testbed.planning.instance import Floats, Ints, room_bytes
from testbed.planning.problem import Problem

CLASSES = 20
"""Bandwidth classes of SEIFER's deployment and of its headline figures."""


@dataclass(frozen=True, slots=True)
class SeiferRules:
    """Each field True is the published code's behaviour, False the correction. Sections are those of notes/papers.md.

    Attributes:
        assumed_codec: A value counts 8 bytes over an assumed ZFP ratio of 1.44, though tensors are float32 (§1.3);
            corrected: the 4 bytes that are sent.
        copy_per_consumer: A tensor is charged once for each layer that reads it, though one copy is sent (§1.3).
        binary_megabits: Sizes are divided by 2^20, rates count 10^6 bit/s (§1.3, §1.6): transfers seem 4.6 % shorter.
        parameters_as_bytes: The number of parameters is added to bytes of activations (§1.3, §6 defect 2): weights
            weigh a quarter.
        activations_summed: Every layer's output counts as if none were ever freed (§1.3); corrected: the peak of what
            is live.
        first_segment_free: The segment that leads into a stage's first candidate point is left out of the stage's
            memory (§6 defect 2): stages of one segment weigh nothing.
        dispatcher_ignored: Links from and to the dispatcher cost nothing (§6 defect 3).
        previous_cut_charged: Each link is charged the transfer of the candidate point before its own (§6 defect 3);
            only in the code of 2023, not in that of the published figures.
        hop_limit_after_search: The partition of least sum is found first and dropped when it has more stages than
            hosts, so that feasible shorter ones are lost (§6 defect 4); corrected: the limit holds within the search.
        top_class_unplaced: The largest transfer falls into class C+1, which is never placed (§6 defect 5).
        shared_memo: The partition search remembers best ways across capacities and never forgets them (§6 defect 5).
        failure_is_zero: A cell that fails, or needs one host only, enters the mean as a latency of 0 (§1.8, §6
            defect 5); corrected: it is not available.
        wrapping_slice: The random baseline's first split is ``sum(memory[0:-1])``, by a slice that wraps round: it
            finds the whole model too large, splits before the first point and so may cut anywhere up to the second
            split (§1.7).
        unchecked_random_cuts: The random baseline draws its cuts between greedy splits whatever the stages between two
            draws weigh (§1.7).
    """

    assumed_codec: bool = False
    copy_per_consumer: bool = False
    binary_megabits: bool = False
    parameters_as_bytes: bool = False
    activations_summed: bool = False
    first_segment_free: bool = False
    dispatcher_ignored: bool = False
    previous_cut_charged: bool = False
    hop_limit_after_search: bool = False
    top_class_unplaced: bool = False
    shared_memo: bool = False
    failure_is_zero: bool = False
    wrapping_slice: bool = False
    unchecked_random_cuts: bool = False


CORRECTED = SeiferRules()
PUBLISHED = SeiferRules(**{field.name: field.name != "previous_cut_charged" for field in fields(SeiferRules)})


def farthest_ends(problem: Problem, rules: SeiferRules) -> Ints:
    """``(L+1,)`` the farthest boundary that a stage from each boundary may end at, whichever host it is on.

    SEIFER gives every host the capacity of the smallest (§1.1), so a stage must fit them all. There must be a host.
    """
    rooms = [room_bytes(worker) for worker in problem.workers]
    limit, storage = (min(room) for room in zip(*rooms, strict=True))
    chain = problem.chain
    shared: Ints = instance.farthest_ends(chain, [(limit, storage)])[0]
    if not rules.first_segment_free:
        return shared
    for first in range(chain.segments):
        last, weights = first + 1, 0
        while last < chain.segments and weights + chain.weight_bytes[last] <= limit:
            weights += chain.weight_bytes[last]
            last += 1
        shared[first] = last
    return shared


def rates_bps(problem: Problem) -> Floats:
    """``(n+2, n+2)`` rates between ``n`` workers, then the dispatcher as a source, then as a target; 0: no way."""
    count = len(problem.workers)
    names = [*(worker.name for worker in problem.workers), problem.dispatcher, problem.dispatcher]
    rates = np.zeros((count + 2, count + 2))
    for row in range(count + 1):
        for column in range(count + 2):
            if row == column or column == count or names[row] == names[column]:
                continue
            path = usable_path(problem, names[row], names[column])
            if path is not None:
                rates[row, column] = path.rate_bps
    return rates


def hop_limit(problem: Problem) -> int:
    """Most stages of a plan."""
    return min(len(problem.workers), problem.max_stages or len(problem.workers))

"""The time of each operation of a model on one core: measured once for each model and machine, then kept; or counted.

What is kept belongs to a graph (operations, shapes and types; the values of weights don't change what dense arithmetic
takes) and to a machine's fingerprint (:mod:`runner.user_cache`), so another processor, kernel, PyTorch, input or model
is measured anew. CPU time is measured, as the calibration does, and with the memory settings of a partition server.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from runner.user_cache import UserCache, machine_fingerprint
from testbed.errors import MachineError
from testbed.model.costs import profile
from testbed.model.graph import ModelGraph
from testbed.model.skeleton import dump_skeleton
from testbed.serving.allocator import keep_freed_memory
from testbed.units import format_duration

REPEATS = 7
METHOD = 1
"""Raised when the way of measuring changes, so that older results are not used."""

Progress = Callable[[str], None]


def graph_digest(graph: ModelGraph) -> str:
    """What of a model its times depend on, as hexadecimal digits."""
    return hashlib.sha256(dump_skeleton(graph)).hexdigest()


def op_times(
    graph: ModelGraph,
    example: Sequence[torch.Tensor],
    progress: Progress = lambda _: None,
    *,
    afresh: bool = False,
) -> tuple[float, ...]:
    """Seconds of each operation on one whole core of this machine, one thread: the kept ones, or measured now and kept.

    Args:
        graph: The model.
        example: A request.
        progress: Told what is done.
        afresh: Measure in any case.

    What can't be kept is told, and measured again the next time.
    """
    cache = UserCache.of_caller()
    path = cache.path("op-times", {**machine_fingerprint(), "method": METHOD, "model": graph_digest(graph)})
    found = None if afresh else _read(cache.load(path), graph)
    if found is not None:
        progress(f"taking the kept times of its operations ({format_duration(math.fsum(found))} on one core)")
        return found
    progress("timing its operations on one core")
    keep_freed_memory()
    found = profile(graph, example, REPEATS, clock=time.thread_time)
    try:
        cache.save(path, {**machine_fingerprint(), "op_s": found}, "the times of the model's operations")
    except MachineError as error:
        # They are good for this once; the next time measures again.
        progress(str(error))
    return found


def _read(plain: Any, graph: ModelGraph) -> tuple[float, ...] | None:
    """Kept times; None if there are none, or they are damaged."""
    try:
        found = tuple(float(seconds) for seconds in plain["op_s"])
    except (TypeError, ValueError, KeyError):
        return None
    return found if len(found) == len(graph.ops) and all(0 <= seconds < math.inf for seconds in found) else None

"""How fast this machine is: times of the reference models, measured once and kept for each machine.

The result maps the devices of :mod:`testbed.spec.devices` to shares of a core here. It is kept in the user's cache
(:mod:`runner.user_cache`) by a fingerprint of what it depends on: the processor, the kernel and PyTorch. CPU time is
measured, so programs that take turns on the core don't count; but a busy machine's caches and memory are slower too, so
measure on an idle one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from runner.user_cache import UserCache, machine_fingerprint
from testbed.model.zoo import load_model
from testbed.serving.allocator import keep_freed_memory
from testbed.spec.devices import reference_models

INPUT_SHAPE = (1, 3, 224, 224)
WARM_UPS = 3
REPEATS = 15
METHOD = 2
"""Raised when the way of measuring changes, so that older results are not used."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was measured, and on what.

    Attributes:
        cpu_model, kernel, torch_version: The machine's fingerprint.
        model_s: Median seconds of one inference of each reference model, one thread on one core.
        spread_pct: How far the slowest tenth of the inferences lay above the median, in the worst of the models.
    """

    cpu_model: str
    kernel: str
    torch_version: str
    model_s: Mapping[str, float]
    spread_pct: float


def fingerprint() -> dict[str, Any]:
    """What a calibration depends on."""
    return {**machine_fingerprint(), "method": METHOD, "models": list(reference_models())}


def measure(
    progress: Progress = lambda _: None, *, repeats: int = REPEATS, clock: Callable[[], float] = time.thread_time
) -> Calibration:
    """Time the reference models here and now; some seconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    medians, spreads = {}, []
    try:
        for name in reference_models():
            progress(f"timing {name} on one core of this machine")
            module = load_model(name=name, module=None, weights=None, input_shape=INPUT_SHAPE, seed=0)
            example = torch.randn(INPUT_SHAPE, generator=torch.Generator().manual_seed(0))
            times_s = []
            keep_freed_memory()
            with torch.inference_mode():
                for repeat in range(WARM_UPS + repeats):
                    started_s = clock()
                    module(example)
                    if repeat >= WARM_UPS:
                        times_s.append(clock() - started_s)
            medians[name] = statistics.median(times_s)
            spreads.append(sorted(times_s)[int(0.9 * len(times_s))] / medians[name] - 1)
    finally:
        torch.set_num_threads(threads)
    return Calibration(**machine_fingerprint(), model_s=medians, spread_pct=max(spreads) * 100)


def _read(plain: Any) -> Calibration | None:
    """A kept calibration; None if there is none, or it is damaged."""
    try:
        found = Calibration(**plain)
        complete = all(float(found.model_s[name]) > 0 for name in reference_models())
    except (ValueError, TypeError, KeyError):
        return None
    return found if complete else None


def machine_calibration(progress: Progress = lambda _: None, *, afresh: bool = False) -> Calibration:
    """The kept calibration of this machine, or a new one, which is then kept.

    Raises:
        MachineError: If a new one can't be kept.
    """
    cache = UserCache.of_caller()
    path = cache.path("calibration", fingerprint())
    found = None if afresh else _read(cache.load(path))
    if found is None:
        found = measure(progress)
        cache.save(path, asdict(found), "the calibration")
    return found

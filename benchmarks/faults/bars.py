"""How fast: detection and recovery against their bars, from ``faults.csv``, ``epochs.csv`` and ``plan.csv`` of runs.

- A crash resets its connections: noticed within 50 ms. A power cut is silent: within three heartbeats and 50 ms.
- ``standby`` serves again within 500 ms of that for ResNet-50 on links of 50 Mbit/s: the weights are there already.
  With ``int8`` on the wire the first right answer is there by then too.
- ``replan`` needs its planning (200 ms at most) and the time that the missing weights take at the link's rate, 10 %
  more at most.
- ``skip`` decides within the 16.82 ms that CONTINUER's authors give for theirs (arXiv 2206.05267).

Each figure is the median of several faults. ResNet-50's hosts have a core each (calibrated), so loading, linking and
warming a stage up take the time that they take on this machine. "Serves again" is the epoch's ``active_s``; the first
right answer comes when a replayed request has crossed the pipeline, whose own latency is given beside it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.faults.cluster import DISPATCHER, POLICIES, SWITCH, experiment
from benchmarks.planning_rows import Row
from runner.checker.reading import Tables, read_folder
from runner.preparation import GOODPUT

HEARTBEAT_S = 0.1
MISSES = 3
CRASH_MS = 50.0
SILENCE_MS = 1e3 * MISSES * HEARTBEAT_S + 50.0
STANDBY_MS = 500.0
PLANNING_MS = 200.0
TRANSFER = 1.1
DECISION_MS = 16.82
RATE_BPS = 50e6

CRASHES = 5
RESNET_WORKERS = tuple(f"node{number}" for number in range(1, 7))
RESNET_STAGES = 3


@dataclass(frozen=True, slots=True)
class Recovery:
    """One fault that took a stage away, and the epoch that replaced it; all in seconds.

    Attributes:
        detection_s: From the fault to its detection.
        planning_s: From there to the plan.
        activation_s: From the plan until the epoch served.
        transfer_s: What the missing weights take at the links' rate.
        answer_s: From the epoch's start to its first right answer.
        latency_s: What a request alone takes through the new plan, as predicted.
    """

    detection_s: float
    planning_s: float
    activation_s: float
    transfer_s: float
    answer_s: float
    latency_s: float


def crashes() -> dict[str, Any]:
    """Servers are killed, one after the other, and started again."""
    faults = [{"at": "1s", "restart": {"stage": 1}, "for": "300ms", "every": "2s", "times": CRASHES}]
    return experiment("crashes", POLICIES["replan"], 1, 1 + 2.0 * CRASHES, faults)


def power_cuts() -> dict[str, Any]:
    """Hosts lose their power, one after the other, and get it back."""
    faults = [{"at": "1s", "reboot": {"stage": 1}, "for": "500ms", "every": "2500ms", "times": CRASHES}]
    return experiment("power-cuts", POLICIES["replan"], 1, 1 + 2.5 * CRASHES, faults)


def resnet(
    policy: Mapping[str, Any], faults: list[dict[str, Any]], duration_s: float, **placement: Any
) -> dict[str, Any]:
    """ResNet-50 on six hosts of a core each, behind links of 50 Mbit/s; in three stages of equal work unless told."""
    return {
        "name": f"resnet50-{policy['policy']}",
        "seed": 1,
        "hosts": {
            DISPATCHER: {"cpu": 0.5, "memory": "512MiB"},
            **{host: {"cpu": 1.0, "memory": "320MiB", "storage": "256MiB"} for host in RESNET_WORKERS},
        },
        "switches": [SWITCH],
        "links": [
            {"between": [host, SWITCH], "rate": "50Mbit/s", "delay": "1ms"} for host in (DISPATCHER, *RESNET_WORKERS)
        ],
        "model": {"name": "resnet50", "input": [1, 3, 224, 224]},
        "placement": {"strategy": "even", "max_stages": RESNET_STAGES, "deploy": "prestaged", **placement},
        "compute": {"mode": "calibrated", "verify_every": 1000},
        "workload": {"kind": "closed", "in_flight": 2, "duration": f"{duration_s:g}s", "distinct": 2},
        "recovery": {**policy, "heartbeat": "100ms", "misses": MISSES},
        "faults": faults,
    }


def standby() -> dict[str, Any]:
    """The hosts of the three stages crash, one after the other; each has a copy on another host."""
    faults = [{"at": f"{at}s", "kill": {"stage": stage}} for stage, at in enumerate((2, 5, 8))]
    return resnet(POLICIES["standby"].recovery, faults, 11.0)


def standby_int8() -> dict[str, Any]:
    """The same with a plan for throughput and a quarter of the bytes: less of an answer's time is its way."""
    faults = [{"at": f"{at}s", "kill": {"stage": stage}} for stage, at in enumerate((2, 5))]
    return resnet(POLICIES["standby"].recovery, faults, 8.0, strategy="exact", codec="int8")


def replan() -> dict[str, Any]:
    """The host of a stage crashes, and its weights have to cross the network."""
    faults = [{"at": "2s", "kill": {"stage": 1}}, {"at": "9s", "kill": {"stage": 1}}]
    return resnet(POLICIES["replan"].recovery, faults, 16.0)


def skip() -> dict[str, Any]:
    """The host of a residual stage crashes, and comes back, several times."""
    faults = [{"at": "1s", "restart": {"stage": 1}, "for": "800ms", "every": "3s", "times": 3}]
    return experiment("skip", POLICIES["skip"], 1, 10.0, faults)


INT8 = "standby, int8"
EXPERIMENTS = {
    "crashes": crashes,
    "power cuts": power_cuts,
    "standby": standby,
    INT8: standby_int8,
    "replan": replan,
    "skip": skip,
}


def detections_s(tables: Tables) -> list[float]:
    """From each fault's effect to its detection; infinite where it was never noticed."""
    return [
        math.inf if (detected_s := line.maybe("detected_s")) is None else detected_s - line.number_of("effective_s")
        for line in tables["faults.csv"]
    ]


def recoveries(tables: Tables) -> list[Recovery]:
    """What each fault that was overcome by a plan took."""
    found = []
    for fault in tables["faults.csv"]:
        replanned_s, detected_s = fault.maybe("replanned_s"), fault.maybe("detected_s")
        recovered_s = fault.maybe("recovered_s")
        epoch = next((e for e in tables["epochs.csv"] if e.number_of("adopted_s") == replanned_s), None)
        active_s = None if epoch is None else epoch.maybe("active_s")
        if epoch is None or detected_s is None or replanned_s is None or active_s is None or recovered_s is None:
            continue
        stages = [line for line in tables["plan.csv"] if line.text("epoch") == epoch.text("epoch")]
        # Each crosses its own link; all together leave over the dispatcher's.
        moved_mbit = math.fsum(line.maybe("deploy_mbit") or 0.0 for line in stages)
        found.append(
            Recovery(
                detected_s - fault.number_of("effective_s"),
                replanned_s - detected_s,
                active_s - replanned_s,
                moved_mbit * 1e6 / (RATE_BPS * GOODPUT),
                recovered_s - active_s,
                epoch.number_of("predicted_latency_ms") / 1e3,
            )
        )
    return found


def rows(folders: Mapping[str, Sequence[Path]]) -> Iterator[Row]:
    """The rows of finished runs, by the names of their experiments."""
    tables = {name: [read_folder(folder) for folder in found] for name, found in folders.items()}
    for name, high_ms, note in (
        ("crashes", CRASH_MS, "its kernel resets its connections"),
        ("power cuts", SILENCE_MS, f"{MISSES} heartbeats of {HEARTBEAT_S * 1e3:g} ms and 50 ms"),
    ):
        if name in tables:
            values_s = [value_s for run in tables[name] for value_s in detections_s(run)]
            yield _median(name, "detection (ms)", [1e3 * value_s for value_s in values_s], high_ms, note=note)
    if "standby" in tables:
        found = [one for run in tables["standby"] for one in recoveries(run)]
        after_ms = [1e3 * (one.planning_s + one.activation_s) for one in found]
        yield _median("standby", "serves again after detection (ms)", after_ms, STANDBY_MS, 175.5, "FailLite's MTTR")
        yield from _parts("standby", found)
    if INT8 in tables:
        found = [one for run in tables[INT8] for one in recoveries(run)]
        after_ms = [1e3 * (one.planning_s + one.activation_s + one.answer_s) for one in found]
        yield _median(INT8, "first answer after detection (ms)", after_ms, STANDBY_MS)
        yield from _parts(INT8, found)
    if "replan" in tables:
        found = [one for run in tables["replan"] for one in recoveries(run)]
        yield _median("replan", "planning (ms)", [1e3 * one.planning_s for one in found], PLANNING_MS)
        ratios = [one.activation_s / one.transfer_s if one.transfer_s else math.inf for one in found]
        note = f"{statistics.median([one.transfer_s for one in found] or [math.nan]):.3f} s for the weights at the rate"
        yield _median("replan", "deployment / transfer of its weights", ratios, TRANSFER, 1.0, note)
        yield from _parts("replan", found)
    if "skip" in tables:
        found = [one for run in tables["skip"] for one in recoveries(run)]
        planning_ms = [1e3 * one.planning_s for one in found]
        yield _median("skip", "from detection to decision (ms)", planning_ms, DECISION_MS, DECISION_MS, "CONTINUER's")
        yield _median("skip", "from decision to service (ms)", [1e3 * one.activation_s for one in found])


def _parts(case: str, found: Sequence[Recovery]) -> Iterator[Row]:
    for measure, values_s in (
        ("from detection to plan (ms)", [one.planning_s for one in found]),
        ("from plan to service (ms)", [one.activation_s for one in found]),
    ):
        yield _median(case, measure, [1e3 * value_s for value_s in values_s])
    latency_ms = 1e3 * statistics.median([one.latency_s for one in found] or [math.nan])
    answers_ms = [1e3 * one.answer_s for one in found]
    yield _median(case, "from service to first answer (ms)", answers_ms, math.inf, latency_ms, "a request's latency")


def _median(
    case: str,
    measure: str,
    values: Sequence[float],
    high: float = math.inf,
    reference: float = math.nan,
    note: str = "",
) -> Row:
    """A row of the median; without a value it is over any bar."""
    value = statistics.median(values) if values else math.nan
    spread = f"{len(values)} faults, {min(values):.4g} to {max(values):.4g}" if values else "nothing was measured"
    return Row("faults", case, measure, value, -math.inf, high, reference, f"{spread}; {note}" if note else spread)

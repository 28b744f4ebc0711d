"""Does the system survive half an hour of chaos, and take no more at its end than at its beginning? Needs root.

    sudo python -m benchmarks.soak [--minutes 30] [--quick] [--seed 1] [--csv FILE] [--results DIR]

Eight workers and a dispatcher serve an open workload in real time while hosts, links, disks and the dispatcher break
as ``benchmarks/soak_campaign.py`` draws it: some twenty faults a minute, seeded. The checker judges the run as any
other. Memory, threads and descriptors of every server are read from /proc each second and compared between calm moments
(``benchmarks/footprints.py``), at which the same plan serves and all hosts are there.

Bars: no request lost, doubled or wrong, no error of the checker, answers in each calm moment. Threads and descriptors
of a process don't grow between the first and the last calm moment at which it is at the same thing. Memory does by no
more than ``STEP_MIB`` and, in a process that lives ``TREND_LEAST_S``, by no more than ``TREND_MIB_MIN`` (Theil–Sen).
Exits with 1 when a row is over its bar.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.ending import ended
from benchmarks.footprints import MIB, Calm, Life, Sample, Series, series, theil_sen, watched, write_samples
from benchmarks.planning import COLUMNS, cells, line
from benchmarks.planning_rows import Row
from benchmarks.soak_campaign import CALM_S, DISPATCHER, ROUND_S, WORKERS, experiment, rounds
from runner.events import FaultEffective, FaultScheduled, HostStateChanged, RunStarted
from runner.experiment import Options, Result, run
from testbed.emulation.manifest import RunManifest
from testbed.emulation.processes import ProcessIdentity
from testbed.serving.events import EpochActive, EpochFenced, Event, HostFound, HostLost, PlanAdopted, RequestCompleted

SECTION = "soak"
QUICK_MIN = 2.0
STEP_MIB = 8.0
TREND_MIB_MIN = 0.5
TREND_LEAST_S = 300.0


def processes() -> Mapping[str, ProcessIdentity]:
    """The latest server of each host of this process's own run, as its journal names them."""
    found: dict[str, ProcessIdentity] = {}
    for manifest in RunManifest.load_all():
        entries = manifest.entries()
        if any(entry.kind == "run" and entry.facts.get("pid") == os.getpid() for entry in entries):
            for entry in entries:
                if entry.kind == "process" and entry.facts["role"] in (DISPATCHER, *WORKERS):
                    pid, ticks = entry.facts["pid"], entry.facts["start_time_ticks"]
                    found[str(entry.facts["role"])] = ProcessIdentity(int(pid or 0), int(ticks or 0))
    return found


def calm_moments(events: Sequence[Event], count: int, *, exactly: bool) -> list[Calm]:
    """The ends of the rounds at which one epoch served and all workers were there.

    Args:
        events: The run's.
        count: How many rounds it had.
        exactly: Whether a worker is at its very stage (whose weights it holds), or just at any one. One without a stage
            may still hold its latest, and has grown for good when it first computed.
    """
    zero_s = next(event.t_s for event in events if isinstance(event, RunStarted))
    found = []
    for number in range(1, count + 1):
        begin_s, end_s = zero_s + number * ROUND_S - CALM_S, zero_s + number * ROUND_S
        plan = _plan_within(events, begin_s, end_s)
        if plan is not None and _there(events, begin_s, end_s) >= set(WORKERS):
            latest = _latest_stages(events, end_s)
            tasks: dict[str, Hashable] = {DISPATCHER: "dispatching"}
            for host in WORKERS:
                is_at_it = host in {stage.host for stage in plan.stages}
                tasks[host] = (is_at_it, latest.get(host)) if exactly else is_at_it
            found.append(Calm(begin_s, end_s, tasks))
    return found


def _latest_stages(events: Sequence[Event], until_s: float) -> dict[str, tuple[int, int]]:
    """First and last operation of the latest stage of each worker whose present process has had one."""
    latest: dict[str, tuple[int, int]] = {}
    for event in events:
        if event.t_s > until_s:
            continue
        if isinstance(event, PlanAdopted):
            latest |= {stage.host: (stage.first_op, stage.last_op) for stage in event.stages}
        elif isinstance(event, HostStateChanged) and event.state == "starting":
            latest.pop(event.host, None)
    return latest


def _plan_within(events: Sequence[Event], begin_s: float, end_s: float) -> PlanAdopted | None:
    """The plan that served from the beginning to the end."""
    active: int | None = None
    plans: dict[int, PlanAdopted] = {}
    for event in events:
        if event.t_s > end_s:
            continue
        if isinstance(event, PlanAdopted):
            plans[event.epoch] = event
            # A dispatcher that has died fences nothing.
            active = None
        elif isinstance(event, EpochActive | EpochFenced) and event.t_s > begin_s:
            return None
        elif isinstance(event, EpochActive):
            active = event.epoch
        elif isinstance(event, EpochFenced):
            active = None
    return None if active is None else plans[active]


def _there(events: Sequence[Event], begin_s: float, end_s: float) -> set[str]:
    """The workers that were connected from the beginning to the end."""
    there: set[str] = set()
    for event in events:
        if isinstance(event, HostFound) and event.t_s <= begin_s:
            there.add(event.host)
        elif isinstance(event, HostLost) and event.t_s <= end_s:
            there.discard(event.host)
    return there


def judged(result: Result, count: int) -> Iterator[Row]:
    """What became of the requests."""
    events = result.events
    outcomes = Counter(event.outcome for event in events if isinstance(event, RequestCompleted))
    figures, errors = result.summary.requests, result.ruling.errors
    yield Row(SECTION, "requests", "answered right", outcomes["ok"], low=1)
    yield Row(SECTION, "requests", "rejected at their deadline", outcomes["rejected"])
    for name in ("lost", "doubled", "wrong"):
        yield Row(SECTION, "requests", name, figures[name], high=0)
    yield Row(SECTION, "checker", "errors", len(errors), high=0, note="; ".join(result.ruling.reasons)[:300])
    struck = {event.fault for event in events if isinstance(event, FaultEffective)}
    kinds = {event.verb for event in events if isinstance(event, FaultScheduled) and event.fault in struck}
    yield Row(SECTION, "faults", "took effect", len(struck), low=1, note=f"{len(kinds)} kinds")
    yield Row(SECTION, "faults", "plans", sum(isinstance(event, EpochActive) for event in events))
    zero_s = next(event.t_s for event in events if isinstance(event, RunStarted))
    answers_s = [
        event.t_s - zero_s for event in events if isinstance(event, RequestCompleted) and event.outcome == "ok"
    ]
    silent = [
        number
        for number in range(1, count + 1)
        if not any(number * ROUND_S - CALM_S <= at_s <= number * ROUND_S for at_s in answers_s)
    ]
    yield Row(SECTION, "calm moments", "without an answer", len(silent), high=0, note=f"of {count}; {silent}")


def grown(events: Sequence[Event], samples: Sequence[Sample], count: int) -> Iterator[Row]:
    """What processes took at calm moments."""
    alike = calm_moments(events, count, exactly=False)
    same = calm_moments(events, count, exactly=True)
    yield Row(SECTION, "calm moments", "comparable", len(alike), low=2, note=f"of {count}")
    for who, hosts in (("dispatcher", {DISPATCHER}), ("servers", set(WORKERS))):
        counts = _of(series(samples, alike), hosts)
        memories = _of(series(samples, same), hosts)
        lives = {(life.host, life.process) for life, _ in counts}
        yield Row(SECTION, who, "processes compared", len(lives), low=1)
        for what in ("threads", "descriptors"):
            steps = [
                (getattr(taken[-1][1], what) - getattr(taken[0][1], what), f"{life.host}, {task}")
                for (life, task), taken in counts.items()
            ]
            most, note = max(steps, default=(0, ""))
            yield Row(SECTION, who, f"{what} more", most, high=0, note=note if most else "")
        steps_mib = [
            ((taken[-1][1].memory_bytes - taken[0][1].memory_bytes) / MIB, life.host)
            for (life, _), taken in memories.items()
        ]
        most_mib, note = max(steps_mib, default=(0.0, ""))
        yield Row(SECTION, who, "memory more, MiB", most_mib, high=STEP_MIB, note=note)
        trends = [
            (theil_sen([(at_s / 60, footprint.memory_bytes / MIB) for at_s, footprint in taken]), life.host)
            for (life, _), taken in memories.items()
            if taken[-1][0] - taken[0][0] >= TREND_LEAST_S
        ]
        if trends:
            trend, note = max(trends)
            yield Row(SECTION, who, "memory's trend, MiB/min", trend, high=TREND_MIB_MIN, note=note)


def _of(found: Mapping[tuple[Life, Hashable], Series], hosts: set[str]) -> dict[tuple[Life, Hashable], Series]:
    """Those of some hosts that can be compared with themselves."""
    return {key: taken for key, taken in found.items() if key[0].host in hosts and len(taken) > 1}


def main() -> int:
    """Run, print and write a table; 1 if a bar is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_MIN:g} minutes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--csv", type=Path, default=Path("soak.csv"))
    parser.add_argument("--footprints", type=Path, metavar="FILE", help="all samples of the footprints, as CSV")
    parser.add_argument("--results", type=Path, default=Path("results"), help="where the run's folder goes")
    arguments = parser.parse_args()
    minutes = QUICK_MIN if arguments.quick else arguments.minutes
    declared, count = experiment(minutes, arguments.seed), rounds(minutes)
    options = Options(arguments.results, progress=lambda text: print(text, flush=True))
    with watched(processes) as samples:
        result = run(declared, options)
    found = [*judged(result, count), *grown(result.events, samples, count)]
    print(f"{result.folder}: {result.ruling.outcome}, {result.verdict.level}")
    print(f"{'case':44}{'measure':34}{'value':>11}{'reference':>11}  bar")
    for row in found:
        print(line(row))
    with arguments.csv.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(map(cells, found))
    if arguments.footprints is not None:
        write_samples(arguments.footprints, samples)
    return int(not all(row.ok for row in found))


if __name__ == "__main__":
    sys.exit(ended(main))

"""What the links really do: round trip and rate of each, measured from outside the emulated hosts.

A process of its own (:mod:`testbed.emulation.probe_process`) has a socket in the namespace at each end of every link,
so its packets cross exactly one link, and no host's CPU share slows them. Random loss is set aside meanwhile. Links are
measured side by side as long as their summed rate stays below what this machine forwards with ease.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from testbed.emulation.cluster import Cluster
from testbed.emulation.delay_service import import_path
from testbed.emulation.impairment import Bursts
from testbed.errors import MachineError

_PARALLEL_BPS = 300_000_000
_ROUND_TRIPS = 30
_RATE_DURATION_S = 1.0
_SPARE_S = 20.0
_SLOW_BITS = 500_000  # of 40 frames: what the measuring of a slow link takes


@dataclass(frozen=True, slots=True)
class LinkMeasurement:
    """One direction of one link.

    Attributes:
        link: Name of the link.
        source, target: Its sending and receiving node.
        requested_rate_bps: What is set on it; None when it is unshaped.
        rate_bps: What passed per second under overload, Ethernet headers included; None when it wasn't measured,
            because the link is unshaped.
        requested_rtt_s: The delays of both directions.
        rtt_s: Median round trip as a program sees it; None when no packet came back. Both directions share it.
        rtt_p99_s: Its 99th percentile.
        round_trips: Packets sent to and fro.
        round_trips_lost: Those that didn't come back within the deadline.
    """

    link: str
    source: str
    target: str
    requested_rate_bps: int | None
    rate_bps: float | None
    requested_rtt_s: float
    rtt_s: float | None
    rtt_p99_s: float | None
    round_trips: int
    round_trips_lost: int


def measure_links(
    cluster: Cluster,
    links: Iterable[str] | None = None,
    *,
    round_trips: int = _ROUND_TRIPS,
    parallel_bps: int = _PARALLEL_BPS,
) -> list[LinkMeasurement]:
    """Measure both directions of some links, or of all; takes about a second, plus one for each 300 Mbit/s.

    Below 200 kbit/s it takes longer, until 16 frames have had the time to pass.

    Args:
        cluster: A started cluster that nobody sends over.
        links: Their names.
        round_trips: How many packets to send to and fro on each.
        parallel_bps: Up to which summed rate directions are measured at the same time; 0 for one after the other, on a
            machine that forwards little.

    Raises:
        KeyError: If there is no such link.
        MachineError: If the measuring process fails or hangs.
    """
    wanted = None if links is None else set(links)
    by_name = {link.name: link for link in cluster.network.links}
    if wanted is not None and not wanted <= by_name.keys():
        raise KeyError(*(wanted - by_name.keys()))
    chosen = [link for name, link in by_name.items() if wanted is None or name in wanted]
    jobs = [_job(cluster, link.name, *link.between) for link in chosen]
    if not jobs:
        return []
    batches = _batches([job["rates_bps"] for job in jobs], parallel_bps)
    request = {
        "links": jobs,
        "batches": batches,
        "round_trips": round_trips,
        "duration_s": _RATE_DURATION_S,
    }
    longest_s = max(job["rtt_s"] for job in jobs)
    slowest_bps = min((rate_bps for job in jobs for rate_bps in job["rates_bps"] if rate_bps), default=None)
    slow_s = 0.0 if slowest_bps is None else _SLOW_BITS / slowest_bps
    deadline_s = _SPARE_S + len(batches) * (3 * _RATE_DURATION_S + longest_s + slow_s)
    with _loss_set_aside(cluster, [link.name for link in chosen]):
        answers = _run(request, deadline_s)
    return [
        measurement
        for job, answer in zip(jobs, answers, strict=True)
        for measurement in _measurements(job, answer, round_trips)
    ]


@contextlib.contextmanager
def _loss_set_aside(cluster: Cluster, links: Iterable[str]) -> Iterator[None]:
    """Lose nothing at random meanwhile.

    Chance would hide an error of the rate, and the numbers that were drawn here would be missing later: which packets
    of the workload are lost would depend on how long the links were measured.
    """
    set_aside: list[tuple[str, str, float | Bursts]] = []
    try:
        for name in links:
            for source in next(link.between for link in cluster.network.links if link.name == name):
                loss = cluster.current_shape(name, source).loss
                if loss:
                    set_aside.append((name, source, loss))
                    cluster.set_link(name, loss=0.0, source=source)
        yield
    finally:
        for name, source, loss in set_aside:
            cluster.set_link(name, loss=loss, source=source)


def _job(cluster: Cluster, name: str, first: str, second: str) -> dict[str, Any]:
    there, back = cluster.current_shape(name, first), cluster.current_shape(name, second)
    return {
        "link": name,
        "nodes": [first, second],
        "pids": [cluster.node_pid(first), cluster.node_pid(second)],
        "addresses": [cluster.probe_address(first), cluster.probe_address(second)],
        "rates_bps": [there.rate_bps, back.rate_bps],
        "rtt_s": there.delay_s + back.delay_s,
    }


def _batches(rates_bps: Sequence[Sequence[int | None]], capacity_bps: int) -> list[list[tuple[int, int]]]:
    """Directions (link, end that sends) to measure at the same time: their rates sum to at most the capacity.

    A direction with a higher rate is alone; unshaped ones aren't measured.
    """
    ways = [
        (rate_bps, (link, end))
        for link, both in enumerate(rates_bps)
        for end, rate_bps in enumerate(both)
        if rate_bps is not None
    ]
    batches: list[list[tuple[int, int]]] = []
    used_bps = capacity_bps + 1
    for rate_bps, way in sorted(ways):
        if not batches or used_bps + rate_bps > capacity_bps:
            batches.append([])
            used_bps = 0
        batches[-1].append(way)
        used_bps += rate_bps
    return batches


def _measurements(job: dict[str, Any], answer: dict[str, Any], round_trips: int) -> Iterator[LinkMeasurement]:
    seen_s = sorted(answer["rtts_s"])
    median_s = statistics.median(seen_s) if seen_s else None
    p99_s = seen_s[min(len(seen_s) - 1, int(0.99 * len(seen_s)))] if seen_s else None
    lost = round_trips - len(seen_s)
    for way in (0, 1):
        yield LinkMeasurement(
            job["link"],
            job["nodes"][way],
            job["nodes"][1 - way],
            job["rates_bps"][way],
            answer["rates_bps"][way],
            job["rtt_s"],
            median_s,
            p99_s,
            round_trips,
            lost,
        )


def _run(request: dict[str, Any], deadline_s: float) -> list[dict[str, Any]]:
    environment = {**os.environ, "PYTHONPATH": import_path()}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "testbed.emulation.probe_process"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=deadline_s,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise MachineError(f"the measurement of the links hung for {deadline_s:.0f} s") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise MachineError(f"the measurement of the links failed: {last}")
    answers: list[dict[str, Any]] = json.loads(done.stdout)["links"]
    return answers

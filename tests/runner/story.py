"""Small good histories, simulated: a pipeline of first-come-first-served stages that may lose a host and recover."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.checker.check import Checked, check_tables
from runner.checker.findings import Ruling
from runner.checker.reading import read_table
from runner.events import (
    FaultEffective,
    FaultScheduled,
    FaultStarted,
    HostStateChanged,
    LinkSample,
    RunEnded,
    RunStarted,
)
from runner.results import table_files
from testbed.serving.events import (
    EpochActive,
    EpochFenced,
    Event,
    HostFound,
    HostLost,
    PlanAdopted,
    PlannedStage,
    RequestCompleted,
    RequestSubmitted,
    ServiceState,
    StageDeployed,
    StageExecuted,
)

MIB = 2**20
HOP_S = 0.01
"""From a stage to the next one, and from and to the client."""
DETECTION_S, RECOVERY_S = 0.05, 0.4


@dataclass(frozen=True)
class Story:
    """What happens.

    Attributes:
        service_s: How long each stage computes.
        gaps_s: Before each request.
        kill_s: When the host of the last stage is killed; None for never.
        refused: Requests that the full queue turns away at once.
        zero_s: When the workload starts, on the clock of all events.
        skips: Whether the last stage is left out then, rather than taken over by the spare host.
    """

    service_s: tuple[float, ...] = (0.05, 0.08)
    gaps_s: tuple[float, ...] = (0.1,) * 24
    kill_s: float | None = 1.03
    refused: frozenset[int] = frozenset()
    zero_s: float = 1000.0
    skips: bool = False

    @property
    def duration_s(self) -> float:
        return sum(self.gaps_s) + 0.1

    @property
    def spec(self) -> dict[str, Any]:
        """What the checker looks at of the specification."""
        in_flight = 4 if not self.refused else 1
        workload = {"kind": "open", "in_flight": in_flight, "queue": 0 if self.refused else 64}
        return {
            "dispatcher": "dispatcher",
            "workload": {**workload, "duration_s": self.duration_s, "deadline_s": None},
            "recovery": {"policy": "skip" if self.skips else "replan"},
        }

    def hosts(self, epoch: int) -> tuple[str, ...]:
        names = tuple(f"node{number}" for number in range(1, len(self.service_s) + 1))
        if epoch == 1:
            return names
        return names[:-1] if self.skips else (*names[:-1], "spare")

    def events(self) -> list[Event]:
        """Everything that the runner would have been told, in no order."""
        events: list[Event] = [RunStarted(t_s=0.0, name="story", seed=1, duration_s=self.duration_s)]
        events += self._deployed(1, -3.0, -1.0, "start")
        for host in {*self.hosts(1), "spare"}:
            events += [HostFound(t_s=-4.0, host=host), HostStateChanged(t_s=-4.0, host=host, state="ready")]
        fence_s = active_s = float("inf")
        if self.kill_s is not None:
            fence_s, active_s = self.kill_s + DETECTION_S, self.kill_s + DETECTION_S + RECOVERY_S
            events += self._killed(self.kill_s, fence_s, active_s)
        events += self._answered(fence_s, active_s)
        end_s = max(self.duration_s, *(event.t_s for event in events)) + 0.1
        events.append(RunEnded(t_s=end_s))
        events += self._samples(end_s)
        return [_later(event, self.zero_s) for event in events]

    def _deployed(self, epoch: int, adopted_s: float, active_s: float, reason: str) -> list[Event]:
        hosts = self.hosts(epoch)
        slowest = max(range(len(hosts)), key=lambda stage: self.service_s[stage])
        end = 10 * len(self.service_s)
        skipped = ((10 * len(hosts), end),) if 10 * len(hosts) < end else ()
        stages = tuple(
            PlannedStage(
                stage=stage,
                host=host,
                first_op=10 * stage,
                last_op=10 * stage + 10,
                weights_bytes=3 * MIB,
                memory_bytes=20 * MIB,
                compute_s=self.service_s[stage],
                transfer_bits=8e5,
                link_s=HOP_S,
                is_bottleneck=stage == slowest,
            )
            for stage, host in enumerate(hosts)
        )
        return [
            PlanAdopted(
                t_s=adopted_s,
                epoch=epoch,
                strategy="exact",
                reason=reason,
                stages=stages,
                return_bits=32e3,
                return_s=0.001,
                throughput_rps=1 / max(self.service_s),
                latency_s=sum(self.service_s) + HOP_S * (len(hosts) + 1),
                bottleneck=f"compute on {hosts[slowest]}",
                gap=0.0,
                planning_s=0.002,
                skipped=skipped,
            ),
            *(
                StageDeployed(
                    t_s=active_s - 0.1, epoch=epoch, stage=stage, host=host, started_s=adopted_s, bytes_sent=3 * MIB
                )
                for stage, host in enumerate(hosts)
            ),
            EpochActive(t_s=active_s, epoch=epoch, replayed=0),
            ServiceState(t_s=active_s, state="degraded" if skipped else "serving"),
        ]

    def _killed(self, kill_s: float, fence_s: float, active_s: float) -> list[Event]:
        victim = self.hosts(1)[-1]
        return [
            FaultScheduled(t_s=-0.1, fault=0, verb="kill", target=victim, due_s=kill_s - 0.002, hosts=(victim,)),
            FaultStarted(t_s=kill_s - 0.001, fault=0),
            FaultEffective(t_s=kill_s, fault=0),
            HostStateChanged(t_s=kill_s + 0.02, host=victim, state="killed"),
            HostLost(t_s=fence_s - 0.001, host=victim, how="connection", detail="reset by peer"),
            EpochFenced(t_s=fence_s, epoch=1, reason=f"{victim} was lost"),
            ServiceState(t_s=fence_s, state="recovering", detail=f"{victim} was lost"),
            *self._deployed(2, fence_s + 0.01, active_s, f"{victim} was lost"),
        ]

    def _answered(self, fence_s: float, active_s: float) -> list[Event]:
        events: list[Event] = []
        waiting: list[tuple[int, float]] = []
        free_s = [0.0] * len(self.service_s)
        submitted_s = 0.0
        for id_, gap_s in enumerate(self.gaps_s):
            submitted_s += gap_s
            events.append(RequestSubmitted(t_s=submitted_s, id=id_, due_s=submitted_s))
            if id_ in self.refused:
                events.append(_completed(id_, submitted_s, submitted_s + HOP_S, "rejected", 0, 1, ()))
                continue
            rows = [] if submitted_s >= fence_s else self._passed(id_, 1, submitted_s, free_s)
            done_s = rows[-1].sent_s + HOP_S if rows else float("inf")
            if self.kill_s is not None:
                # What the killed host had not sent never was; what others did in the fenced epoch was in vain.
                victim, killed_s = self.hosts(1)[-1], self.kill_s
                rows = [row for row in rows if row.host != victim or row.sent_s <= killed_s]
                done_s = done_s if len(rows) == len(self.service_s) else float("inf")
            events += rows
            if done_s < float("inf"):
                events.append(_completed(id_, submitted_s, done_s, "ok", 1, 1, self.hosts(1)))
            else:
                waiting.append((id_, submitted_s))
        free_s = [0.0] * len(self.service_s)
        for id_, submitted_s in waiting:
            attempts = 1 if submitted_s >= fence_s else 2
            rows = self._passed(id_, 2, max(active_s, submitted_s), free_s)
            done_s = rows[-1].sent_s + HOP_S
            done = _completed(id_, submitted_s, done_s, "ok", attempts, 2, self.hosts(2))
            if self.skips:
                done = dataclasses.replace(done, degraded=True, error=0.25, same_class=id_ % 2 == 0)
            events += [*rows, done]
        return events

    def _passed(self, id_: int, epoch: int, since_s: float, free_s: list[float]) -> list[StageExecuted]:
        rows = []
        arrived_s = since_s + HOP_S
        for stage, host in enumerate(self.hosts(epoch)):
            started_s = max(arrived_s, free_s[stage])
            finished_s = started_s + self.service_s[stage]
            free_s[stage] = finished_s
            rows.append(
                StageExecuted(
                    t_s=finished_s + HOP_S / 2,
                    id=id_,
                    stage=stage,
                    host=host,
                    epoch=epoch,
                    received_s=arrived_s,
                    started_s=started_s,
                    finished_s=finished_s,
                    sent_s=finished_s + HOP_S / 2,
                    bytes_in=100_000,
                    bytes_out=100_000,
                )
            )
            arrived_s = finished_s + HOP_S
        return rows

    def _samples(self, end_s: float) -> list[Event]:
        return [
            LinkSample(
                t_s=second - 0.5,
                link="node1-s1",
                source=source,
                target=target,
                sent_bytes=40_000 * second,
                drops=0,
                backlog_bytes=0,
                rate_bps=20e6,
            )
            for second in range(int(end_s) + 1)
            for source, target in (("node1", "s1"), ("s1", "node1"))
        ]


def _completed(
    id_: int, submitted_s: float, t_s: float, outcome: str, attempts: int, epoch: int, path: Sequence[str]
) -> RequestCompleted:
    return RequestCompleted(
        t_s=t_s, id=id_, submitted_s=submitted_s, outcome=outcome, attempts=attempts, epoch=epoch, path=tuple(path)
    )


def _later(event: Event, by_s: float) -> Event:
    """The event on another clock; a fault's due time is on it too, a duration is not."""
    spans = {"duration_s", "planning_s", "latency_s", "return_s", "overshoot_s"}
    times = {
        field.name: getattr(event, field.name) + by_s
        for field in dataclasses.fields(event)
        if field.name.endswith("_s") and field.name not in spans and isinstance(getattr(event, field.name), float)
    }
    return dataclasses.replace(event, **times)


Files = dict[str, bytes]
Rows = dict[str, list[dict[str, str]]]


def files_of(events: Sequence[Event]) -> Files:
    """The tables as a run writes them."""
    return table_files(events)


def rows_of(files: Files) -> Rows:
    """Their rows, to be changed."""
    return {
        name: list(csv.DictReader(io.StringIO(data.decode(), newline=""), strict=True)) for name, data in files.items()
    }


def files_with(files: Files, rows: Rows) -> Files:
    """The tables with other rows below their headers."""
    changed = {}
    for name, data in files.items():
        text = io.StringIO(newline="")
        header = next(csv.reader(io.StringIO(data.decode(), newline="")))
        writer = csv.DictWriter(text, header)
        writer.writeheader()
        writer.writerows(rows[name])
        changed[name] = text.getvalue().encode()
    return changed


def checked(files: Files, spec: Mapping[str, Any]) -> Checked:
    """What the checker says of the tables."""
    return check_tables({name: read_table(name, data) for name, data in files.items()}, {"spec": spec})


def judged(events: Sequence[Event], **workload: Any) -> Ruling:
    """The ruling on a history, whose workload is that of the quickstart unless changed."""
    spec = {"workload": {"kind": "closed", "in_flight": 4, "duration_s": 30.0, "deadline_s": None, **workload}}
    return checked(files_of(events), spec).ruling

"""Hand-made histories: a realistic quickstart, made without a machine."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from runner import fidelity_checks, verdict
from runner.events import (
    Check,
    FaultEffective,
    FaultHealed,
    FaultScheduled,
    FaultStarted,
    HostSample,
    HostStateChanged,
    LinkSample,
    MachineSample,
    RunEnded,
    RunStarted,
    SchedulingSample,
)
from testbed.serving.events import (
    EpochActive,
    Event,
    HostFound,
    HostLost,
    Note,
    PlanAdopted,
    PlannedStage,
    RequestCompleted,
    RequestSubmitted,
    ServiceState,
    StageDeployed,
    StageExecuted,
)

START_S = 1000.0
MIB = 2**20


@dataclass(frozen=True)
class DrawnWay:
    """What the plots need of one direction of a link."""

    rate_bps: int | None
    delay_s: float = 0.0
    mean_loss: float = 0.0


@dataclass(frozen=True)
class DrawnLink:
    """What the plots need of a link; ``back`` is set where that direction is different."""

    between: tuple[str, str]
    rate_bps: int | None
    delay_s: float = 0.0
    mean_loss: float = 0.0
    back: DrawnWay | None = None

    def way(self, source: str) -> DrawnWay:
        if source == self.between[1] and self.back is not None:
            return self.back
        return DrawnWay(self.rate_bps, self.delay_s, self.mean_loss)

    @property
    def name(self) -> str:
        return "-".join(self.between)


@dataclass(frozen=True)
class DrawnNetwork:
    """What the plots need of a network."""

    hosts: tuple[str, ...]
    switches: tuple[str, ...]
    links: tuple[DrawnLink, ...]


HOSTS = ("dispatcher", "node1", "node2", "spare")
NETWORK = DrawnNetwork(
    HOSTS,
    ("s1",),
    (
        DrawnLink(("dispatcher", "s1"), 50_000_000, 0.002),
        DrawnLink(("node1", "s1"), 20_000_000, 0.005),
        DrawnLink(("node2", "s1"), 20_000_000, 0.005),
        DrawnLink(("spare", "s1"), 20_000_000, 0.005),
    ),
)


def adopted(t_s: float, epoch: int, hosts: Sequence[str], **changes: object) -> PlanAdopted:
    """A plan with the stages on these hosts."""
    bounds = [0, *(64 * (i + 1) // len(hosts) for i in range(len(hosts)))]
    stages = tuple(
        PlannedStage(
            stage=i,
            host=host,
            first_op=bounds[i],
            last_op=bounds[i + 1],
            weights_bytes=7 * MIB - i * MIB,
            memory_bytes=42 * MIB,
            compute_s=0.16 + 0.01 * i,
            transfer_bits=4.8e6 / (i + 1),
            link_s=0.097 * (i + 1),
            is_bottleneck=i == len(hosts) - 1,
        )
        for i, host in enumerate(hosts)
    )
    plan = PlanAdopted(
        t_s=t_s,
        epoch=epoch,
        strategy="exact",
        reason="start" if epoch == 1 else "node2 was lost",
        stages=stages,
        return_bits=32000.0,
        return_s=0.0016,
        throughput_rps=5.9,
        latency_s=0.62,
        bottleneck=f"compute on {hosts[-1]}",
        gap=0.0,
        planning_s=0.018,
    )
    return dataclasses.replace(plan, **changes)  # type: ignore[arg-type]


def quickstart_history(seed: int = 1, *, duration_s: float = 30.0) -> list[Event]:
    """Four hosts, 30 s: node2 killed at 8 s, noticed in 50 ms, served 4 s later; node1's link throttled 20–25 s."""
    rng = random.Random(seed)  # noqa: S311
    events: list[Event] = []
    add = events.append
    for i, host in enumerate(HOSTS):
        add(HostStateChanged(t_s=START_S - 9 + 0.1 * i, host=host, state="starting"))
        add(HostStateChanged(t_s=START_S - 8.5 + 0.1 * i, host=host, state="ready"))
        if host != "dispatcher":
            add(HostFound(t_s=START_S - 8.4 + 0.1 * i, host=host))
    for link in NETWORK.links:
        direction = f"{link.between[0]}→{link.between[1]}"
        rate = float(link.rate_bps or 0)
        add(fidelity_checks.check_rate(START_S - 7, "before", direction, rate, rate * rng.uniform(0.985, 1.001)))
        rtt_s = 2 * link.delay_s
        add(fidelity_checks.check_round_trip(START_S - 7, "before", link.name, rtt_s, rtt_s + rng.uniform(2e-4, 5e-4)))
    kill_s, throttle_s, heal_s = START_S + 8.0, START_S + 20.0, START_S + 25.0
    add(FaultScheduled(t_s=START_S - 6, fault=0, verb="kill", target="node2", due_s=kill_s, hosts=("node2",)))
    add(
        FaultScheduled(
            t_s=START_S - 6,
            fault=1,
            verb="throttle",
            target="node1-s1",
            due_s=throttle_s,
            heal_due_s=heal_s,
            links=("node1-s1",),
            ends=("node1",),
            detail="to 2Mbit/s",
        )
    )
    first = adopted(START_S - 5, 1, ("node1", "node2"))
    second = adopted(kill_s + 0.075, 2, ("node1", "spare"))
    add(first)
    add(ServiceState(t_s=START_S - 5, state="deploying"))
    for stage in first.stages:
        t_s = START_S - 0.6 + 0.1 * stage.stage
        deployed = {"epoch": 1, "stage": stage.stage, "host": stage.host, "started_s": START_S - 4.9}
        add(StageDeployed(t_s=t_s, bytes_sent=stage.weights_bytes, **deployed))  # type: ignore[arg-type]
    add(EpochActive(t_s=START_S - 0.4, epoch=1, replayed=0))
    add(ServiceState(t_s=START_S - 0.4, state="serving"))
    for host in HOSTS[1:]:
        add(HostStateChanged(t_s=START_S - 0.4, host=host, state="serving"))
    add(RunStarted(t_s=START_S, name="quickstart", seed=seed, duration_s=duration_s))
    add(FaultStarted(t_s=kill_s + 0.0008, fault=0))
    add(HostStateChanged(t_s=kill_s + 0.0012, host="node2", state="killed"))
    add(FaultEffective(t_s=kill_s + 0.0021, fault=0, detail="SIGKILL, process gone"))
    add(HostLost(t_s=kill_s + 0.0521, host="node2", how="connection", detail="reset by peer"))
    add(ServiceState(t_s=kill_s + 0.0522, state="recovering", detail="node2 was lost"))
    add(second)
    back_s = kill_s + 3.55
    for stage in second.stages:
        moved = stage.host == "spare"
        deployed = {"epoch": 2, "stage": stage.stage, "host": stage.host, "started_s": kill_s + 0.08}
        t_s = back_s - 0.01 if moved else kill_s + 0.12
        add(StageDeployed(t_s=t_s, bytes_sent=stage.weights_bytes if moved else 900, **deployed))  # type: ignore[arg-type]
    add(EpochActive(t_s=back_s, epoch=2, replayed=4))
    add(ServiceState(t_s=back_s, state="serving"))
    add(FaultStarted(t_s=throttle_s + 0.0005, fault=1))
    add(FaultEffective(t_s=throttle_s + 0.0051, fault=1, detail="2Mbit/s, read back"))
    add(FaultHealed(t_s=heal_s + 0.0049, fault=1, detail="20Mbit/s, read back"))

    waiting: list[tuple[int, float]] = []
    id_ = 0
    t_s = START_S

    def submit() -> None:
        nonlocal id_
        waiting.append((id_, t_s))
        add(RequestSubmitted(t_s=t_s, id=id_, due_s=t_s))
        id_ += 1

    for _ in range(4):
        submit()
    t_s += 0.55
    while waiting:
        slow = throttle_s <= t_s <= heal_s
        if kill_s <= t_s < back_s + 0.45:
            t_s = back_s + 0.45
        request, submitted_s = waiting.pop(0)
        epoch = 1 if t_s < kill_s else 2
        path = ("node1", "node2" if epoch == 1 else "spare")
        for stage, host in enumerate(path):
            begin = t_s - 0.40 + 0.2 * stage
            add(
                StageExecuted(
                    t_s=begin + 0.17,
                    id=request,
                    stage=stage,
                    host=host,
                    epoch=epoch,
                    received_s=begin - 0.01,
                    started_s=begin,
                    finished_s=begin + 0.16,
                    sent_s=begin + 0.17,
                    bytes_in=602112,
                    bytes_out=301056,
                )
            )
        attempts = 2 if submitted_s < kill_s <= t_s else 1
        add(
            RequestCompleted(
                t_s=t_s, id=request, submitted_s=submitted_s, outcome="ok", attempts=attempts, epoch=epoch, path=path
            )
        )
        if t_s < START_S + duration_s:
            submit()
        t_s += (1.0 if slow else 0.172) * rng.uniform(0.93, 1.07)

    used = dict.fromkeys(HOSTS, 0.0)
    sent = {link.name: 0 for link in NETWORK.links}
    for second_ in range(-1, int(duration_s) + 1):
        now = START_S + second_ + 0.02
        busy = not (8 <= second_ < 12)
        for host, share in zip(HOSTS, (0.3, 0.1, 0.1, 0.1), strict=True):
            works = host == "dispatcher" or (busy and host == ("node2" if second_ < 8 else "spare")) or host == "node1"
            used[host] += share * rng.uniform(0.6, 0.99) if works else 0.001
            if host == "node2" and second_ >= 8:
                continue
            add(
                HostSample(
                    t_s=now,
                    host=host,
                    cpu_usage_s=used[host],
                    throttled_s=used[host] * 2.1,
                    nr_throttled=int(used[host] * 500),
                    memory_bytes=int(rng.uniform(38, 44) * MIB),
                    oom_kills=0,
                    cpu_share=share,
                )
            )
        for link in NETWORK.links:
            rate = 2e6 if link.name == "node1-s1" and 20 <= second_ < 25 else float(link.rate_bps or 0)
            sent[link.name] += int(min(rate, 3.6e6 if busy else 18e6) / 8)
            for source, target in (link.between, link.between[::-1]):
                add(
                    LinkSample(
                        t_s=now,
                        link=link.name,
                        source=source,
                        target=target,
                        sent_bytes=sent[link.name],
                        drops=0,
                        backlog_bytes=0,
                        rate_bps=rate,
                    )
                )
        add(
            MachineSample(
                t_s=now,
                busy_s=second_ * 0.8,
                idle_s=second_ * 1.2,
                steal_s=0.0,
                pressure_s=second_ * 0.9,
            )
        )
        add(SchedulingSample(t_s=now, began_s=now - 1, lateness_ms=(0.06, 0.09, 0.4)))
    end_s = max(event.t_s for event in events)
    add(RunEnded(t_s=end_s))
    add(Note(t_s=end_s, source="dispatcher", text="a frame of epoch 1 was fenced off"))
    events.sort(key=lambda event: event.t_s)
    checks: list[Check] = verdict.checks_of_events(events)
    return [*events, *checks]


@pytest.fixture(scope="session")
def quickstart() -> tuple[Event, ...]:
    """The realistic quickstart."""
    return tuple(quickstart_history())


@pytest.fixture(scope="session")
def network() -> DrawnNetwork:
    """The quickstart's network."""
    return NETWORK


@pytest.fixture(scope="session")
def plan() -> Callable[..., PlanAdopted]:
    """Makes a plan: ``plan(t_s, epoch, hosts)``."""
    return adopted

"""From tables back to events, so that every figure is found by the one function that defines it.

What no figure needs (details of samples, notes) isn't in the tables and doesn't come back. Times are seconds since the
start of the workload, in declared units.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from runner.checker.reading import Line, Tables
from runner.events import (
    FaultEffective,
    FaultFailed,
    FaultHealed,
    FaultScheduled,
    FaultStarted,
    HostStateChanged,
    LinkSample,
    RunEnded,
    RunStarted,
)
from runner.tables import MIB
from testbed.serving.events import (
    EpochActive,
    EpochFenced,
    Event,
    HostFound,
    HostLeaving,
    HostLost,
    OutputMismatch,
    PlanAdopted,
    PlannedStage,
    RequestCompleted,
    RequestSubmitted,
    ServiceState,
    StageDeployed,
    StageExecuted,
    StorageTrouble,
)


def rebuilt(tables: Tables, duration_s: float) -> tuple[Event, ...]:
    """The events that the tables tell of, in the order of their times.

    Args:
        tables: All tables of a run.
        duration_s: For how long requests were submitted.

    Raises:
        DamagedFile: If a cell that is needed is empty.
    """
    found: list[Event] = []
    for line in tables["service.csv"]:
        found += _service(line, duration_s)
    for line in tables["requests.csv"]:
        found += _request(line)
    found += map(_execution, tables["stages.csv"])
    found += _epochs(tables)
    for line in tables["faults.csv"]:
        found += _fault(line)
    found += _links(tables)
    return tuple(sorted(found, key=lambda event: event.t_s))


def _service(line: Line, duration_s: float) -> Iterator[Event]:
    t_s, host, state, detail = line.number_of("t_s"), line.text("host"), line.text("state"), line.text("detail")
    match line.text("event"):
        case "run_started":
            yield RunStarted(t_s=t_s, name="", seed=0, duration_s=duration_s, dispatcher=host)
        case "run_ended":
            yield RunEnded(t_s=t_s, how=state, detail=detail)
        case "service":
            yield ServiceState(t_s=t_s, state=state, detail=detail)
        case "server":
            yield HostStateChanged(t_s=t_s, host=host, state=state, detail=detail)
        case "host_lost":
            yield HostLost(t_s=t_s, host=host, how=state, detail=detail)
        case "host_found":
            yield HostFound(t_s=t_s, host=host)
        case "host_leaving":
            yield HostLeaving(t_s=t_s, host=host)
        case "host_slow" | "host_steady":
            return  # no figure is made of them
        case "storage":
            yield StorageTrouble(t_s=t_s, host=host, detail=detail, over=state == "works")
        case "output_mismatch":
            yield OutputMismatch(t_s=t_s, id=line.count("id"), stage=0, host=host, epoch=0)
        case "fault_failed":
            yield FaultFailed(t_s=t_s, fault=line.count("id"), error=detail)
        case other:
            raise line.damage(f"no event is called {other!r}")


def _request(line: Line) -> Iterator[Event]:
    id_, submitted_s, completed_s = line.count("id"), line.maybe("submitted_s"), line.maybe("completed_s")
    if submitted_s is not None:
        yield RequestSubmitted(t_s=submitted_s, id=id_, due_s=submitted_s)
    if completed_s is not None and line.text("outcome") != "lost":
        error_pct = line.maybe("error_pct")
        yield RequestCompleted(
            t_s=completed_s,
            id=id_,
            submitted_s=completed_s if submitted_s is None else submitted_s,
            outcome=line.text("outcome"),
            attempts=line.count("attempts"),
            epoch=line.count("epoch"),
            path=line.words("path"),
            error=None if error_pct is None else error_pct / 100,
            same_class=line.flag("same_class") if line.text("same_class") else None,
            degraded=line.flag("degraded"),
        )


def _execution(line: Line) -> StageExecuted:
    overshoot_ms = line.maybe("overshoot_ms")
    return StageExecuted(
        t_s=line.number_of("sent_s"),
        id=line.count("id"),
        stage=line.count("stage"),
        host=line.text("host"),
        epoch=line.count("epoch"),
        received_s=line.number_of("received_s"),
        started_s=line.number_of("started_s"),
        finished_s=line.number_of("finished_s"),
        sent_s=line.number_of("sent_s"),
        bytes_in=line.count("bytes_in"),
        bytes_out=line.count("bytes_out"),
        computed=line.flag("computed"),
        overshoot_s=None if overshoot_ms is None else overshoot_ms / 1e3,
    )


def _epochs(tables: Tables) -> Iterator[Event]:
    stages: defaultdict[int, list[Line]] = defaultdict(list)
    for line in tables["plan.csv"]:
        stages[line.count("epoch")].append(line)
    for line in tables["epochs.csv"]:
        epoch, adopted_s = line.count("epoch"), line.number_of("adopted_s")
        yield PlanAdopted(
            t_s=adopted_s,
            epoch=epoch,
            strategy=line.text("strategy"),
            reason=line.text("reason"),
            stages=tuple(map(_planned, stages[epoch])),
            return_bits=line.number_of("return_mbit") * 1e6,
            return_s=line.number_of("return_ms") / 1e3,
            throughput_rps=line.number_of("predicted_rps"),
            latency_s=line.number_of("predicted_latency_ms") / 1e3,
            bottleneck=line.text("predicted_bottleneck"),
            gap=None if line.text("gap") == "" else float(line.text("gap")),
            planning_s=line.number_of("planning_ms") / 1e3,
            skipped=line.runs("skipped"),
        )
        if (active_s := line.maybe("active_s")) is not None:
            yield EpochActive(t_s=active_s, epoch=epoch, replayed=line.count("replayed"))
        if (fenced_s := line.maybe("fenced_s")) is not None:
            yield EpochFenced(t_s=fenced_s, epoch=epoch, reason=line.text("fence_reason"))
        for stage in stages[epoch]:
            if (deploy_s := stage.maybe("deploy_s")) is not None:
                yield StageDeployed(
                    t_s=adopted_s + deploy_s,
                    epoch=epoch,
                    stage=stage.count("stage"),
                    host=stage.text("host"),
                    started_s=adopted_s,
                    bytes_sent=round(stage.number_of("deploy_mbit") * 1e6 / 8),
                )


def _planned(line: Line) -> PlannedStage:
    return PlannedStage(
        stage=line.count("stage"),
        host=line.text("host"),
        first_op=line.count("first_op"),
        last_op=line.count("last_op"),
        weights_bytes=round(line.number_of("weights_mib") * MIB),
        memory_bytes=round(line.number_of("memory_mib") * MIB),
        compute_s=line.number_of("compute_ms") / 1e3,
        transfer_bits=line.number_of("transfer_mbit") * 1e6,
        link_s=line.number_of("link_ms") / 1e3,
        is_bottleneck=line.flag("is_bottleneck"),
    )


def _fault(line: Line) -> Iterator[Event]:
    fault, due_s = line.count("id"), line.number_of("due_s")
    yield FaultScheduled(
        t_s=due_s,
        fault=fault,
        verb=line.text("kind"),
        target=line.text("target"),
        due_s=due_s,
        hosts=line.words("hosts"),
        links=line.words("links"),
        ends=line.words("ends"),
        detail=line.text("detail"),
        entry=line.text("entry"),
    )
    if (started_s := line.maybe("started_s")) is not None:
        yield FaultStarted(t_s=started_s, fault=fault)
    if (effective_s := line.maybe("effective_s")) is not None:
        yield FaultEffective(t_s=effective_s, fault=fault)
    if (healed_s := line.maybe("healed_s")) is not None:
        yield FaultHealed(t_s=healed_s, fault=fault)


def _links(tables: Tables) -> Iterator[LinkSample]:
    sent_bytes: defaultdict[tuple[str, str, str], float] = defaultdict(float)
    for line in tables["links.csv"]:
        key = line.text("link"), line.text("from"), line.text("to")
        sent_mbit, rate_mbit_s = line.maybe("sent_mbit"), line.maybe("rate_mbit_s")
        # A first sample of an interface counts from nothing.
        sent_bytes[key] = 0.0 if sent_mbit is None else sent_bytes[key] + sent_mbit * 1e6 / 8
        yield LinkSample(
            t_s=line.number_of("t_s"),
            link=key[0],
            source=key[1],
            target=key[2],
            sent_bytes=round(sent_bytes[key]),
            drops=0,
            backlog_bytes=line.count("backlog_bytes"),
            rate_bps=None if rate_mbit_s is None else rate_mbit_s * 1e6,
        )

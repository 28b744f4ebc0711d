"""Rules of the service as a whole: its epochs, its hosts, the faults, and the run itself."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from runner.checker.evidence import TICK_S, Evidence
from runner.checker.findings import Finding
from runner.checker.reading import Line
from runner.disturbances import Disturbance, disturbances

LOSS_LAG_S = 30.0
"""A host that is taken for dead so long after a fault of it or its link has healed still suffers from that."""


def the_run_ran_to_its_end(evidence: Evidence) -> Iterator[Finding]:
    """A workload that started, ended as it should, and had answers."""
    lines = evidence.tables["service.csv"]
    if not any(line.text("event") == "run_started" for line in lines):
        yield Finding("error", "no-start", "the workload never started", "service.csv")
    ends = [line for line in lines if line.text("event") == "run_ended"]
    if not ends:
        yield Finding("error", "no-end", "the run has no end: its runner died", "service.csv")
    elif ends[0].text("state") != "completed":
        how = ends[0].text("state")
        text = f"the run {how if how == 'failed' else f'was {how}'}{_because(ends[0])}"
        yield Finding("error", "no-end", text, ends[0].file, ends[0].number)
    if not any(line.text("outcome") == "ok" for line in evidence.requests):
        yield Finding("error", "no-answer", "no request was answered", "requests.csv")


def epochs_follow_each_other(evidence: Evidence) -> Iterator[Finding]:
    """Each epoch has a plan, was adopted before it served and served before it ended; no two served at once."""
    served: list[tuple[float, float, Line]] = []
    seen: set[int] = set()
    for line in evidence.tables["epochs.csv"]:
        epoch, adopted_s = line.count("epoch"), line.number_of("adopted_s")
        active_s, fenced_s = line.maybe("active_s"), line.maybe("fenced_s")
        if epoch in seen:
            yield Finding("error", "epochs", f"epoch {epoch} is there twice", line.file, line.number)
        if seen and epoch < max(seen):
            yield Finding("error", "epochs", f"epoch {epoch} comes after epoch {max(seen)}", line.file, line.number)
        seen.add(epoch)
        stages = [stage.count("stage") for stage in evidence.plans.get(epoch, ())]
        if stages != list(range(len(stages))) or not stages:
            text = f"the stages of epoch {epoch} are {', '.join(map(str, stages)) or 'none'}"
            yield Finding("error", "epochs", text, "plan.csv")
        times = [t_s for t_s in (adopted_s, active_s, fenced_s) if t_s is not None]
        if any(before > after + TICK_S for before, after in pairwise(times)):
            text = f"epoch {epoch} wasn't first adopted, then active, then fenced off"
            yield Finding("error", "order", text, line.file, line.number)
        if active_s is not None:
            served.append((active_s, float("inf") if fenced_s is None else fenced_s, line))
    for (_, until_s, before), (since_s, _, after) in pairwise(sorted(served, key=lambda each: each[0])):
        if since_s < until_s - TICK_S:
            text = f"epoch {after.count('epoch')} served before epoch {before.count('epoch')} was fenced off"
            yield Finding("error", "epochs", text, after.file, after.number)
    for epoch in sorted(evidence.plans.keys() - seen):
        line = evidence.plans[epoch][0]
        yield Finding("error", "epochs", f"there is no epoch {epoch}", line.file, line.number)


def hosts_did_as_told(evidence: Evidence) -> Iterator[Finding]:
    """No server died by itself, no calibrated host computed two outputs of one input, none was lost without a fault."""
    for line in evidence.tables["service.csv"]:
        host = line.text("host")
        match line.text("event"), line.text("state"):
            case "server", "dead":
                text = f"{host} died, and no fault had killed it{_because(line)}"
                yield Finding("error", "died", text, line.file, line.number)
            case "output_mismatch", _:
                text = f"{host} computed another output for request {line.count('id')} than it had kept"
                yield Finding("error", "mismatch", text, line.file, line.number)
            case "host_lost", how if how != "left" and not _explained(evidence, host, line.number_of("t_s")):
                text = f"{host} was taken for dead, and no fault had touched it ({line.text('detail') or 'no reason'})"
                yield Finding("warning", "false-alarm", text, line.file, line.number)
            case "fault_failed", _:
                text = f"fault {line.count('id')} could not be applied{_because(line)}"
                yield Finding("error", "fault-failed", text, line.file, line.number)


def _explained(evidence: Evidence, host: str, t_s: float) -> bool:
    """Whether a fault of the host or of a link was in force at the time, or shortly before; or its server was down.

    A fault of any link may: what a host says goes over the links of others.
    """
    if any(since_s <= t_s for since_s, _ in evidence.downs.get(host, ())):
        return True
    for fault in evidence.tables["faults.csv"]:
        started_s, healed_s = fault.maybe("started_s"), fault.maybe("healed_s")
        touches = host in (*fault.words("hosts"), *fault.words("ends")) or bool(fault.words("links"))
        if not touches or started_s is None or started_s > t_s:
            continue
        if healed_s is None or t_s <= healed_s + LOSS_LAG_S:
            return True
    return False


def faults_were_overcome(evidence: Evidence) -> Iterator[Finding]:
    """Each fault's times are in order, and service came back from those that took it away."""
    lines = {line.count("id"): line for line in evidence.tables["faults.csv"]}
    for line in lines.values():
        times = [t_s for c in ("started_s", "effective_s", "healed_s") if (t_s := line.maybe(c)) is not None]
        if any(before > after + TICK_S for before, after in pairwise(times)):
            text = f"fault {line.count('id')} wasn't first started, then in force, then healed"
            yield Finding("error", "order", text, line.file, line.number)
    for fault in disturbances(evidence.events):
        if fault.needs_recovery and fault.recovered_s is None:
            line = lines[fault.fault]
            text = f"no recovery from {fault.kind} {fault.target}: {_stuck(evidence, fault)}"
            yield Finding("error", "no-recovery", text, line.file, line.number)


def _stuck(evidence: Evidence, fault: Disturbance) -> str:
    if fault.detected_s is None:
        return "it was never noticed"
    story = evidence.tables["service.csv"]
    # What comes after the run's end is the end of its hosts.
    end = next((place for place, line in enumerate(story) if line.text("event") == "run_ended"), len(story))
    states = [line for line in story[:end] if line.text("event") == "service"]
    if states and states[-1].text("state") == "unavailable":
        return f"service is unavailable{_because(states[-1])}"
    return "no new plan was made" if fault.replanned_s is None else "service never resumed"


def _because(line: Line) -> str:
    return f": {line.text('detail')}" if line.text("detail") else ""

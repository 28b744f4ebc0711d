"""What each fault did to the service: when it was noticed, planned around and overcome, and what it cost.

How a fault is matched with what followed it:

- A fault of hosts (``kill``, ``isolate`` …): *detected* at the first :class:`HostLost` of one of its hosts since it
  started, or :class:`HostLeaving`; *replanned* at the first plan adopted after that which uses none of them (or any
  plan, once the fault is healed); *recovered* when the client has the first right answer of that plan's epoch or a
  later one. If none of its hosts had a stage in the epoch that served, service went on: it is recovered at the first
  right answer after it, unless a new plan came all the same before it was healed. One that was healed before anybody
  planned around it is recovered at the first right answer after its healing.
- A fault that changes a host (``cpu``; ``memory`` as long as the kernel kills nothing for it) is told of as one of
  links whose end it is.
- A fault of the dispatcher is not *detected* by anybody in the service; it is recovered at the first right answer of
  an epoch that was activated since.
- ``join``: *detected* when the dispatcher has found the host, *replanned* at the first plan from then on that uses it;
  recovered at the first right answer of that plan, or without one at the first right answer after it.
- A fault of links (``throttle``, ``partition``): *detected* and *replanned* only if a host at an end of a link was
  taken for dead, or a plan adopted, while it was in force and no fault of hosts accounts for that. *Recovered* when
  throughput is back, as :class:`RecoveryRule` defines it.

- A fault of disks takes no service away by itself: *detected* when a node it hit told that its storage fails or is
  damaged, which it notices when it next needs it; *replanned* and *recovered* as for a fault of links.

Throughput is right answers a second, as the client gets them:

- *before*: from the end of the previous fault's disturbance (or the first right answer) to this fault;
- *during*: from this fault to the end of its disturbance: its recovery, for links its healing if that is later;
- *after*: from there to the next fault or the end of the workload.
"""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from runner import tables
from runner.answer_rate import rate_rps, right_answers
from runner.events import FaultHealed, FaultScheduled, FaultStarted, HostStateChanged, RunStarted
from testbed.serving.events import (
    EpochActive,
    Event,
    HostFound,
    HostLeaving,
    HostLost,
    PlanAdopted,
    PlannedStage,
    StorageTrouble,
)
from testbed.spec.faults import ACCEPTED, DiskFault

DISK_VERBS = frozenset(kind.verb for kind in ACCEPTED if issubclass(kind, DiskFault))
"""Kinds of faults of disks."""

CHANGES = frozenset({"cpu"})
"""Faults of hosts that take nothing away from them but speed."""

LATE_S = 1.0
"""So much may lie between the kernel's killing for want of memory and the news of it."""


@dataclass(frozen=True, slots=True)
class RecoveryRule:
    """When throughput counts as back after a fault of a link.

    ``answers + 1`` consecutive right answers are *slow* if they took longer than ``answers`` answers should at
    ``share`` of the throughput before the fault. If none in the fault's time are slow, the fault cost nothing and is
    recovered at the first answer after it. Otherwise it is recovered at the first answer after the healing (for a fault
    that is never healed: after the first slow ones) from which they are not slow.
    """

    answers: int = 5
    share: float = 0.8


@dataclass(frozen=True, slots=True)
class Disturbance:
    """A fault and what followed; times on the clock of all events, None for what did not happen."""

    fault: int
    kind: str
    target: str
    hosts: tuple[str, ...]
    links: tuple[str, ...]
    ends: tuple[str, ...]
    detail: str
    due_s: float
    started_s: float | None
    effective_s: float | None
    healed_s: float | None
    detected_s: float | None
    replanned_s: float | None
    recovered_s: float | None
    ended_s: float | None
    needs_recovery: bool
    lost_requests: int
    throughput_before_rps: float | None
    throughput_during_rps: float | None
    throughput_after_rps: float | None
    entry: str = ""


def disturbances(events: Sequence[Event], rule: RecoveryRule = RecoveryRule()) -> list[Disturbance]:
    """Every scheduled fault with what followed it, in the order of the timeline."""
    analysis = _Analysis(events, rule)
    return [analysis.disturbance(fault) for fault in analysis.scheduled]


@dataclass(frozen=True, slots=True)
class _Outcome:
    detected_s: float | None = None
    replanned_s: float | None = None
    recovered_s: float | None = None
    ended_s: float | None = None
    needs_recovery: bool = False


class _Analysis:
    """One pass over a history; the outcomes are found in the order in which the faults took effect."""

    def __init__(self, events: Sequence[Event], rule: RecoveryRule) -> None:
        self.events = sorted(events, key=lambda e: e.t_s)
        self.rule = rule
        self.answers = right_answers(self.events)
        self.answers_s = [answer.t_s for answer in self.answers]
        self.end_s = tables.workload_end_s(self.events)
        self.scheduled = tables.scheduled_faults(self.events)
        self.started = {e.fault: e.t_s for e in reversed(self.events) if isinstance(e, FaultStarted)}
        self.healed = {e.fault: e.t_s for e in reversed(self.events) if isinstance(e, FaultHealed)}
        self.effective = tables.effective_faults(self.events)
        self.lost_hosts = [e for e in self.events if isinstance(e, HostLost)]
        self.departures = [e for e in self.events if isinstance(e, HostLost | HostLeaving)]
        self.plans = [e for e in self.events if isinstance(e, PlanAdopted)]
        by_fault = {fault.fault: fault for fault in self.scheduled}
        order = [by_fault[fault] for fault in self.effective if fault in by_fault]
        self.states = [e for e in self.events if isinstance(e, HostStateChanged)]
        self.found = [e for e in self.events if isinstance(e, HostFound)]
        self.dispatcher = next((e.dispatcher for e in self.events if isinstance(e, RunStarted)), "")
        self.outcomes: dict[int, _Outcome] = {}
        self.explained: set[Event] = set()
        of_links = [fault for fault in order if not self._takes_hosts(fault)]
        for fault in order:
            if fault.verb == "join":
                self.outcomes[fault.fault] = self._join_outcome(fault)
            elif fault in of_links or fault.verb in DISK_VERBS:
                continue
            elif self.dispatcher in fault.hosts:
                self.outcomes[fault.fault] = self._dispatcher_outcome(fault)
            else:
                self.outcomes[fault.fault] = self._host_outcome(fault)
        for fault in order:
            if fault.verb in DISK_VERBS:
                self.outcomes[fault.fault] = self._disk_outcome(fault)
            elif fault in of_links:
                self.outcomes[fault.fault] = self._link_outcome(fault)
        self.order = [fault.fault for fault in order]
        self.lost = self._lost_requests()

    def disturbance(self, fault: FaultScheduled) -> Disturbance:
        outcome = self.outcomes.get(fault.fault, _Outcome())
        effective_s = self.effective.get(fault.fault)
        before = during = after = None
        if effective_s is not None:
            horizon_s = self._horizon_s(effective_s)
            ended_s = outcome.ended_s if outcome.ended_s is not None else horizon_s
            before = rate_rps(self.answers_s, self._calm_since_s(fault.fault), effective_s)
            during = rate_rps(self.answers_s, effective_s, ended_s, closed=False)
            after = rate_rps(self.answers_s, ended_s, horizon_s)
        return Disturbance(
            fault=fault.fault,
            kind=fault.verb,
            target=fault.target,
            hosts=fault.hosts,
            links=fault.links,
            ends=fault.ends,
            detail=fault.detail,
            due_s=fault.due_s,
            started_s=self.started.get(fault.fault),
            effective_s=effective_s,
            healed_s=self.healed.get(fault.fault),
            detected_s=outcome.detected_s,
            replanned_s=outcome.replanned_s,
            recovered_s=outcome.recovered_s,
            ended_s=outcome.ended_s,
            needs_recovery=outcome.needs_recovery,
            lost_requests=self.lost.get(fault.fault, 0),
            throughput_before_rps=before,
            throughput_during_rps=during,
            throughput_after_rps=after,
            entry=fault.entry,
        )

    def _takes_hosts(self, fault: FaultScheduled) -> bool:
        """Whether it takes the service of hosts away; a squeezed memory does only if the kernel kills for it."""
        if fault.verb != "memory":
            return bool(fault.hosts) and fault.verb not in CHANGES
        since_s, until_s = self.effective[fault.fault], self.healed.get(fault.fault, self.end_s)
        return any(
            e.host in fault.hosts and e.state == "killed" and since_s - LATE_S <= e.t_s <= until_s + LATE_S
            for e in self.states
        )

    def _join_outcome(self, fault: FaultScheduled) -> _Outcome:
        effective_s = self.effective[fault.fault]
        detected_s = min((e.t_s for e in self.found if e.host in fault.hosts and e.t_s >= effective_s), default=None)
        replanned: PlanAdopted | None = None
        if detected_s is not None:
            uses = (p for p in self.plans if p.t_s >= detected_s and any(s.host in fault.hosts for s in p.stages))
            replanned = next(uses, None)
        if replanned is None:
            recovered_s = self._first_answer_s(effective_s)
        else:
            self.explained.add(replanned)
            recovered_s = next((a.t_s for a in self.answers if a.epoch >= replanned.epoch), None)
        return _Outcome(
            detected_s=detected_s,
            replanned_s=None if replanned is None else replanned.t_s,
            recovered_s=recovered_s,
            ended_s=recovered_s,
        )

    def _dispatcher_outcome(self, fault: FaultScheduled) -> _Outcome:
        """Nobody detects it; a pause may pass, otherwise the dispatcher that comes back starts an epoch."""
        effective_s, healed_s = self.effective[fault.fault], self.healed.get(fault.fault)
        plan = next((plan for plan in self.plans if plan.t_s >= effective_s), None)
        active = next((e for e in self.events if isinstance(e, EpochActive) and e.t_s >= effective_s), None)
        if active is not None:
            recovered_s = next((a.t_s for a in self.answers if a.epoch >= active.epoch and a.t_s >= active.t_s), None)
        else:
            recovered_s = None if fault.verb != "pause" or healed_s is None else self._first_answer_s(healed_s)
        if plan is not None:
            self.explained.add(plan)
        return _Outcome(
            replanned_s=None if plan is None else plan.t_s,
            recovered_s=recovered_s,
            ended_s=recovered_s,
            needs_recovery=True,
        )

    def _host_outcome(self, fault: FaultScheduled) -> _Outcome:
        effective_s = self.effective[fault.fault]
        since_s = min(self.started.get(fault.fault, effective_s), effective_s)
        healed_s = self.healed.get(fault.fault)
        lost = [e for e in self.departures if e.host in fault.hosts and e.t_s >= since_s and e not in self.explained]
        self.explained.update(lost[:1])
        detected_s = lost[0].t_s if lost else None
        needed = any(stage.host in fault.hosts for stage in self._serving(since_s))
        replanned: PlanAdopted | None = None
        if detected_s is not None:
            for plan in self.plans:
                if not needed and healed_s is not None and plan.t_s > healed_s:
                    break  # it came for other reasons: nobody had to plan around hosts that were back
                without = all(stage.host not in fault.hosts for stage in plan.stages)
                if plan.t_s >= detected_s and (without or (healed_s is not None and plan.t_s >= healed_s)):
                    replanned = plan
                    break
        if replanned is not None:
            self.explained.add(replanned)
            recovered_s = next((a.t_s for a in self.answers if a.epoch >= replanned.epoch), None)
        elif not needed:
            recovered_s = self._first_answer_s(effective_s)
        elif healed_s is not None:
            recovered_s = self._first_answer_s(healed_s)
        else:
            recovered_s = None
        return _Outcome(
            detected_s=detected_s,
            replanned_s=None if replanned is None else replanned.t_s,
            recovered_s=recovered_s,
            ended_s=recovered_s,
            needs_recovery=needed,
        )

    def _link_outcome(self, fault: FaultScheduled) -> _Outcome:
        effective_s = self.effective[fault.fault]
        healed_s = self.healed.get(fault.fault)
        horizon_s = self._horizon_s(effective_s)
        recovered_s = self._throughput_back_s(fault.fault, effective_s, healed_s, horizon_s)
        until_s = healed_s if healed_s is not None else horizon_s
        lost_s = [
            e.t_s
            for e in self.lost_hosts
            if effective_s <= e.t_s <= until_s and e.host in {*fault.ends, *fault.hosts} and e not in self.explained
        ]
        planned_s = [e.t_s for e in self.plans if effective_s <= e.t_s <= until_s and e not in self.explained]
        ended = [t for t in (healed_s, recovered_s) if t is not None]
        return _Outcome(
            detected_s=min(lost_s, default=None),
            replanned_s=min(planned_s, default=None),
            recovered_s=recovered_s,
            ended_s=max(ended) if recovered_s is not None else None,
        )

    def _disk_outcome(self, fault: FaultScheduled) -> _Outcome:
        since_s, following = self.effective[fault.fault], (e for e in self.events if isinstance(e, StorageTrouble))
        until_s = self.healed.get(fault.fault, math.inf)
        told_s = (e.t_s for e in following if e.host in fault.hosts and not e.over and since_s <= e.t_s <= until_s)
        return dataclasses.replace(self._link_outcome(fault), detected_s=next(told_s, None))

    def _throughput_back_s(
        self, fault: int, effective_s: float, healed_s: float | None, horizon_s: float
    ) -> float | None:
        before = rate_rps(self.answers_s, self._calm_since_s(fault), effective_s)
        if not before:
            return self._first_answer_s(effective_s if healed_s is None else healed_s)
        limit_s = self.rule.answers / (before * self.rule.share)
        until_s = horizon_s if healed_s is None else min(healed_s, horizon_s)
        slow_s = self._first_slow_s(effective_s, until_s, limit_s)
        if slow_s is None:
            return self._first_answer_s(effective_s)
        first = bisect_right(self.answers_s, slow_s) if healed_s is None else bisect_left(self.answers_s, healed_s)
        for index in range(first, len(self.answers_s) - self.rule.answers):
            group_end_s = self.answers_s[index + self.rule.answers]
            if group_end_s - self.answers_s[index] <= limit_s:
                return self.answers_s[index] if self.answers_s[index] <= horizon_s else None
        return None

    def _first_slow_s(self, since_s: float, until_s: float, limit_s: float) -> float | None:
        """The start of the first slow group that touches the window; silence up to its end is slow too."""
        index = max(0, bisect_right(self.answers_s, since_s) - 1)
        while index < len(self.answers_s) and self.answers_s[index] < until_s:
            last = index + self.rule.answers
            group_end_s = self.answers_s[last] if last < len(self.answers_s) else until_s
            if max(group_end_s - max(self.answers_s[index], since_s), 0.0) > limit_s:
                return self.answers_s[index]
            index += 1
        if not self.answers_s and until_s - since_s > limit_s:
            return until_s
        return None

    def _serving(self, t_s: float) -> tuple[PlannedStage, ...]:
        active = [e.epoch for e in self.events if isinstance(e, EpochActive) and e.t_s <= t_s]
        plan = next((plan for plan in self.plans if active and plan.epoch == active[-1]), None)
        return plan.stages if plan is not None else ()

    def _first_answer_s(self, since_s: float) -> float | None:
        index = bisect_left(self.answers_s, since_s)
        return self.answers_s[index] if index < len(self.answers_s) else None

    def _horizon_s(self, effective_s: float) -> float:
        """The next fault's effect, or the end of the workload."""
        following = [t for t in self.effective.values() if t > effective_s]
        return min([*following, max(self.end_s, effective_s)])

    def _calm_since_s(self, fault: int) -> float:
        """The end of the disturbance before this fault, or the first right answer."""
        since_s = self.answers_s[0] if self.answers_s else self.effective[fault]
        for other, effective_s in self.effective.items():
            if other == fault or effective_s > self.effective[fault]:
                continue
            outcome = self.outcomes.get(other)
            ended_s = effective_s if outcome is None or outcome.ended_s is None else outcome.ended_s
            since_s = max(since_s, ended_s)
        return since_s

    def _lost_requests(self) -> dict[int, int]:
        """Lost requests by the fault they fall to.

        That is the last fault which had taken effect and was not overcome when the request was submitted, otherwise the
        first one that took effect after it.
        """
        zero = tables.start_s(self.events)
        counts: dict[int, int] = {}
        for row in tables.request_rows(self.events):
            if row["outcome"] != "lost":
                continue
            submitted_s = float(row["submitted_s"] or 0.0) + zero
            open_ = [f for f in self.order if self.effective[f] <= submitted_s and not self._over(f, submitted_s)]
            later = [f for f in self.order if self.effective[f] > submitted_s]
            for fault in [*open_[-1:], *later[:1]][:1]:
                counts[fault] = counts.get(fault, 0) + 1
        return counts

    def _over(self, fault: int, t_s: float) -> bool:
        ended_s = self.outcomes[fault].ended_s
        return ended_s is not None and ended_s <= t_s

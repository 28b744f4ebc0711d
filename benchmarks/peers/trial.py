"""What a trial came to: pure, from its events."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from testbed.serving.events import ClientFinished, Event, HostLost, RequestCompleted, RequestSubmitted

ANSWERED = "all answered"
FAILED = "failed"
HANGING = "still hanging"


@dataclass(frozen=True, slots=True)
class Trial:
    """One system under one fault.

    Attributes:
        system, fault: Which.
        asked, right, wrong, missing: Requests, and what became of them.
        noticed_s: From the fault to the first exception, abnormal end or detected loss anywhere; None without one.
        told_s: From the fault to the first exception on the asking side; None without one.
        outage_s: The longest time without a right answer from the fault on, while something was asked.
        state: ``all answered``, ``failed`` (the asker knows) or ``still hanging``.
        watched_s: From the fault to the end of the trial.
    """

    system: str
    fault: str
    asked: int
    right: int
    wrong: int
    missing: int
    noticed_s: float | None
    told_s: float | None
    outage_s: float
    state: str
    watched_s: float

    def line(self) -> str:
        """A row of the table."""

        def seconds(value: float | None) -> str:
            return "-" if value is None else f"{value:.3f}"

        told = f"{HANGING} at {self.watched_s:.0f}" if self.state == HANGING else seconds(self.told_s)
        outage = f"{self.outage_s:.2f}" if self.state == ANSWERED else "for good"
        return (
            f"{self.system:<8}{self.fault:<10}{self.asked:>6}{self.right:>6}{self.wrong:>6}{self.missing:>8}"
            f"{seconds(self.noticed_s):>17}{told:>20}{outage:>10}"
        )


def outcome(
    system: str,
    fault: str,
    events: Sequence[Event],
    errors: Sequence[tuple[float, str]],
    fault_s: float,
    ended_s: float,
    asker: str,
) -> Trial:
    """Judge a trial.

    Args:
        system: Which it was.
        fault: The fault's name.
        events: Everything that its processes told.
        errors: Exceptions and abnormal ends: when, and of which process.
        fault_s: When the fault struck, on the clock of the events.
        ended_s: When the trial was over.
        asker: The name of the process that asks.
    """
    asked = {event.id for event in events if isinstance(event, RequestSubmitted)}
    answers = [event for event in events if isinstance(event, RequestCompleted)]
    right = [event for event in answers if event.outcome == "ok"]
    finished = [event.t_s for event in events if isinstance(event, ClientFinished)]
    missing = len(asked) - len({event.id for event in answers})
    after = [(t_s, who) for t_s, who in errors if t_s >= fault_s]
    noticed = [t_s for t_s, _ in after]
    noticed += [event.t_s for event in events if isinstance(event, HostLost) and event.t_s >= fault_s]
    told = min((t_s for t_s, who in after if who == asker), default=None)
    # While nothing is asked any more, nobody waits for an answer.
    end_s = ended_s if missing else max([fault_s, *(event.t_s for event in answers)])
    marks = [fault_s, *sorted(event.t_s for event in right if event.t_s > fault_s), end_s]
    if not missing:
        state = ANSWERED
    elif told is not None or finished:
        state = FAILED
    else:
        state = HANGING
    return Trial(
        system=system,
        fault=fault,
        asked=len(asked),
        right=len(right),
        wrong=sum(event.outcome == "wrong" for event in answers),
        missing=missing,
        noticed_s=min(noticed) - fault_s if noticed else None,
        told_s=None if told is None else told - fault_s,
        outage_s=max(later - earlier for earlier, later in itertools.pairwise(marks)),
        state=state,
        watched_s=ended_s - fault_s,
    )

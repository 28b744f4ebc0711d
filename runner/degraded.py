"""Are degraded answers right? Each must be what the model gives without exactly the operations that its plan lacks.

What they are is taken from the stages of the plan of an answer's epoch, and what the model gives then is computed here,
after the run, by the graph without them and in one piece: no stage, no network and no dispatcher has a part in it. So a
wrong answer can't hide behind its mark.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import torch

from runner import tables
from runner.events import DegradedJudged
from runner.judgement import Judgement, judge
from runner.kept_answers import kept
from runner.left_out import Runs, left_out
from testbed.model.executor import StageExecutor
from testbed.model.graph import ModelGraph
from testbed.serving.events import Event, RequestCompleted, now_s


def judge_degraded(
    events: Sequence[Event],
    graph: ModelGraph,
    inputs: Sequence[Sequence[torch.Tensor]],
    answers: Path,
    codec: str,
) -> Iterator[DegradedJudged]:
    """A judgement on every degraded answer of a history; none on one that can't be read.

    Args:
        events: The history.
        graph: The model.
        inputs: Of the requests: request ``n`` asked for number ``n`` of them, modulo their number.
        answers: Where the client has kept the answers.
        codec: Through which they came.
    """
    plans = tables.plans(events)

    @cache
    def expected(runs: Runs, sample: int) -> list[torch.Tensor]:
        shorter = graph.without(runs)
        executor = StageExecutor(shorter.stage(0, len(shorter.ops)), shorter.weights)
        with torch.inference_mode():
            return executor.run([tensor.clone() for tensor in inputs[sample]])

    @cache
    def judgement(epoch: int, sample: int, answer: str) -> Judgement | None:
        plan = plans.get(epoch)
        if plan is None:
            return Judgement("wrong")
        runs = left_out([(stage.first_op, stage.last_op) for stage in plan.stages], len(graph.ops))
        try:
            return judge(expected(runs, sample), kept(answers, answer), codec)
        except ValueError:
            return Judgement("wrong")  # nothing that could be left out
        except OSError:
            return None

    for event in events:
        if isinstance(event, RequestCompleted) and event.outcome == "degraded" and event.answer:
            found = judgement(event.epoch, event.id % len(inputs), event.answer)
            if found is not None:
                yield DegradedJudged(
                    t_s=now_s(), id=event.id, answer=event.answer, outcome=found.outcome, error=found.error
                )


def settled(events: Iterable[Event]) -> tuple[Event, ...]:
    """A history in which degraded answers have the outcome that they were judged to have, if they were."""
    events = tuple(events)
    found = {(event.id, event.answer): event.outcome for event in events if isinstance(event, DegradedJudged)}
    return tuple(
        dataclasses.replace(event, outcome=found.get((event.id, event.answer), event.outcome))
        if isinstance(event, RequestCompleted) and event.outcome == "degraded"
        else event
        for event in events
    )

"""Degraded answers: what they should be is computed apart from what served them, and every lie about them is found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from runner.checker.findings import Ruling
from runner.degraded import judge_degraded, settled
from runner.judgement import Judgement, compare
from runner.kept_answers import keep, kept
from runner.left_out import as_text, from_text, left_out
from testbed.model.graph import ModelGraph
from testbed.serving.codecs import NONE
from testbed.serving.events import Event, PlanAdopted, RequestCompleted
from tests.model.test_streams import Blocks
from tests.runner.story import Files, Rows, Story, checked, files_of, files_with, rows_of

STORY = Story(service_s=(0.03, 0.05, 0.04), skips=True)


def test_what_lies_between_stages_is_left_out() -> None:
    assert left_out([(0, 4), (4, 9)], 9) == ()
    assert left_out([(2, 4), (6, 8)], 9) == ((0, 2), (4, 6), (8, 9))
    assert as_text(((0, 2), (4, 5))) == "0-1 4-4"
    assert from_text("0-1 4-4") == ((0, 2), (4, 5))
    assert from_text("") == ()
    with pytest.raises(ValueError, match="too many values"):
        from_text("1-2-3")


def test_answers_that_are_alike_are_kept_once_and_bit_for_bit(tmp_path: Path) -> None:
    first = [torch.tensor([1.0, float("nan"), -0.0]), torch.tensor([[3]])]
    name = keep(tmp_path, first)
    assert keep(tmp_path, [tensor.clone() for tensor in first]) == name
    assert keep(tmp_path, [first[0], torch.tensor([[4]])]) != name
    assert len(list(tmp_path.iterdir())) == 2
    for before, after in zip(first, kept(tmp_path, name), strict=True):
        assert before.numpy().tobytes() == after.numpy().tobytes()
        assert before.shape == after.shape


def test_a_degraded_answer_is_compared_with_the_whole_models() -> None:
    whole = [torch.tensor([[0.0, 1.0, 4.0]])]
    assert compare(whole, [torch.tensor([[0.0, 3.0, 4.0]])]) == Judgement("degraded", 0.5, same_class=True)
    assert compare(whole, [torch.tensor([[4.0, 1.0, 0.0]])]) == Judgement("degraded", 1.0, same_class=False)
    assert compare(whole, [torch.zeros(1, 2)]).outcome == "wrong"


# What the client has kept against what the graph gives without the operations that the plan leaves out.

INPUTS = [[torch.randn(2, 4, generator=torch.Generator().manual_seed(seed))] for seed in range(2)]


def history(folder: Path, answer: Callable[[int], torch.Tensor], *stages: tuple[int, int]) -> list[Event]:
    """Two requests for each input in an epoch with these stages, answered so."""
    (plan,) = [event for event in Story().events() if isinstance(event, PlanAdopted) and event.epoch == 1]
    rows = [
        dataclasses.replace(plan.stages[0], stage=number, first_op=first, last_op=last)
        for number, (first, last) in enumerate(stages)
    ]
    told: list[Event] = [dataclasses.replace(plan, stages=tuple(rows))]
    for id_ in range(4):
        name = keep(folder, [answer(id_ % 2)])
        told.append(
            RequestCompleted(
                t_s=1.0,
                id=id_,
                submitted_s=0.5,
                outcome="degraded",
                attempts=1,
                epoch=1,
                path=("a",),
                degraded=True,
                answer=name,
            )
        )
    return told


def outcomes(graph: ModelGraph, folder: Path, events: list[Event], codec: str = NONE) -> list[str]:
    judged = judge_degraded(events, graph, INPUTS, folder, codec)
    return [event.outcome for event in settled([*events, *judged]) if isinstance(event, RequestCompleted)]


@pytest.fixture
def module() -> Blocks:
    return Blocks().eval()


@pytest.fixture
def graph(module: Blocks) -> ModelGraph:
    return ModelGraph.trace(module, (2, 4))


def without_the_second(module: Blocks, sample: int) -> torch.Tensor:
    """The module's answer without its second block, by its own code."""
    (x,) = INPUTS[sample]
    return module.head(torch.relu(module.plain(module.first(module.stem(x)))) + module.table).detach()


def test_what_the_model_gives_without_the_lost_operations_is_right(
    module: Blocks, graph: ModelGraph, tmp_path: Path
) -> None:
    right = history(tmp_path, lambda sample: without_the_second(module, sample), (0, 4), (7, 11))
    assert outcomes(graph, tmp_path, right) == ["ok"] * 4


@pytest.mark.parametrize(
    "stages",
    [((0, 1), (4, 11)), ((0, 1), (7, 11)), ((0, 11),), ((0, 5), (7, 11))],
    ids=["other", "more", "none", "illegal"],
)
def test_without_other_operations_it_is_wrong(
    module: Blocks, graph: ModelGraph, tmp_path: Path, stages: tuple[tuple[int, int], ...]
) -> None:
    events = history(tmp_path, lambda sample: without_the_second(module, sample), *stages)
    assert outcomes(graph, tmp_path, events) == ["wrong"] * 4


def test_a_bit_or_the_wrong_request_is_wrong(module: Blocks, graph: ModelGraph, tmp_path: Path) -> None:
    def off_by_a_bit(sample: int) -> torch.Tensor:
        answer = without_the_second(module, sample)
        answer[0, 0] = torch.nextafter(answer[0, 0], torch.tensor(100.0))
        return answer

    assert outcomes(graph, tmp_path, history(tmp_path, off_by_a_bit, (0, 4), (7, 11))) == ["wrong"] * 4
    crossed = history(tmp_path, lambda sample: without_the_second(module, 1 - sample), (0, 4), (7, 11))
    assert outcomes(graph, tmp_path, crossed) == ["wrong"] * 4
    whole = history(tmp_path, lambda sample: module(*INPUTS[sample]).detach(), (0, 4), (7, 11))
    assert outcomes(graph, tmp_path, whole) == ["wrong"] * 4


def test_a_lossy_codec_may_be_off_by_what_it_allows(module: Blocks, graph: ModelGraph, tmp_path: Path) -> None:
    rounded = history(tmp_path, lambda sample: without_the_second(module, sample).half().float(), (0, 4), (7, 11))
    assert outcomes(graph, tmp_path, rounded, "fp16") == ["ok"] * 4
    assert outcomes(graph, tmp_path, rounded) == ["wrong"] * 4


def test_an_answer_that_was_not_kept_stays_unjudged(module: Blocks, graph: ModelGraph, tmp_path: Path) -> None:
    events = history(tmp_path, lambda sample: without_the_second(module, sample), (0, 4), (7, 11))
    for path in tmp_path.iterdir():
        path.unlink()
    assert outcomes(graph, tmp_path, events) == ["degraded"] * 4


# What the checker makes of the tables.


@pytest.fixture(scope="module")
def good() -> Files:
    return files_of(STORY.events())


def ruling(files: Files, spec: Mapping[str, Any] = STORY.spec) -> Ruling:
    return checked(files, spec).ruling


def test_degraded_service_that_is_told_and_marked_passes_and_its_cost_is_summed_up(good: Files) -> None:
    result = checked(good, STORY.spec)
    assert result.ruling.findings == ()
    found = result.summary.degraded
    assert found is not None
    assert found.answers == sum(row["epoch"] == "2" for row in rows_of(good)["requests.csv"])
    assert found.same_class == found.answers // 2
    assert (found.mean_error_pct, found.largest_error_pct) == (25.0, 25.0)
    assert found.spans == (pytest.approx((1.48, STORY.duration_s)),)
    assert result.summary.agreement is None
    assert [epoch.skipped for epoch in result.summary.epochs] == ["", "20-29"]
    assert checked(files_of(Story().events()), Story().spec).summary.degraded is None


def of_epoch(rows: Rows, epoch: str) -> dict[str, str]:
    return [row for row in rows["requests.csv"] if row["epoch"] == epoch][1]


def unmarked(rows: Rows) -> None:
    of_epoch(rows, "2").update(degraded="false")


def marked_though_whole(rows: Rows) -> None:
    of_epoch(rows, "1").update(degraded="true")


def untold(rows: Rows) -> None:
    rows["epochs.csv"][1].update(skipped="")


def told_though_whole(rows: Rows) -> None:
    rows["epochs.csv"][0].update(skipped="10-19")


def told_otherwise(rows: Rows) -> None:
    rows["epochs.csv"][1].update(skipped="20-28")


def more_left_out_than_told(rows: Rows) -> None:
    next(row for row in rows["plan.csv"] if (row["epoch"], row["stage"]) == ("2", "1")).update(first_op="12")


def unjudged(rows: Rows) -> None:
    of_epoch(rows, "2").update(outcome="degraded")


def wrong(rows: Rows) -> None:
    of_epoch(rows, "2").update(outcome="wrong")


@pytest.mark.parametrize(
    ("mutation", "rule", "file"),
    [
        (unmarked, "degraded", "requests.csv"),
        (marked_though_whole, "degraded", "requests.csv"),
        (untold, "degraded", "epochs.csv"),
        (told_though_whole, "degraded", "epochs.csv"),
        (told_otherwise, "degraded", "epochs.csv"),
        (more_left_out_than_told, "degraded", "epochs.csv"),
        (unjudged, "unknown-outcome", "requests.csv"),
        (wrong, "wrong", "requests.csv"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_lie_about_degraded_service_is_found(
    mutation: Callable[[Rows], None], rule: str, file: str, good: Files
) -> None:
    rows = rows_of(good)
    mutation(rows)
    errors = ruling(files_with(good, rows)).errors
    assert (rule, file) in {(finding.rule, finding.file) for finding in errors}, errors


def test_only_the_policy_skip_may_leave_operations_out(good: Files) -> None:
    errors = ruling(good, {**STORY.spec, "recovery": {"policy": "standby"}}).errors
    assert [(finding.rule, finding.place) for finding in errors] == [("degraded", "epochs.csv:3")]

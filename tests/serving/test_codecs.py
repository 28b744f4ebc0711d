"""Codecs: bounds on what they change, and hostile descriptions."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from runner.encoded_sizes import encoded_sizes
from runner.judgement import judge
from testbed.errors import MachineError, ProtocolError
from testbed.model.costs import raw_bits
from testbed.model.graph import ModelGraph
from testbed.planning.plan import Assignment
from testbed.serving.codecs import CODECS, NONE, PACKAGES, encoded_bytes, is_lossless, require_codec
from testbed.serving.events import RequestCompleted, StageExecuted
from testbed.serving.tensors import DTYPES, pack_tensors, unpack_tensors
from tests.serving.system import SmallNet, system

INSTALLED = tuple(name for name in CODECS if name not in PACKAGES or importlib.util.find_spec(PACKAGES[name]))
NAMES = (NONE, *INSTALLED)


def through(tensors: list[torch.Tensor], codec: str) -> tuple[list[torch.Tensor], int]:
    described, payload = pack_tensors(tensors, codec)
    body = bytearray(b"".join(payload))
    return unpack_tensors(json.loads(json.dumps(described)), memoryview(body)), len(body)


def tensors() -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [
        torch.relu(torch.randn(1, 8, 16, 16, generator=draw)),
        torch.randn(3, 5, generator=draw, dtype=torch.float64) * 1e3,
        torch.randn(7, 4, generator=draw).t(),  # not contiguous
        torch.full((9,), -2.5),
        torch.zeros(0, 4),
        torch.tensor(3.25),
        torch.arange(300).reshape(3, 100),
        torch.tensor([True, False]),
        torch.randn(6, generator=draw).to(torch.bfloat16),
    ]


@pytest.mark.parametrize("codec", NAMES)
def test_what_comes_out_is_what_went_in_within_the_bound(codec: str) -> None:
    given = tensors()
    found, _ = through(given, codec)
    for before, after in zip(given, found, strict=True):
        assert (after.shape, after.dtype) == (before.shape, before.dtype)
        if is_lossless(codec) or before.dtype not in (torch.float32, torch.float64) or not before.numel():
            assert torch.equal(before, after)
            continue
        off = (before - after).abs()
        if codec == "fp16":
            assert bool((off <= before.abs() * 2**-11 + 2**-25).all())
        else:
            assert float(off.max()) <= float(before.max() - before.min()) / 510 * 1.001 + 1e-6


@pytest.mark.parametrize("codec", NAMES)
def test_what_a_codec_says_it_sends_is_what_is_sent(codec: str) -> None:
    given = tensors()[0]
    _, sent = through([given], codec)
    assert sent == encoded_bytes(codec, given)
    most = {"none": 1.0, "fp16": 0.5, "int8": 0.25, "int8+zstd": 0.22}.get(codec, 0.85)  # half of its elements are zero
    assert sent <= most * given.numel() * 4


@pytest.mark.parametrize("codec", ["fp16", "int8"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_what_a_codec_cannot_hold_travels_as_it_is(codec: str, value: float) -> None:
    given = torch.tensor([1.0, value, -1.0])
    (found,), sent = through([given], codec)
    if codec == "int8" and value == 1e30:
        assert sent == 3  # a finite range, however wide
        return
    assert torch.equal(torch.nan_to_num(given), torch.nan_to_num(found))
    assert sent == 12


def test_random_bytes_do_not_swell() -> None:
    noise = torch.randint(0, 256, (4096,), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    (found,), sent = through([noise], "zlib")
    assert torch.equal(found, noise)
    assert sent == 4096


GOOD = pack_tensors([torch.zeros(64)], "zlib")


@pytest.mark.parametrize(
    "described",
    [
        ["float32", [64], "zlib"],
        ["float32", [64], "zlib", 10],
        ["float32", [64], "zlib", -1, []],
        ["float32", [64], "zlib", True, []],
        ["float32", [64], "zlib", 1 << 40, []],
        ["float32", [64], "zlib", GOOD[0][0][3], [1.0]],
        ["float32", [64], "zlib", GOOD[0][0][3] - 1, []],
        ["float32", [63], "zlib", GOOD[0][0][3], []],
        ["float32", [65], "zlib", GOOD[0][0][3], []],
        ["float32", [1 << 31, 1 << 31], "zlib", GOOD[0][0][3], []],
        ["float32", [64], "none", 8, []],
        ["float32", [64], "pickle", 8, []],
        ["float32", [64], ["zlib"], 8, []],
        ["float32", [5], "fp16", 8, []],
        ["float32", [4], "fp16", 8, [0.0]],
        ["int64", [4], "fp16", 8, []],
        ["float32", [0], "fp16", 0, []],
        ["float32", [8], "int8", 8, []],
        ["float32", [8], "int8", 8, [0.0, float("nan")]],
        ["float32", [8], "int8", 8, [0.0, 10**400]],
        ["float32", [8], "int8", 8, ["0", "1"]],
        ["float32", [8], "int8", 8, {"least": 0.0}],
        ["float32", [7], "int8", 8, [0.0, 1.0]],
    ],
)
def test_a_wrong_description_is_a_protocol_error(described: list[Any]) -> None:
    body = bytearray(b"".join(GOOD[1]).ljust(64, b"\0"))
    with pytest.raises(ProtocolError):
        unpack_tensors([described], memoryview(body))


def test_random_bytes_decode_or_are_refused() -> None:
    draw = random.Random(1)  # noqa: S311
    for _ in range(2000):
        codec = draw.choice(INSTALLED)
        length = draw.randrange(0, 40)
        numbers = [draw.uniform(-1, 1) for _ in range(draw.choice((0, 2)))]
        item = [draw.choice(tuple(DTYPES)), [draw.randrange(0, 40)], codec, length, numbers]
        body = bytearray(draw.randbytes(length))
        try:
            (found,) = unpack_tensors([item], memoryview(body))
        except ProtocolError:
            continue
        assert list(found.shape) == item[1]


def test_a_codec_whose_package_is_missing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MachineError, match="zstandard"):
        require_codec("int8+zstd")
    for name in ("none", "zlib", "fp16", "int8"):
        require_codec(name)


@pytest.mark.parametrize("codec", [name for name in INSTALLED if name in PACKAGES])
def test_packed_bytes_of_another_length_are_refused(codec: str) -> None:
    described, payload = pack_tensors([torch.zeros(4096)], codec)
    body = memoryview(bytearray(b"".join(payload)))
    for count in (1, 4095, 4097, 1 << 27):
        dtype, _, *rest = described[0]
        with pytest.raises(ProtocolError):
            unpack_tensors([[dtype, [count], *rest]], body)
    with pytest.raises(ProtocolError):
        unpack_tensors(described, memoryview(bytearray(b"\xff" * len(body))))


def test_answers_are_judged_by_what_the_codec_allows() -> None:
    right = torch.tensor([[0.0, 4.0, 1.0]])
    near, far, other = right + 0.02, right + 2.0, torch.tensor([[0.0, 4.0, 4.1]])
    assert judge([right], [right.clone()]).outcome == "ok"
    assert judge([right], [near]).outcome == "wrong"
    assert judge([right], [near], "zlib").outcome == "wrong"
    found = judge([right], [near], "fp16")
    assert (found.outcome, found.error, found.same_class) == ("ok", pytest.approx(0.005), True)
    assert judge([right], [far], "int8").outcome == "wrong"
    assert judge([right], [other], "int8").same_class is False
    for codec in ("fp16", "int8"):
        assert judge([right], [right.double()], codec).outcome == "wrong"
        assert judge([right], [right * float("nan")], codec).outcome == "wrong"
        assert judge([right], [], codec).outcome == "wrong"
        assert judge([torch.tensor([1, 2])], [torch.tensor([1, 3])], codec).outcome == "wrong"


def test_sizes_for_the_planner_are_those_of_activations() -> None:
    torch.manual_seed(0)
    graph = ModelGraph.trace(SmallNet().eval(), (1, 3, 32, 32))
    request = [torch.randn(1, 3, 32, 32)]
    specs = [spec for cut in graph.cuts() for spec in cut.tensors]
    for codec, factor in (("fp16", 2), ("int8", 4)):
        bits = encoded_sizes(graph, (), codec)
        assert all(bits(spec) * factor == raw_bits(spec) for spec in specs)
    bits = encoded_sizes(graph, [request], "zlib")
    relus = [spec for spec in specs if spec.name.startswith("relu")]
    assert relus
    assert all(bits(spec) < 0.9 * raw_bits(spec) for spec in relus)
    assert encoded_sizes(graph, (), "zlib") is raw_bits


@pytest.mark.parametrize("codec", [name for name in INSTALLED if name in ("zlib", "int8+zstd")])
def test_a_pipeline_of_three_stages_answers_through_a_codec(tmp_path: Path, codec: str) -> None:
    with system(tmp_path) as running:
        running.start_nodes(codec=codec)
        segments = running.problem.chain.segments
        running.start_dispatcher(
            (
                Assignment("node1", 0, segments // 3),
                Assignment("node2", segments // 3, 2 * segments // 3),
                Assignment("node3", 2 * segments // 3, segments),
            )
        )
        running.start_client(duration_s=1.0, codec=codec)
        finished = running.finish()
        completed = running.of(RequestCompleted)
        stages = running.of(StageExecuted)
    assert finished.submitted > 5
    assert finished.unanswered == 0
    assert {answer.outcome for answer in completed} == {"ok"}
    if is_lossless(codec):
        assert {answer.error for answer in completed} == {None}
    else:
        # A codec that nobody used would leave no error.
        assert all(0 < answer.error <= CODECS[codec].answer_error for answer in completed)
    raw = 4 * 3 * 64 * 64
    first = {stage.bytes_in for stage in stages if stage.stage == 0}
    assert max(first) <= {"fp16": raw // 2, "int8+zstd": raw // 4}.get(codec, raw)

"""What frames must say: every kind is described, its own frames pass, nonsense does not."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.hostile_frames import examples
from testbed.errors import ProtocolError
from testbed.serving.schema import SHAPES, check_frame, check_header, is_endpoint, is_number, is_text
from testbed.serving.wire import Frame, FrameKind, Header


def test_every_kind_of_frame_is_described() -> None:
    assert set(SHAPES) == set(FrameKind)


@pytest.mark.parametrize("frame", examples(), ids=lambda frame: frame.kind.name)
def test_a_frame_as_it_should_be_passes_and_without_a_key_it_does_not(frame: Frame) -> None:
    check_frame(frame)
    for key in SHAPES[frame.kind].required:
        without = {name: value for name, value in frame.meta.items() if name != key}
        with pytest.raises(ProtocolError, match=key):
            check_frame(Frame(frame.kind, frame.epoch, frame.request_id, without, frame.payload))


@pytest.mark.parametrize("frame", examples(), ids=lambda frame: frame.kind.name)
@pytest.mark.parametrize("wrong", [True, -1, {"x": []}, "\ud800", 1e400], ids=repr)
def test_values_of_wrong_types_are_refused(frame: Frame, wrong: Any) -> None:
    for key in SHAPES[frame.kind].required:
        with pytest.raises(ProtocolError, match=key):
            check_frame(Frame(frame.kind, frame.epoch, frame.request_id, {**frame.meta, key: wrong}, frame.payload))


@pytest.mark.parametrize("hops", [5, [5], [{}], [{"host": "a"}], [None], {"host": "a"}])
def test_hops_are_checked_to_the_last_figure(hops: Any) -> None:
    with pytest.raises(ProtocolError, match="hops"):
        check_frame(Frame(FrameKind.DATA, meta={"tensors": [], "hops": hops}))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300, -1e300, True, "1", None])
def test_what_is_no_number_of_seconds(value: Any) -> None:
    assert not is_number(value)


@pytest.mark.parametrize(
    "value",
    [["localhost", 80], ["10.0.0.1", 0], ["10.0.0.1", 65536], ["10.0.0.1", "80"], ["10.0.0.1"], None, ["\x00", 1]],
)
def test_what_is_no_endpoint(value: Any) -> None:
    assert not is_endpoint(value)


def test_what_is_a_text_and_an_endpoint() -> None:
    assert is_text("é")
    assert not is_text("\udfff")
    assert is_endpoint(["10.0.0.1", 80])
    assert is_endpoint(["fd00::1", 65535])


def test_a_payload_is_limited_by_its_kind() -> None:
    check_header(Header(FrameKind.DATA, 1, 1, 0, 1 << 30))
    check_header(Header(FrameKind.CHUNK, 1, 1, 0, 4 << 20))
    with pytest.raises(ProtocolError, match="CHUNK"):
        check_header(Header(FrameKind.CHUNK, 1, 1, 0, (4 << 20) + 1))
    with pytest.raises(ProtocolError, match="STATE"):
        check_header(Header(FrameKind.STATE, 1, 1, 0, 1))

"""Frames: round trips, limits, hostile bytes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from testbed.errors import ProtocolError
from testbed.serving.tensors import pack_tensors, unpack_tensors
from testbed.serving.wire import (
    HEADER,
    MAGIC,
    Frame,
    FrameKind,
    Limits,
    decode_header,
    decode_meta,
    receive_frame,
    send_frame,
)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    left.settimeout(5)
    right.settimeout(5)
    with left, right:
        yield left, right


def exchange(left: socket.socket, right: socket.socket, frame: Frame) -> Frame:
    sender = threading.Thread(target=send_frame, args=(left, frame))
    sender.start()
    received = receive_frame(right, Limits())
    sender.join(5)
    assert received is not None
    return received


def test_a_frame_arrives_as_it_was_sent(pair: tuple[socket.socket, socket.socket]) -> None:
    payload = [b"abc", memoryview(bytes(range(256)) * 4096), b"", bytearray(b"xyz")]
    frame = Frame(FrameKind.DATA, epoch=3, request_id=2**40, meta={"a": [1, {"b": None}]}, payload=payload)
    received = exchange(*pair, frame)
    assert (received.kind, received.epoch, received.request_id, received.meta) == (FrameKind.DATA, 3, 2**40, frame.meta)
    assert bytes(received.body) == b"".join(map(bytes, payload))


def test_many_small_buffers_arrive_in_order(pair: tuple[socket.socket, socket.socket]) -> None:
    payload = [bytes([n % 251]) * (n % 7) for n in range(500)]
    assert bytes(exchange(*pair, Frame(FrameKind.CHUNK, payload=payload)).body) == b"".join(payload)


def test_the_end_between_two_frames_is_no_error(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].close()
    assert receive_frame(pair[1], Limits()) is None


@pytest.mark.parametrize("length", [1, HEADER.size - 1, HEADER.size, HEADER.size + 3])
def test_the_end_within_a_frame_is_an_error(pair: tuple[socket.socket, socket.socket], length: int) -> None:
    whole = HEADER.pack(MAGIC, FrameKind.DATA, 0, 0, 2, 100) + b"{}" + bytes(100)
    pair[0].sendall(whole[:length])
    pair[0].close()
    with pytest.raises(ConnectionError):
        receive_frame(pair[1], Limits())


def test_a_frame_that_stalls_times_out(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].sendall(HEADER.pack(MAGIC, FrameKind.DATA, 0, 0, 0, 100) + b"only this")
    pair[1].settimeout(0.05)
    with pytest.raises(TimeoutError):
        receive_frame(pair[1], Limits())


def test_who_waits_for_a_frame_leaves_the_senders_time_out_alone(pair: tuple[socket.socket, socket.socket]) -> None:
    """One thread reads a connection while another sends on it: neither may change what the other relies on."""
    ours, theirs = pair
    ours.settimeout(0.2)
    failures: list[BaseException] = []
    reader = threading.Thread(target=receive_frame, args=(ours, Limits()))
    reader.start()

    def fill() -> None:
        try:
            while True:
                send_frame(ours, Frame(FrameKind.DATA, 0, 0, payload=(bytes(1 << 20),)))
        except OSError as error:
            failures.append(error)

    sender = threading.Thread(target=fill, daemon=True)
    sender.start()
    sender.join(10)
    assert [type(failure) for failure in failures] == [TimeoutError]
    theirs.shutdown(socket.SHUT_WR)
    reader.join(5)
    assert not reader.is_alive()


def test_a_connection_carries_frames_both_ways_at_once(pair: tuple[socket.socket, socket.socket]) -> None:
    count = 3000

    def send(end: socket.socket) -> None:
        for number in range(count):
            send_frame(end, Frame(FrameKind.DATA, 0, number, payload=(bytes(1000),)))

    def receive(end: socket.socket, numbers: list[int]) -> None:
        while len(numbers) < count and (frame := receive_frame(end, Limits())) is not None:
            numbers.append(frame.request_id)

    received: tuple[list[int], list[int]] = ([], [])
    threads = [threading.Thread(target=send, args=(end,), daemon=True) for end in pair]
    threads += [
        threading.Thread(target=receive, args=(end, numbers), daemon=True)
        for end, numbers in zip(pair, received, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert received == (list(range(count)), list(range(count)))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (HEADER.pack(b"HTTP", FrameKind.DATA, 0, 0, 0, 0), "not a frame"),
        (HEADER.pack(MAGIC, 200, 0, 0, 0, 0), "unknown kind"),
        (HEADER.pack(MAGIC, FrameKind.DATA, 0, 0, 2**31, 0), "over the limit"),
        (HEADER.pack(MAGIC, FrameKind.DATA, 0, 0, 0, 2**63), "over the limit"),
    ],
)
def test_illegal_headers_are_refused_before_anything_is_stored(header: bytes, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        decode_header(header, Limits())


@given(st.binary(min_size=HEADER.size, max_size=HEADER.size))
def test_random_headers_never_escape_the_protocol_error(data: bytes) -> None:
    try:
        header = decode_header(data, Limits(10, 10))
    except ProtocolError:
        return
    assert header.meta_bytes <= 10
    assert header.payload_bytes <= 10


@given(st.binary(max_size=200))
def test_random_metas_never_escape_the_protocol_error(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        assert isinstance(decode_meta(data), dict)


@pytest.mark.parametrize("meta", [b"[]", b"1", b"{", b'"a"', b"[" * 100_000, b"\xff\xfe"])
def test_a_meta_that_is_no_object_is_refused(meta: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_meta(meta)


def test_tensors_of_all_kinds_arrive_bit_for_bit(pair: tuple[socket.socket, socket.socket]) -> None:
    tensors = [
        torch.randn(1, 3, 5, 7),
        torch.arange(3),
        torch.tensor([True, False]),
        torch.randn(4, 6).t(),
        torch.empty(0, 4),
        torch.randn(3).to(torch.bfloat16),
        torch.tensor(2.5, dtype=torch.float64),
    ]
    described, payload = pack_tensors(tensors)
    received = exchange(*pair, Frame(FrameKind.DATA, meta={"tensors": described}, payload=payload))
    for sent, got in zip(tensors, unpack_tensors(received.meta["tensors"], received.body), strict=True):
        assert sent.dtype == got.dtype
        assert torch.equal(sent, got)


@pytest.mark.parametrize(
    "described",
    [None, {}, [["float32"]], [["float32", [-1]]], [["float32", [True]]], [["object", [1]]], [["float32", [2**40]]],
     [["float32", [5]]], [["float32", [1] * 17]], [["uint8", [1]]] * 300, [["float32", [2**31, 2**31]]]],
)  # fmt: skip
def test_descriptions_that_do_not_fit_the_payload_are_refused(described: object) -> None:
    with pytest.raises(ProtocolError):
        unpack_tensors(described, memoryview(bytearray(16)))

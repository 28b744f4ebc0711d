from __future__ import annotations

import struct

import pytest

from testbed.emulation import nfqueue
from testbed.emulation.netlink import attribute, attributes, error_number, message, messages


def packet_message(queue: int, packet: int) -> bytes:
    header = attribute(1, struct.pack(">IHB", packet, 0x0800, 0))
    rest = attribute(5, struct.pack(">I", 7))
    return message(nfqueue.PACKET, 0, 0, struct.pack(">BBH", 2, 0, queue) + header + rest)


def test_packets_of_a_datagram() -> None:
    datagram = packet_message(7, 1) + message(nfqueue.ERROR, 0, 9, struct.pack("=i", 0)) + packet_message(300, 2**31)
    assert nfqueue.packets(datagram, len(datagram)) == [(7, 1), (300, 2**31)]


def test_only_the_length_that_was_received_counts() -> None:
    first = packet_message(1, 1)
    datagram = bytearray(first + packet_message(1, 2))
    assert nfqueue.packets(datagram, len(first)) == [(1, 1)]


def test_headless_message_is_refused() -> None:
    with pytest.raises(ValueError, match="4 bytes"):
        nfqueue.packets(struct.pack("=IH", 4, nfqueue.PACKET) + bytes(30), 36)


def test_verdict_bytes() -> None:
    # As libnetfilter_queue writes them: nlmsghdr, nfgenmsg, one attribute of type 2 (NFQA_VERDICT_HDR).
    expected = "20000000 0103 0100 00000000 00000000 00 00 0007 0c00 0200 00000000 00000102"
    assert nfqueue.verdict(7, 0x102, nfqueue.DROP).hex() == expected.replace(" ", "")
    batch = "20000000 0303 0100 00000000 00000000 00 00 0007 0c00 0200 00000001 00000102"
    assert nfqueue.verdict_up_to(7, 0x102, nfqueue.ACCEPT).hex() == batch.replace(" ", "")


@pytest.mark.parametrize(("whole", "flags"), [(True, 4), (False, 0)])
def test_configuration_binds_then_sets(whole: bool, flags: int) -> None:
    requests = nfqueue.configuration(5, max_packets=99, whole_segments=whole, sequence=10)
    parsed = [next(messages(request)) for request in requests]
    assert [sequence for _, sequence, _ in parsed] == [10, 11, 12, 13]
    assert all(body[:4] == b"\0\0\0\x05" for _, _, body in parsed)
    bind, parameters, length, segmentation = (attributes(body[4:]) for _, _, body in parsed)
    assert bind == {1: b"\x01\0\0\x02"}
    assert parameters == {2: b"\0\0\0\0\x01"}
    assert length == {3: struct.pack(">I", 99)}
    assert segmentation == {4: struct.pack(">I", 4), 5: struct.pack(">I", flags)}


def test_attributes_are_padded_and_read_back() -> None:
    packed = attribute(1, b"a") + attribute(2 | 0x8000, b"bcde")
    assert len(packed) == 16
    assert attributes(packed) == {1: b"a", 2: b"bcde"}


def test_lying_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="attribute 1 claims 40 bytes"):
        attributes(struct.pack("=HH", 40, 1) + bytes(4))
    with pytest.raises(ValueError, match="claims 99 bytes"):
        list(messages(struct.pack("=IHHII", 99, 1, 0, 0, 0)))


def test_error_number() -> None:
    assert error_number(struct.pack("=i", -17)) == 17
    assert error_number(struct.pack("=i", 0)) == 0

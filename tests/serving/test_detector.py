"""Heartbeats on loopback: who falls silent is lost, who beats is not, who lies is not heard."""

from __future__ import annotations

import queue
import socket
from collections.abc import Iterator

import pytest

from testbed.serving.auth import new_token
from testbed.serving.detector import Detector, Heart, decode_beat, encode_beat

TOKEN = new_token()
PERIOD_S = 0.02


@pytest.fixture
def port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


Lost = queue.Queue[tuple[str, float]]


@pytest.fixture
def detector(port: int) -> Iterator[tuple[Detector, Lost]]:
    lost: Lost = queue.Queue()
    detector = Detector(TOKEN, ("127.0.0.1", port), PERIOD_S, 10, lambda host, silent_s: lost.put((host, silent_s)))
    yield detector, lost
    detector.close()


def test_a_beat_survives_the_trip_and_a_forged_one_does_not() -> None:
    beat = encode_beat(TOKEN, "node1", 7, 1.5)
    assert decode_beat(TOKEN, beat) == ("node1", 7, 1.5)
    assert decode_beat(new_token(), beat) is None
    assert decode_beat(TOKEN, beat[:-1]) is None
    assert decode_beat(TOKEN, b"") is None
    assert decode_beat(TOKEN, bytes(400)) is None


def test_a_host_that_falls_silent_is_lost_once(detector: tuple[Detector, Lost], port: int) -> None:
    watch, lost = detector
    heart = Heart(TOKEN, "node1", ("127.0.0.1", port), PERIOD_S)
    other = Heart(TOKEN, "node2", ("127.0.0.1", port), PERIOD_S)
    watch.watch("node1")
    watch.watch("node2")
    with pytest.raises(queue.Empty):
        lost.get(timeout=PERIOD_S * 20)
    heart.close()
    host, silent_s = lost.get(timeout=5)
    assert host == "node1"
    assert silent_s >= PERIOD_S * 10
    with pytest.raises(queue.Empty):
        lost.get(timeout=PERIOD_S * 20)
    other.close()


def test_a_host_that_never_beats_is_lost(detector: tuple[Detector, Lost]) -> None:
    watch, lost = detector
    watch.watch("node1")
    assert lost.get(timeout=5)[0] == "node1"


def test_a_forgotten_host_is_not_missed(detector: tuple[Detector, Lost]) -> None:
    watch, lost = detector
    watch.watch("node1")
    watch.forget("node1")
    with pytest.raises(queue.Empty):
        lost.get(timeout=PERIOD_S * 20)


def test_a_foreign_heart_keeps_nobody_alive(detector: tuple[Detector, Lost], port: int) -> None:
    watch, lost = detector
    liar = Heart(new_token(), "node1", ("127.0.0.1", port), PERIOD_S)
    watch.watch("node1")
    assert lost.get(timeout=5)[0] == "node1"
    liar.close()

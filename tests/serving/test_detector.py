"""Heartbeats on loopback: who falls silent is lost, who beats is not, who lies is not heard."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Iterator

import pytest

from testbed.serving.auth import new_token
from testbed.serving.detector import Beat, Detector, Heart, Novelty, decode_beat, encode_beat

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
    sent = Beat("node1", b"thestart", 7, 1.5)
    beat = encode_beat(TOKEN, sent)
    assert decode_beat(TOKEN, beat) == sent
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


def test_a_beat_counts_once_and_an_older_start_never_again() -> None:
    novelty = Novelty()
    old, new = b"oldstart", b"newstart"
    assert novelty.is_new(Beat("node1", old, 3, 0.0))
    assert not novelty.is_new(Beat("node1", old, 3, 0.0))
    assert not novelty.is_new(Beat("node1", old, 2, 0.0))
    assert novelty.is_new(Beat("node2", old, 2, 0.0))
    assert novelty.is_new(Beat("node1", new, 0, 0.0))
    assert not novelty.is_new(Beat("node1", old, 9, 0.0))
    assert novelty.is_new(Beat("node1", new, 1, 0.0))


def test_recorded_beats_keep_nobody_alive(detector: tuple[Detector, Lost], port: int) -> None:
    watch, lost = detector
    recorded = encode_beat(TOKEN, Beat("node1", b"thestart", 1, 0.0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        watch.watch("node1")
        for _ in range(2000):
            sender.sendto(recorded, ("127.0.0.1", port))
            try:
                host, _ = lost.get(timeout=PERIOD_S)
            except queue.Empty:
                continue
            assert host == "node1"
            return
    raise AssertionError("a repeated heartbeat counted")


def test_a_flood_of_rubbish_keeps_no_loss_from_being_declared(port: int) -> None:
    lost: Lost = queue.Queue()
    told: queue.Queue[str] = queue.Queue()
    watch = Detector(
        TOKEN, ("127.0.0.1", port), PERIOD_S, 10, lambda *loss: lost.put(loss), lambda text, topic: told.put(text)
    )
    stop = threading.Event()

    def flood() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while not stop.is_set():
                with contextlib.suppress(OSError):
                    sender.sendto(bytes(100), ("127.0.0.1", port))

    flooding = threading.Thread(target=flood)
    flooding.start()
    try:
        watch.watch("node1")
        assert lost.get(timeout=10)[0] == "node1"
        assert "no heartbeat" in told.get(timeout=5)
    finally:
        stop.set()
        flooding.join(5)
        watch.close()

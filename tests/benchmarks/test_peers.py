"""The peers' pure parts: framing, cuts, and what is made of a trial's events."""

from __future__ import annotations

import socket
import threading

import pytest
import torch

from benchmarks.peers import chain
from benchmarks.peers.comparison import STAGES, WORKERS, thirds
from benchmarks.peers.gloo import interface_of
from benchmarks.peers.trial import ANSWERED, FAILED, HANGING, Trial, outcome
from testbed.model.program import TensorSpec
from testbed.serving.events import ClientFinished, Event, HostLost, RequestCompleted, RequestSubmitted


def submitted(number: int, t_s: float) -> Event:
    return RequestSubmitted(t_s=t_s, id=number, due_s=t_s)


def completed(number: int, t_s: float, outcome: str = "ok") -> Event:
    return RequestCompleted(t_s=t_s, id=number, submitted_s=0.0, outcome=outcome, attempts=1, epoch=0, path=())


def judged(events: list[Event], errors: list[tuple[float, str]], ended_s: float = 40.0) -> Trial:
    return outcome("x", "kill", events, errors, 10.0, ended_s, "dispatcher")


def test_who_answers_everything_is_asked_for_nothing_more() -> None:
    events = [*(submitted(n, 9.0) for n in range(3)), completed(0, 9.5), completed(1, 12.0), completed(2, 12.5)]
    trial = judged([*events, ClientFinished(t_s=12.5, submitted=3, unanswered=0)], [])
    assert (trial.asked, trial.right, trial.missing, trial.state) == (3, 3, 0, ANSWERED)
    assert trial.outage_s == pytest.approx(2.0)
    assert (trial.noticed_s, trial.told_s) == (None, None)


def test_who_answers_nothing_more_and_says_nothing_hangs() -> None:
    trial = judged([submitted(0, 9.0), submitted(1, 9.0), completed(0, 9.5)], [(10.5, "node1")])
    assert (trial.missing, trial.state, trial.noticed_s, trial.told_s) == (1, HANGING, pytest.approx(0.5), None)
    assert trial.outage_s == pytest.approx(30.0)
    assert "still hanging at 30" in trial.line()


def test_who_tells_the_asker_has_failed() -> None:
    trial = judged([submitted(0, 9.0)], [(9.0, "node1"), (10.2, "node2"), (10.4, "dispatcher")], ended_s=11.0)
    assert (trial.missing, trial.state) == (1, FAILED)
    assert (trial.noticed_s, trial.told_s) == (pytest.approx(0.2), pytest.approx(0.4))


def test_a_detected_loss_is_notice_and_a_wrong_answer_is_counted() -> None:
    events = [submitted(0, 9.0), HostLost(t_s=10.1, host="n", how="connection", detail=""), completed(0, 11.0, "wrong")]
    trial = judged(events, [])
    assert (trial.noticed_s, trial.wrong, trial.right) == (pytest.approx(0.1), 1, 0)


def test_a_message_of_defer_arrives_in_pieces() -> None:
    left, right = socket.socketpair()
    data = bytes(range(256)) * 8192
    with left, right:
        left.setblocking(False)
        right.setblocking(False)
        sender = threading.Thread(target=chain.send, args=(left, data))
        sender.start()
        assert chain.receive(right) == data
        sender.join(10)


@pytest.mark.parametrize("shape", [(1, 8, 5, 3), (4,), (1, 1)])
def test_a_tensor_survives_the_codec_bit_for_bit(shape: tuple[int, ...]) -> None:
    tensor = torch.randn(shape)
    assert torch.equal(chain.decode(chain.encode(tensor), TensorSpec("x", shape, "float32")), tensor)


def test_stages_are_as_even_as_segments_allow() -> None:
    found = thirds([1.0] * 9)
    assert [(at.first, at.last) for at in found] == [(0, 3), (3, 6), (6, 9)]
    assert [at.host for at in found] == list(WORKERS[:STAGES])
    uneven = thirds([5.0, 1.0, 1.0, 1.0, 4.0])
    assert [(at.first, at.last) for at in uneven] == [(0, 1), (1, 4), (4, 5)]


def test_an_interface_is_found_by_its_address() -> None:
    assert interface_of("127.0.0.1") == "lo"
    with pytest.raises(OSError, match="no interface"):
        interface_of("192.0.2.1")

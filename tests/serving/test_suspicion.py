"""Who is lost, who is only slow, and what counts as a sign of life."""

from __future__ import annotations

import contextlib
import queue
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from testbed.planning.evaluate import evaluate
from testbed.serving.auth import new_token
from testbed.serving.detector import Beat, Detector, encode_beat
from testbed.serving.events import Event, HostSlow, HostSteady
from testbed.serving.inlets import Inlets
from testbed.serving.slowness import SLOW, Slowness
from testbed.serving.suspicion import FixedMisses, PhiAccrual
from testbed.serving.tcp import is_cut_off, silent_s
from tests.serving.test_recovery import BEFORE, problem

TOKEN = new_token()
PERIOD_S = 0.05
ONE, TWO = b"firstone", b"othrone2"


def test_fixed_misses_allow_the_same_whatever_came() -> None:
    judge = FixedMisses(0.1, 3)
    judge.begin("a")
    judge.beat("a", 5.0)
    assert judge.allowance_s("a") == pytest.approx(0.3)


def test_phi_gives_a_restless_host_more_time_than_a_punctual_one() -> None:
    judge = PhiAccrual(0.1, 8.0)
    for number in range(200):
        judge.beat("punctual", 0.1)
        judge.beat("restless", 0.02 if number % 2 else 0.18)
    # One in 10^8 lies 5.61 standard deviations out; the least deviation is a quarter of a period.
    assert judge.allowance_s("punctual") == pytest.approx(0.1 + 5.612 * 0.025, rel=1e-3)
    assert judge.allowance_s("restless") == pytest.approx(0.1 + 5.612 * 0.08, rel=0.02)
    assert judge.allowance_s("unknown") == judge.allowance_s("punctual")


def test_phi_allows_more_with_a_higher_threshold_and_forgets_with_a_new_life() -> None:
    low, high = PhiAccrual(0.1, 2.0), PhiAccrual(0.1, 15.0)
    assert low.allowance_s("a") < high.allowance_s("a")
    for _ in range(100):
        low.beat("a", 1.0)
    before_s = low.allowance_s("a")
    low.begin("a")
    assert low.allowance_s("a") < before_s


Lost = queue.Queue[tuple[str, float]]
Send = Callable[[Beat], None]


@contextlib.contextmanager
def detecting(
    misses: int = 6, threshold: float | None = None, heard: Callable[[float], tuple[str, ...]] = lambda _: ()
) -> Iterator[tuple[Detector, Lost, Send]]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        address = ("127.0.0.1", int(probe.getsockname()[1]))
    lost: Lost = queue.Queue()
    detector = Detector(
        TOKEN,
        address,
        PERIOD_S,
        misses,
        lambda host, silence_s: lost.put((host, silence_s)),
        threshold=threshold,
        heard=heard,
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        try:
            yield detector, lost, lambda beat: (sender.sendto(encode_beat(TOKEN, beat), address), None)[1]
        finally:
            detector.close()


def test_phi_declares_a_silent_host_lost() -> None:
    with detecting(threshold=8.0) as (detector, lost, _):
        detector.watch("a")
        host, silence_s = lost.get(timeout=5)
        assert (host, silence_s >= PERIOD_S) == ("a", True)


def test_who_is_heard_by_another_host_is_alive() -> None:
    with detecting() as (detector, lost, send):
        detector.watch("a")
        detector.watch("b")
        end_s = time.monotonic() + 20 * PERIOD_S
        sequence = 0
        while time.monotonic() < end_s:
            send(Beat("b", ONE, sequence, 0.0, heard=("a",)))
            sequence += 1
            with pytest.raises(queue.Empty):
                lost.get(timeout=PERIOD_S)
        assert {lost.get(timeout=5)[0], lost.get(timeout=5)[0]} == {"a", "b"}


def test_who_is_heard_by_the_dispatcher_is_alive_until_it_no_longer_is() -> None:
    bytes_come = True
    with detecting(heard=lambda _: ("a",) if bytes_come else ()) as (detector, lost, _):
        detector.watch("a")
        with pytest.raises(queue.Empty):
            lost.get(timeout=20 * PERIOD_S)
        bytes_come = False
        assert lost.get(timeout=5)[0] == "a"


def test_hosts_that_fall_silent_all_at_once_while_data_comes_in_get_more_time_but_not_for_ever() -> None:
    with detecting(heard=lambda _: ("a",)) as (detector, lost, _):
        detector.watch("a")
        detector.watch("b")
        host, silence_s = lost.get(timeout=5)
        assert host == "b"
        assert silence_s > 2 * 6 * PERIOD_S


def test_a_server_that_was_started_anew_is_lost_at_once_and_its_old_heartbeats_keep_nobody_alive() -> None:
    with detecting(misses=2000) as (detector, lost, send):
        detector.watch("a", ONE.hex())
        send(Beat("a", ONE, 0, 0.0))
        send(Beat("a", TWO, 0, 0.0))
        assert lost.get(timeout=5)[0] == "a"
        assert not detector.watches("a")


def test_a_heartbeat_tells_for_how_long_its_host_has_been_busy() -> None:
    with detecting(misses=2000) as (detector, _, send):
        detector.watch("a")
        send(Beat("a", ONE, 0, 0.0, busy_s=7.5))
        end_s = time.monotonic() + 5
        while detector.busy_s() != {"a": 7.5} and time.monotonic() < end_s:
            time.sleep(0.005)
        assert detector.busy_s() == {"a": 7.5}


def test_a_slow_host_is_told_once_and_again_when_it_is_steady() -> None:
    told: list[Event] = []
    plan = evaluate(problem("a", "b"), BEFORE, "exact", None, 0.0)
    slowness = Slowness(told.append, least_s=0.3)
    long_s = 1.1 * SLOW * plan.stages[0].compute_s
    assert slowness.watch(plan, {"a": 0.2, "b": 0.0}) == ()
    assert slowness.watch(plan, {"a": long_s, "b": 0.0, "stranger": 99.0}) == ("a",)
    assert slowness.watch(plan, {"a": 2 * long_s, "b": 0.0}) == ("a",)
    assert slowness.watch(plan, {"a": 0.0, "b": 0.0}) == ()
    assert [type(event) for event in told] == [HostSlow, HostSteady]


def test_bytes_that_nobody_has_read_are_heard_and_fenced_connections_end() -> None:
    inlets = Inlets()
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as there:
            here, _ = server.accept()
            with here, inlets.admit(here, "a", 3):
                there.send(b"x")
                assert inlets.heard(5.0) == ("a",)
                assert not is_cut_off(there, 0.0)
                time.sleep(0.05)
                assert (silent_s(here) or 0) >= 0.04
                assert inlets.heard(0.01) == ()
                inlets.fence(4)
                assert here.recv(2) in (b"x", b"")
                assert there.recv(1) == b""
        assert inlets.heard(5.0) == ()

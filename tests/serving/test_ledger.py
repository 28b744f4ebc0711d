"""The ledger: every request is answered at most once, whatever epochs come and go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from testbed.serving.ledger import Ledger, Request


def request(number: int, deadline_s: float | None = None) -> Request:
    return Request(id=number, client="c", tensors=[], payload=b"", deadline_s=deadline_s)


def test_window_and_queue_bound_what_is_accepted() -> None:
    ledger = Ledger(window=2, queue=1)
    assert [ledger.accept(request(n)) for n in range(4)] == [True, True, True, False]
    assert [r.id for r in ledger.send(1)] == [0, 1]
    assert (ledger.in_flight, ledger.waiting) == (2, 1)


def test_a_request_submitted_twice_is_taken_once() -> None:
    ledger = Ledger(window=2, queue=2)
    assert ledger.accept(request(7))
    assert ledger.accept(request(7))
    assert [r.id for r in ledger.send(1)] == [7]


def test_an_answer_of_a_fenced_epoch_does_not_count() -> None:
    ledger = Ledger(window=2, queue=0)
    ledger.accept(request(0))
    list(ledger.send(1))
    assert ledger.fence() == 1
    assert ledger.answer(0, epoch=1) is None
    (again,) = ledger.send(2)
    assert (again.id, again.attempts) == (0, 2)
    assert ledger.answer(0, epoch=1) is None
    assert ledger.answer(0, epoch=2) is again
    assert ledger.answer(0, epoch=2) is None


def test_fencing_puts_what_was_in_flight_before_what_waits() -> None:
    ledger = Ledger(window=2, queue=2)
    for number in range(4):
        ledger.accept(request(number))
    list(ledger.send(1))
    ledger.answer(0, epoch=1)
    ledger.fence()
    ledger_order = [r.id for r in ledger.send(2)]
    assert ledger_order == [1, 2]


def test_deadlines_end_requests_that_wait_and_that_are_in_flight() -> None:
    ledger = Ledger(window=1, queue=2)
    ledger.accept(request(0, deadline_s=5.0))
    ledger.accept(request(1, deadline_s=3.0))
    ledger.accept(request(2))
    list(ledger.send(1))
    assert ledger.next_deadline_s() == 3.0
    assert [r.id for r in ledger.expire(4.0)] == [1]
    assert [r.id for r in ledger.expire(5.0)] == [0]
    assert ledger.answer(0, epoch=1) is None
    assert [r.id for r in ledger.send(1)] == [2]


def test_what_an_earlier_dispatcher_accepted_comes_first_and_once() -> None:
    ledger = Ledger(window=2, queue=0)
    ledger.accept(request(5))
    assert ledger.restore([request(3), request(5), request(1)]) == 2
    assert (ledger.waiting, ledger.accept(request(1)), ledger.accept(request(9))) == (3, True, False)
    assert [r.id for r in ledger.send(4)] == [3, 1]


def test_a_request_that_is_not_journalled_can_be_waited_for_and_taken_out() -> None:
    ledger = Ledger(window=3, queue=3)
    for number in range(3):
        ledger.accept(request(number))
    ledger.journalled(0)
    ledger.journalled(2)
    assert [r.id for r in ledger.send(1, unjournalled=False)] == [0]
    assert ledger.remove(1) is not None
    assert ledger.remove(1) is None
    assert [r.id for r in ledger.send(1, unjournalled=False)] == [2]
    assert ledger.remove(2) is not None
    assert ledger.answer(2, epoch=1) is None


NUMBERS = st.integers(0, 30)
STEPS = st.one_of(
    st.tuples(st.sampled_from(["accept", "answer", "late"]), NUMBERS),
    st.tuples(st.sampled_from(["send", "fence"]), st.just(0)),
)


@given(st.lists(STEPS))
def test_whatever_happens_each_accepted_request_has_one_answer_at_most(steps: list[tuple[str, int]]) -> None:
    ledger = Ledger(window=3, queue=5)
    epoch = 1
    here: set[int] = set()
    answered: list[int] = []
    for verb, number in steps:
        match verb:
            case "accept" if number not in answered and ledger.accept(request(number)):
                here.add(number)
            case "send":
                list(ledger.send(epoch))
            case "fence":
                ledger.fence()
                epoch += 1
            case "answer" | "late":
                taken = ledger.answer(number, epoch if verb == "answer" else epoch - 1)
                if taken is not None:
                    assert verb == "answer"
                    answered.append(number)
                    here.discard(number)
        assert ledger.in_flight <= 3
        assert ledger.in_flight + ledger.waiting == len(here)
    assert len(answered) == len(set(answered))

"""Faults of a link compose, and healing them in any order leads back to exactly what was declared."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from testbed.emulation.impairment import Bursts
from testbed.emulation.overlay import Modification, described, overlaid
from testbed.emulation.shaping import Shape

times = st.floats(0, 1, allow_subnormal=False)
shares = st.floats(0, 0.99, allow_subnormal=False)
rates = st.integers(8_000, 10**10)
shapes = st.builds(
    Shape,
    rate_bps=st.none() | rates,
    delay_s=st.floats(0.5, 1),
    loss=shares | st.builds(Bursts, p=st.just(0.1), r=st.just(0.3), bad_loss=shares, good_loss=shares),
    jitter_s=st.floats(0, 0.5),
    jitter_distribution=st.sampled_from(["normal", "uniform"]),
    up=st.booleans(),
)
modifications = st.builds(
    Modification,
    most_bps=st.none() | rates,
    add_delay_s=times,
    add_jitter_s=times,
    loss=shares,
    down=st.booleans(),
)


@given(shapes, st.lists(modifications, max_size=5), st.data())
def test_healing_in_any_order_leads_back_exactly(shape: Shape, faults: list[Modification], data: st.DataObject) -> None:
    in_force = dict(enumerate(faults))
    for number in data.draw(st.permutations(list(in_force))):
        del in_force[number]
        # What is left is what would be, had the healed ones never been.
        never = [fault for other, fault in enumerate(faults) if other in in_force]
        assert overlaid(shape, list(in_force.values())) == overlaid(shape, never)
    assert overlaid(shape, []) == shape


@given(shapes, st.lists(modifications, max_size=5), st.data())
def test_the_order_of_injection_does_not_matter(shape: Shape, faults: list[Modification], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(faults))
    assert overlaid(shape, shuffled) == overlaid(shape, faults)


@given(shapes, st.lists(modifications, max_size=5), modifications)
def test_a_fault_never_makes_a_link_better(shape: Shape, faults: list[Modification], more: Modification) -> None:
    before, after = overlaid(shape, faults), overlaid(shape, [*faults, more])
    assert after.rate_bps is None or before.rate_bps is None or after.rate_bps <= before.rate_bps
    assert after.delay_s >= before.delay_s
    assert after.jitter_s <= after.delay_s
    assert before.up or not after.up


def test_each_setting_composes_in_its_own_way() -> None:
    declared = Shape(rate_bps=20_000_000, delay_s=0.005, jitter_s=0.003, loss=0.1)
    shape = overlaid(
        declared,
        [
            Modification(most_bps=5_000_000, loss=0.2),
            Modification(most_bps=2_000_000, add_delay_s=0.02, add_jitter_s=0.004),
            Modification(loss=0.5),
        ],
    )
    assert shape.rate_bps == 2_000_000
    assert round(shape.delay_s, 12) == 0.025
    assert round(shape.jitter_s, 12) == 0.005
    assert isinstance(shape.loss, float)
    assert round(1 - shape.loss, 12) == round(0.9 * 0.8 * 0.5, 12)
    assert overlaid(declared, [Modification(most_bps=10**9)]).rate_bps == 20_000_000
    assert overlaid(Shape(), [Modification(most_bps=10**9)]).rate_bps == 10**9
    assert not overlaid(declared, [Modification(down=True), Modification(loss=0.1)]).up


def test_bursts_stay_bursts_under_an_independent_loss() -> None:
    shape = overlaid(Shape(loss=Bursts(0.02, 0.25, 1.0, 0.0)), [Modification(loss=0.1)])
    assert isinstance(shape.loss, Bursts)
    assert (shape.loss.p, shape.loss.r, shape.loss.bad_loss) == (0.02, 0.25, 1.0)
    assert round(shape.loss.good_loss, 12) == 0.1


def test_a_shape_is_told_in_words() -> None:
    assert described(Shape()) == "unshaped"
    assert described(Shape(rate_bps=2_000_000, delay_s=0.005, jitter_s=0.001, loss=0.05)) == (
        "2Mbit/s, delay 5ms, jitter 1ms, loss 5%"
    )
    assert described(Shape(loss=Bursts(0.1, 0.3, 1.0, 0.0))) == "unshaped, loss 25%"
    assert described(Shape(rate_bps=1, up=False)) == "down"

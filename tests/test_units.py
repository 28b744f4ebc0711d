"""Quantities: what is legal, what is told when it isn't, and the way there and back."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed import units

PARSERS: tuple[Callable[[object], float], ...] = (
    units.parse_rate,
    units.parse_size,
    units.parse_duration,
    units.parse_frequency,
    units.parse_fraction,
)


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (units.parse_rate, "20Mbit/s", 20_000_000),
        (units.parse_rate, "20 Mbps", 20_000_000),
        (units.parse_rate, "1.5Gbit/s", 1_500_000_000),
        (units.parse_rate, "2e3bit/s", 2_000),
        (units.parse_size, "64MiB", 64 * 2**20),
        (units.parse_size, "64MB", 64_000_000),
        (units.parse_size, "1kB", 1_000),
        (units.parse_duration, "5ms", 0.005),
        (units.parse_duration, " 2min ", 120.0),
        (units.parse_duration, "0s", 0.0),
        (units.parse_duration, "7µs", 7e-6),  # U+00B5 MICRO SIGN
        (units.parse_duration, "7\u03bcs", 7e-6),  # U+03BC GREEK SMALL LETTER MU
        (units.parse_frequency, "5/s", 5.0),
        (units.parse_frequency, "90/min", 1.5),
        (units.parse_fraction, "0.1%", 0.001),
        (units.parse_fraction, 0.25, 0.25),
        (units.parse_fraction, "1", 1.0),
    ],
)
def test_legal_text_has_its_value(parse: Callable[[object], float], text: object, value: float) -> None:
    assert parse(text) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("parse", "text", "told"),
    [
        (units.parse_rate, 20, "20 has no unit; a rate is written like 20Mbit/s"),
        (units.parse_rate, "20", "'20' has no unit"),
        (units.parse_rate, "20mbit/s", "did you mean 'Mbit/s'?"),
        (units.parse_rate, "20MB/s", "unknown unit 'MB/s'"),
        (units.parse_rate, "-20Mbit/s", "is no rate"),
        (units.parse_rate, "0bit/s", "at least 1 bit/s"),
        (units.parse_rate, "1e400bit/s", "too large"),
        (units.parse_rate, True, "True is no rate"),
        (units.parse_size, "64mib", "did you mean 'MiB'?"),
        (units.parse_size, "0B", "at least 1 byte"),
        (units.parse_duration, "5", "has no unit"),
        (units.parse_duration, None, "None is no duration"),
        (units.parse_duration, 10**1000, "more than 30 digits has no unit"),
        (units.parse_frequency, "5", "has no unit"),
        (units.parse_frequency, "0/s", "above 0"),
        (units.parse_fraction, "101%", "between 0 and 1"),
        (units.parse_fraction, 10**400, "between 0 and 1"),
        (units.parse_fraction, math.nan, "between 0 and 1"),
        (units.parse_fraction, [0.1], "is no fraction"),
    ],
)
def test_illegal_text_is_told_with_what_is_legal(parse: Callable[[object], float], text: object, told: str) -> None:
    with pytest.raises(units.UnitError) as caught:
        parse(text)
    assert told in str(caught.value)


def test_a_message_stays_short_whatever_the_text() -> None:
    for parse in PARSERS:
        with pytest.raises(units.UnitError) as caught:
            parse("9" * 100_000 + "x" * 100_000)
        assert len(str(caught.value)) < 400


@given(st.integers(1, 10**13))
def test_rate_there_and_back(rate_bps: int) -> None:
    assert units.parse_rate(units.format_rate(rate_bps)) == pytest.approx(rate_bps, rel=1e-3)


@given(st.integers(1, 2**50))
def test_size_there_and_back(size_bytes: int) -> None:
    assert units.parse_size(units.format_size(size_bytes)) == pytest.approx(size_bytes, rel=1e-3)


@given(st.just(0.0) | st.floats(1e-9, 1e7))
def test_duration_there_and_back(duration_s: float) -> None:
    assert units.parse_duration(units.format_duration(duration_s)) == pytest.approx(duration_s, rel=1e-3)


@given(st.floats(1e-6, 1e7))
def test_frequency_there_and_back(frequency_hz: float) -> None:
    assert units.parse_frequency(units.format_frequency(frequency_hz)) == pytest.approx(frequency_hz, rel=1e-3)


ANYTHING = (
    st.text()
    | st.from_regex(r"[0-9.eE+-]{1,8} ?[a-zA-Z/%µ]{0,6}")
    | st.integers()
    | st.floats()
    | st.none()
    | st.booleans()
    | st.lists(st.text(), max_size=2)
)


@given(ANYTHING)
def test_nothing_but_a_unit_error_is_ever_raised(value: object) -> None:
    for parse in PARSERS:
        try:
            result = parse(value)
        except units.UnitError:
            continue
        assert math.isfinite(result)
        assert result >= 0


def test_zero_is_shown_in_the_base_unit() -> None:
    assert (units.format_duration(0), units.format_rate(0), units.format_size(0)) == ("0s", "0bit/s", "0B")

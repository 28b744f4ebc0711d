"""Quantities with a dimension: parsed and printed here and nowhere else.

Inside the program a rate is in bit/s (int), a size in bytes (int), a time in seconds (float), a frequency in 1/s
(float) and a fraction is a plain number in 0..1. Rates take decimal prefixes only; sizes take decimal (``64MB``) and
binary (``64MiB``) ones. Prefixes are case-sensitive, because ``m`` and ``M`` differ by nine orders of magnitude.
"""

from __future__ import annotations

import difflib
import math
import re
import reprlib
from collections.abc import Mapping

RATE_UNITS: Mapping[str, int] = {
    f"{prefix}{unit}": factor
    for unit in ("bit/s", "bps")
    for prefix, factor in (("", 1), ("k", 10**3), ("M", 10**6), ("G", 10**9))
}
SIZE_UNITS: Mapping[str, int] = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
DURATION_UNITS: Mapping[str, float] = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}

POWER_UNITS: Mapping[str, float] = {"mW": 1e-3, "W": 1.0}
LENGTH_UNITS: Mapping[str, float] = {"m": 1.0, "km": 1e3}

FREQUENCY_UNITS: Mapping[str, float] = {"/s": 1.0, "/min": 1 / 60, "/h": 1 / 3600}

_QUANTITY = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*(?P<unit>[A-Za-z/%]*)")


class UnitError(ValueError):
    """The text is no quantity of the wanted dimension; the message says what would be."""


def _quoted(value: object) -> str:
    """Short enough for a message, whatever the value is."""
    if isinstance(value, int) and abs(value) > 10**30:
        return "a number of more than 30 digits"  # repr() refuses thousands of digits
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else f"{value[:57]}...")
    return reprlib.repr(value)


def _split(text: object, what: str, units: Mapping[str, float], example: str) -> float:
    legal = ", ".join(units)
    shown = _quoted(text)
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        raise UnitError(f"{shown} has no unit; a {what} is written like {example} (units: {legal})")
    if not isinstance(text, str):
        raise UnitError(f"{shown} is no {what}; write it like {example}")
    match = _QUANTITY.fullmatch(text.strip().replace("µ", "u").replace("μ", "u"))
    if match is None:
        raise UnitError(f"{shown} is no {what}; write it like {example} (units: {legal})")
    unit = match["unit"]
    if not unit:
        raise UnitError(f"{shown} has no unit; a {what} is written like {example} (units: {legal})")
    if unit not in units:
        same_letters = [known for known in units if known.lower() == unit.lower()]
        near = same_letters or difflib.get_close_matches(unit, units, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UnitError(f"{shown}: unknown unit {_quoted(unit)} for a {what}{hint} (units: {legal})")
    value = float(match["number"]) * units[unit]
    if not math.isfinite(value):
        raise UnitError(f"{shown} is too large for a {what}")
    return value


def parse_rate(text: object) -> int:
    """Bit/s of ``20Mbit/s`` or ``20Mbps``.

    Raises:
        UnitError: If the text is no rate, or rounds to 0 bit/s.
    """
    value = round(_split(text, "rate", RATE_UNITS, "20Mbit/s"))
    if value < 1:
        raise UnitError(f"{_quoted(text)}: a rate must be at least 1 bit/s")
    return value


def parse_size(text: object) -> int:
    """Bytes of ``64MB`` or ``64MiB``.

    Raises:
        UnitError: If the text is no size, or rounds to 0 bytes.
    """
    value = round(_split(text, "size", SIZE_UNITS, "64MiB"))
    if value < 1:
        raise UnitError(f"{_quoted(text)}: a size must be at least 1 byte")
    return value


def parse_duration(text: object) -> float:
    """Seconds of ``5ms``, ``8s`` or ``2min``; zero is legal.

    Raises:
        UnitError: If the text is no duration.
    """
    return _split(text, "duration", DURATION_UNITS, "5ms")


def parse_length(text: object) -> float:
    """Metres of ``75m`` or ``1.5km``; zero is legal.

    Raises:
        UnitError: If the text is no length.
    """
    return _split(text, "length", LENGTH_UNITS, "75m")


def parse_frequency(text: object) -> float:
    """How often a second: ``5/s``, ``90/min``.

    Raises:
        UnitError: If the text is no frequency, or zero.
    """
    value = _split(text, "frequency", FREQUENCY_UNITS, "5/s")
    if value <= 0:
        raise UnitError(f"{_quoted(text)}: a frequency must be above 0")
    return value


def parse_power(text: object) -> float:
    """Watts of ``6.4W`` or ``800mW``; zero is legal.

    Raises:
        UnitError: If the text is no power.
    """
    return _split(text, "power", POWER_UNITS, "6.4W")


def parse_fraction(text: object, most: float = 1.0) -> float:
    """A number from 0 to `most`, written ``0.1%`` or ``0.001``.

    Raises:
        UnitError: If the text is no number, or outside of that.
    """
    if isinstance(text, bool) or not isinstance(text, (int, float, str)):
        raise UnitError(f"{_quoted(text)} is no fraction; write it like 0.1% or 0.001")
    if isinstance(text, str):
        match = _QUANTITY.fullmatch(text.strip())
        if match is None or match["unit"] not in ("", "%"):
            raise UnitError(f"{_quoted(text)} is no fraction; write it like 0.1% or 0.001")
        value = float(match["number"]) / (100 if match["unit"] == "%" else 1)
    else:
        value = float(text) if abs(text) <= most else math.inf  # float() of a huge whole number overflows
    if not 0 <= value <= most:
        raise UnitError(f"{_quoted(text)}: a fraction lies between 0 and {most:g} (0% and {most:.0%})")
    return value


def _scaled(value: float, units: tuple[tuple[str, float], ...]) -> str:
    for name, factor in units:
        if abs(value) >= factor or (value == 0 and factor == 1):
            return f"{value / factor:.4g}{name}"
    name, factor = units[-1]
    return f"{value / factor:.4g}{name}"


def format_rate(rate_bps: float) -> str:
    """Shortest readable form with four digits, such as ``20Mbit/s``."""
    return _scaled(rate_bps, (("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3), ("bit/s", 1)))


def format_size(size_bytes: float) -> str:
    """Shortest readable binary form with four digits, such as ``64MiB``."""
    return _scaled(size_bytes, (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("B", 1)))


def format_duration(duration_s: float) -> str:
    """Shortest readable form with four digits, such as ``5ms``."""
    return _scaled(duration_s, (("s", 1), ("ms", 1e-3), ("us", 1e-6)))


def format_power(power_w: float) -> str:
    """``6.4W``, ``800mW``."""
    return _scaled(power_w, (("W", 1.0), ("mW", 1e-3)))


def format_length(length_m: float) -> str:
    """Shortest readable form with four digits, such as ``75m``."""
    return _scaled(length_m, (("km", 1e3), ("m", 1)))


def format_frequency(frequency_hz: float) -> str:
    """With four digits, such as ``5/s``."""
    return _scaled(frequency_hz, (("/s", 1),))

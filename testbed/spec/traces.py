"""Bandwidth traces: recordings of a link's rate, compiled to timed changes of the rate. Pure but for reading the file.

Two formats:

- ``mahimahi`` (Netravali et al., USENIX ATC 2015): each line is a time in ms at which one packet of 1500 bytes may go;
  equal lines mean several. The time of the last line is the trace's length. Deliveries are counted in windows (100 ms
  unless said otherwise), because a link's rate can't follow single packets.
- ``csv``: a header ``time_s,rate`` and rows such as ``12.5,3Mbit/s``; or ``time_s,rate_mbit_s`` and plain numbers. The
  first row is at 0. A rate holds until the next row; the last one as long as the one before it.

A link can't stand still: where nothing may pass, the rate is 8 kbit/s, one full frame in 1.5 s. Nor may a rate be so
low that a full frame takes longer than the rate holds: the kernel lets a frame go and then waits for as long as that
takes at the rate of then, even if the rate has risen since. So a gap of 100 ms would silence a link for 1.5 s.
"""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, PrivateAttr

from testbed.spec.quantities import BesideFile, Duration
from testbed.spec.section import Section
from testbed.units import UnitError, parse_rate

LOWEST_BPS = 8_000
HIGHEST_BPS = 10**10
PACKET_BYTES = 1514
"""A packet of 1500 bytes with its Ethernet header, which counts for a link's rate."""
DEFAULT_WINDOW_S = 0.1
MAX_FILE_BYTES = 2**24
MAX_CHANGES = 100_000


class TraceError(ValueError):
    """A trace file is wrong; the message says in which line."""


class TraceSpec(Section):
    """A recording of a link's rate."""

    noun: ClassVar[str] = "a trace"

    file: Annotated[BesideFile, Field(description="The recording, relative to the experiment file.")]
    format: Annotated[
        Literal["mahimahi", "csv"],
        Field(description="mahimahi: a line for each packet of 1500 bytes, in ms; csv: columns time_s and rate."),
    ]
    loop: Annotated[
        bool, Field(description="Whether it starts anew at its end; otherwise the declared rate comes back.")
    ] = True
    window_s: Annotated[
        Duration | None,
        Field(alias="window", description="mahimahi: over what time packets are counted; 100ms when absent."),
    ] = None

    _stretch: float = PrivateAttr(default=1.0)

    def slowed(self, k: float) -> Self:
        """The same recording where a second takes k seconds."""
        slow = self.model_copy()
        slow._stretch = self._stretch * k
        return slow

    def read(self) -> Trace:
        """The recording.

        Raises:
            TraceError: If the file can't be read or is none.
        """
        try:
            with self.file.open("rb") as stream:
                content = stream.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise TraceError(f"can't read {self.file}: {error.strerror}") from error
        if len(content) > MAX_FILE_BYTES:
            raise TraceError(f"{self.file.name} is larger than {MAX_FILE_BYTES // 2**20} MiB")
        try:
            text = content.decode("ascii")
        except UnicodeDecodeError as error:
            raise TraceError(f"{self.file.name} is no text") from error
        try:
            if self.format == "csv":
                trace = parse_csv(text)
            else:
                trace = parse_mahimahi(text, DEFAULT_WINDOW_S if self.window_s is None else self.window_s)
        except TraceError as error:
            raise TraceError(f"{self.file.name}, {error}") from error
        return trace.stretched(self._stretch)


@dataclass(frozen=True, slots=True)
class RateChange:
    """From ``at_s`` on the rate is ``rate_bps``; None stands for the declared one."""

    at_s: float
    rate_bps: int | None


@dataclass(frozen=True, slots=True)
class Trace:
    """A recording.

    Attributes:
        steps: From when on which rate holds; the first at 0, in order.
        length_s: When it ends.
    """

    steps: tuple[tuple[float, int], ...]
    length_s: float

    def stretched(self, k: float) -> Trace:
        """The same where a second takes k seconds."""
        if k == 1:
            return self
        return Trace(tuple((at_s * k, max(1, round(rate_bps / k))) for at_s, rate_bps in self.steps), self.length_s * k)

    def changes(self, until_s: float, *, loop: bool) -> tuple[RateChange, ...]:
        """What to set when, from 0 up to `until_s`; a step to the rate that holds already is left out.

        Raises:
            TraceError: If they are more than 100,000.
        """
        found: list[RateChange] = []
        end_s = until_s
        for at_s, rate_bps in self._endless() if loop else self._once():
            if at_s >= until_s:
                end_s = at_s
                break
            if not found or found[-1].rate_bps != rate_bps:
                found.append(RateChange(at_s, rate_bps))
            if len(found) > MAX_CHANGES:
                raise TraceError(f"changes the rate more than {MAX_CHANGES} times; take a longer window")
        ends_s = [*(change.at_s for change in found[1:]), end_s]
        return tuple(_passable(change, until - change.at_s) for change, until in zip(found, ends_s, strict=True))

    def _once(self) -> Iterator[tuple[float, int | None]]:
        yield from self.steps
        yield self.length_s, None

    def _endless(self) -> Iterator[tuple[float, int]]:
        for turn in itertools.count():
            for at_s, rate_bps in self.steps:
                yield turn * self.length_s + at_s, rate_bps


def _passable(change: RateChange, lasts_s: float) -> RateChange:
    """The change with a rate at which a full frame takes no longer than the rate holds."""
    if change.rate_bps is None:
        return change
    return RateChange(change.at_s, max(change.rate_bps, math.ceil(8 * PACKET_BYTES / lasts_s)))


def _within(rate_bps: float) -> int:
    return min(HIGHEST_BPS, max(LOWEST_BPS, round(rate_bps)))


def parse_mahimahi(text: str, window_s: float) -> Trace:
    """A trace in mahimahi's format; the windows are as near to `window_s` as fits into it a whole number of times.

    Raises:
        TraceError: With the line.
    """
    times_ms: list[int] = []
    for number, line in enumerate(text.splitlines(), start=1):
        word = line.strip()
        if not word:
            continue
        if not word.isdecimal() or len(word) > 12:
            raise TraceError(f"line {number}: {word[:40]!r} is no time in whole ms")
        if times_ms and int(word) < times_ms[-1]:
            raise TraceError(f"line {number}: {word} is before the line above it, {times_ms[-1]}")
        times_ms.append(int(word))
    if not times_ms or times_ms[-1] == 0:
        raise TraceError("no line is later than 0 ms")
    length_s = times_ms[-1] / 1000
    windows = max(1, round(length_s / window_s))
    if windows > MAX_CHANGES:
        raise TraceError(f"it has {windows} windows, more than {MAX_CHANGES}; take a longer window")
    counts = [0] * windows
    for time_ms in times_ms:
        # A packet at the very end is the last window's.
        counts[min(windows - 1, time_ms * windows // times_ms[-1])] += 1
    each_s = length_s / windows
    steps = tuple((index * each_s, _within(count * PACKET_BYTES * 8 / each_s)) for index, count in enumerate(counts))
    return Trace(steps, length_s)


def parse_csv(text: str) -> Trace:
    """A trace as CSV.

    Raises:
        TraceError: With the line.
    """
    rows = list(csv.reader(text.splitlines()))
    header = [name.strip() for name in rows[0]] if rows else []
    if header not in (["time_s", "rate"], ["time_s", "rate_mbit_s"]):
        raise TraceError("line 1: the header must be time_s,rate or time_s,rate_mbit_s")
    steps: list[tuple[float, int]] = []
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        if len(row) != 2:
            raise TraceError(f"line {number}: has {len(row)} columns instead of 2")
        at_s = _number(row[0], number, "time")
        if not steps and at_s != 0:
            raise TraceError(f"line {number}: the first row must be at 0")
        if steps and at_s <= steps[-1][0]:
            raise TraceError(f"line {number}: {row[0].strip()} isn't after the row above it")
        if header[1] == "rate":
            try:
                rate_bps = float(parse_rate(row[1]))
            except UnitError as error:
                raise TraceError(f"line {number}: {error}") from error
        else:
            rate_bps = _number(row[1], number, "rate") * 1e6
        steps.append((at_s, _within(rate_bps)))
    if len(steps) < 2:
        raise TraceError("it needs two rows at least")
    return Trace(tuple(steps), 2 * steps[-1][0] - steps[-2][0])


def _number(word: str, line: int, what: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise TraceError(f"line {line}: {word.strip()[:40]!r} is no {what}")
    return value

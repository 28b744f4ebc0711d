"""What a section of ``benchmarks/planning.py`` is given, and the rows it answers with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Options:
    """How to measure.

    Attributes:
        quick: As few instances as still say something: all sections together take 10 minutes at most.
        paper: Folder of published data, or None where there is none.
        seed: Of everything drawn.
    """

    quick: bool
    paper: Path | None
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Row:
    """One measured figure.

    Attributes:
        section: The section's name.
        case: What it was measured on.
        measure: What it is, with its unit.
        value: The figure.
        low: The bar: it must not be below.
        high: The bar: it must not be above.
        reference: What was published, or what it is compared with; NaN where there is nothing.
        note: For people.
    """

    section: str
    case: str
    measure: str
    value: float
    low: float = -math.inf
    high: float = math.inf
    reference: float = math.nan
    note: str = ""

    @property
    def has_bar(self) -> bool:
        """Whether it can fail."""
        return self.low > -math.inf or self.high < math.inf

    @property
    def ok(self) -> bool:
        """Whether it is within its bar; a value that is not a number is within none."""
        return not self.has_bar or self.low <= self.value <= self.high

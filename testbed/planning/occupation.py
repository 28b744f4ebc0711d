"""What a request occupies, and for how long: hosts, paths, and physical links that several paths share.

All stages of a host share its processor, and all transfers over a path its rate. So in steady state a request can't
follow the one before it sooner than the most occupied of them allows, whatever else overlaps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from testbed.planning.problem import Path


@dataclass(frozen=True, slots=True)
class Occupation:
    """Something that works for a request.

    Attributes:
        name: For people: ``compute on node1`` or ``link dispatcher → node1``.
        busy_s: For how long, all stages and transfers added up.
        stage: The stage that takes most of it, or receives most of it; None for the answer's way back.
    """

    name: str
    busy_s: float
    stage: int | None


@dataclass(frozen=True, slots=True)
class Transfer:
    """Bits between two hosts, into a stage or, with None, back to the dispatcher."""

    source: str
    target: str
    path: Path
    bits: float
    stage: int | None

    @property
    def link_s(self) -> float:
        """How long they occupy the path."""
        return self.bits / self.path.rate_bps


def occupations(computes: Sequence[tuple[str, float]], transfers: Sequence[Transfer]) -> tuple[Occupation, ...]:
    """All that a request occupies, in the pipeline's order; shared links at the end.

    Args:
        computes: Host and seconds of each stage.
        transfers: Into each stage, and back to the dispatcher.
    """
    shares: dict[str, list[tuple[float, int | None]]] = {}
    for transfer, compute in zip(transfers, [*computes, None], strict=True):
        shares.setdefault(f"link {transfer.source} → {transfer.target}", []).append((transfer.link_s, transfer.stage))
        if compute is not None:
            shares.setdefault(f"compute on {compute[0]}", []).append((compute[1], transfer.stage))
    for name, rate_bps, crossing in _shared(transfers):
        shares[f"link {name}, shared"] = [(transfer.bits / rate_bps, transfer.stage) for transfer in crossing]
    return tuple(Occupation(name, *_summed(parts)) for name, parts in shares.items())


def _shared(transfers: Sequence[Transfer]) -> Iterator[tuple[str, float, tuple[Transfer, ...]]]:
    """Each physical link that different paths cross, with its rate and what crosses it."""
    crossing: dict[str, list[Transfer]] = {}
    rates: dict[str, float] = {}
    for transfer in transfers:
        for link in transfer.path.links:
            crossing.setdefault(link.name, []).append(transfer)
            rates[link.name] = link.rate_bps
    for name, found in crossing.items():
        if len({(transfer.source, transfer.target) for transfer in found}) > 1:
            yield name, rates[name], tuple(found)


def _summed(parts: Sequence[tuple[float, int | None]]) -> tuple[float, int | None]:
    return math.fsum(part[0] for part in parts), max(parts, key=lambda part: part[0])[1]


def busiest(found: Iterable[Occupation]) -> Occupation:
    """The bottleneck; of equal ones the first."""
    return max(found, key=lambda occupation: occupation.busy_s)

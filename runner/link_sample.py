"""Which links are measured before and after the workload: all of a few, a sample of many. Pure and seeded."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

from testbed.spec.network import Network

MOST_LINKS = 30


def links_to_measure(network: Network, stops: Sequence[str], seed: int, most: int = MOST_LINKS) -> tuple[str, ...]:
    """Names of links, in the order of the file.

    Args:
        network: Where they are.
        stops: The hosts of the plan in the order in which they hand over; the links between them come first.
        seed: Decides which others are taken.
        most: How many at most.
    """
    names = [link.name for link in network.links]
    if len(names) <= most:
        return tuple(names)
    used = {
        link.name: None for one, other in itertools.pairwise(stops) if one != other for link in network.path(one, other)
    }
    chosen = set(list(used)[:most])
    rest = [name for name in names if name not in chosen]
    draw = random.Random(f"{seed}/links")  # noqa: S311 - repeatable, not secret
    chosen.update(draw.sample(rest, most - len(chosen)))
    return tuple(name for name in names if name in chosen)

"""A problem in which what is used adds up: hosts that may hold several stages, links that several paths share.

Each host and each link is a resource with a capacity under a threshold; a plan is a walk over hosts that uses no more
of any resource than there is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from testbed.planning.evaluate import usable_path
from testbed.planning.hosttypes import merge
from testbed.planning.instance import Bools, Floats, Instance, room_bytes
from testbed.planning.problem import Link, Path, Problem


@dataclass(frozen=True, slots=True, eq=False)
class Loads:
    """Arrays of a problem with ``L`` segments, ``n`` hosts (the dispatcher is node ``n``) and ``M`` links.

    Attributes:
        instance: The same problem, a type a host.
        per_host: Most stages of a host.
        most_stages: Most stages of a plan.
        room: ``(n,)`` bytes of memory that weights and the largest peak of activations must fit into.
        storage: ``(n,)`` bytes of storage that weights must fit into.
        peaks: ``(L+1, L+1)`` peak bytes of live activations of the segments between two boundaries.
        link_rate: ``(M,)`` bit/s.
        crosses: ``(M, n+1, n+1)`` whether the path from the row's node to the column's crosses a link.
        links_of: For each pair of nodes with a path the links that it crosses.
        classes: Of each host, the first host that no plan can tell it from.
    """

    instance: Instance = field(repr=False)
    per_host: int
    most_stages: int
    room: Floats
    storage: Floats
    peaks: Floats
    link_rate: Floats
    crosses: Bools
    links_of: Mapping[tuple[int, int], tuple[int, ...]]
    classes: tuple[int, ...]

    @property
    def hosts(self) -> int:
        """``n``."""
        return len(self.room)

    @classmethod
    def of(cls, problem: Problem) -> Loads:
        """Build the arrays; at least one worker."""
        instance = Instance.of(problem, apart=True)
        rooms = np.array([room_bytes(worker) for worker in problem.workers])
        segments, count = problem.chain.segments, len(problem.workers)
        peaks = np.zeros((segments + 1, segments + 1))
        for first in range(segments):
            peaks[first, first + 1 :] = np.maximum.accumulate(problem.chain.activation_bytes[first:])
        names = [*(worker.name for worker in problem.workers), problem.dispatcher]
        paths = {
            (row, column): path
            for row, source in enumerate(names)
            for column, target in enumerate(names)
            if row != column and (path := usable_path(problem, source, target)) is not None
        }
        links: dict[Link, set[tuple[int, int]]] = {}
        for pair, path in paths.items():
            for link in _crossed(pair, path):
                links.setdefault(link, set()).add(pair)
        # What one path alone crosses counts only where a path may be used twice.
        kept = [link for link, pairs in links.items() if len(pairs) > 1 or problem.stages_per_host > 1]
        crosses = np.zeros((len(kept), count + 1, count + 1), dtype=np.bool_)
        links_of: dict[tuple[int, int], list[int]] = {pair: [] for pair in paths}
        for index, link in enumerate(kept):
            for pair in links[link]:
                crosses[index][pair] = True
                links_of[pair].append(index)
        return cls(
            instance=instance,
            per_host=problem.stages_per_host,
            most_stages=problem.most_stages,
            room=rooms[:, 0],
            storage=rooms[:, 1],
            peaks=peaks,
            link_rate=np.array([link.rate_bps for link in kept]),
            crosses=crosses,
            links_of={pair: tuple(indices) for pair, indices in links_of.items()},
            classes=_classes(problem, paths, links),
        )


def _crossed(pair: tuple[int, int], path: Path) -> tuple[Link, ...]:
    """A path's links; itself where it is slower than they are, or none is known. Links without a limit don't count."""
    links = tuple(link for link in path.links if not math.isinf(link.rate_bps))
    if math.isinf(path.rate_bps) or any(link.rate_bps <= path.rate_bps for link in links):
        return links
    return (*links, Link(f"{pair[0]} → {pair[1]}", path.rate_bps))


def _classes(
    problem: Problem, paths: Mapping[tuple[int, int], Path], links: Mapping[Link, set[tuple[int, int]]]
) -> tuple[int, ...]:
    """Hosts are alike where swapping them changes neither figures nor which paths share which links.

    A link that only one path crosses shares nothing. One that only paths from a host (or to it) cross is that host's
    own: told by its place among those.
    """
    count = len(problem.workers)
    own: dict[Link, tuple[str, int]] = {link: ("alone", 0) for link, pairs in links.items() if len(pairs) == 1}
    for side in (0, 1):
        found: dict[int, int] = {}
        for link in sorted(links, key=lambda link: link.name):
            nodes = {pair[side] for pair in links[link]}
            if len(nodes) == 1 and link not in own:
                node = nodes.pop()
                own[link] = (("from", "to")[side], found.setdefault(node, 0))
                found[node] += 1
    rate = np.zeros((count + 1, count + 1))
    shared = np.zeros((count + 1, count + 1))
    seen: dict[tuple[object, ...], int] = {}
    for pair, path in paths.items():
        rate[pair] = path.rate_bps
        crossed = tuple((own.get(link, link.name), link.rate_bps) for link in _crossed(pair, path))
        shared[pair] = seen.setdefault(crossed, len(seen) + 1)
    attributes: list[tuple[float, ...]] = [(worker.speed, *room_bytes(worker)) for worker in problem.workers]
    classes = list(range(count + 1))
    for group in merge([*attributes, (-1.0,)], [rate, shared]):
        for host in group:
            classes[host] = group[0]
    return tuple(classes[:count])

"""Which nodes hang together: a union-find that remembers the links, so that a loop can be told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from testbed.spec.experiment import Experiment


class Forest:
    """Nodes joined by named links, without loops."""

    def __init__(self, nodes: Iterable[str]) -> None:
        self._parent: dict[str, str] = {node: node for node in nodes}
        self._neighbours: dict[str, list[tuple[str, str]]] = {node: [] for node in self._parent}

    def __contains__(self, node: str) -> bool:
        return node in self._parent

    def root(self, node: str) -> str:
        """The node that stands for all those joined with `node`."""
        while self._parent[node] != node:
            self._parent[node] = self._parent[self._parent[node]]
            node = self._parent[node]
        return node

    def join(self, one: str, other: str, link: str) -> tuple[str, ...] | None:
        """Join two nodes.

        Returns:
            None; or, if they hung together already, the names of the links that would form a loop. Such a link is not
            added.
        """
        if self.root(one) == self.root(other):
            return (*self._path(one, other), link)
        self._parent[self.root(one)] = self.root(other)
        self._neighbours[one].append((other, link))
        self._neighbours[other].append((one, link))
        return None

    def _path(self, start: str, end: str) -> tuple[str, ...]:
        stack: list[tuple[str, str | None, tuple[str, ...]]] = [(start, None, ())]
        while stack:
            node, came_from, links = stack.pop()
            if node == end:
                return links
            stack.extend((after, node, (*links, link)) for after, link in self._neighbours[node] if after != came_from)
        raise ValueError(f"{start} and {end} don't hang together")


def segments(experiment: Experiment) -> Mapping[str, str]:
    """For each switch the one that stands for its segment: the switches that are linked directly or by switches."""
    forest = Forest(experiment.switches)
    for link in experiment.links:
        if all(node in forest for node in link.between):
            forest.join(*link.between, link.name)
    return {switch: forest.root(switch) for switch in experiment.switches}

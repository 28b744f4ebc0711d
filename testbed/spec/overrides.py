"""Values that the command line sets in place of the file: ``--set links.0.rate=5Mbit/s``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from testbed.errors import SpecError
from testbed.spec.anatomy import fields, is_free_mapping, sections_at
from testbed.spec.document import Location, Node, dotted, parse
from testbed.spec.findings import choice

_STEP = re.compile(r"\[(?P<index>[0-9]{1,6})\]|(?:^|\.)(?P<key>[^.\[\]=\s]+)")


def apply(document: Node, override: str) -> Node:
    """The tree with one value set.

    Args:
        document: The tree of the file; it isn't changed.
        override: ``key.path=value``; the value is YAML, items of lists are ``links[0]`` or ``links.0``.

    Raises:
        SpecError: If the text is no override, its path leads nowhere, or its value is no YAML.
    """
    option = f"--set {override if len(override) <= 200 else override[:197] + '...'}"
    path, equals, text = override.partition("=")
    if not equals or not path.strip():
        raise SpecError("no override", override=option, remedy="write it like --set links.0.rate=5Mbit/s")
    return _with(document, (), _steps(path.strip(), option), parse(text, option=option), option)


def with_seed(document: Node, seed: int) -> Node:
    """The tree with another seed, as ``--seed`` sets it."""
    option = f"--seed {seed}"
    return _with(document, (), ("seed",), Node(seed, option=option), option)


def _steps(path: str, option: str) -> tuple[str, ...]:
    steps: list[str] = []
    position = 0
    while position < len(path):
        match = _STEP.match(path, position)
        if match is None:
            raise SpecError(
                f"{path[:60]!r} is no path of keys",
                override=option,
                remedy="write it like links.0.rate or links[0].rate",
            )
        steps.append(match["index"] or match["key"])
        position = match.end()
    return tuple(steps)


def _with(node: Node, location: Location, steps: Sequence[str], value: Node, option: str) -> Node:
    """`node` with `value` at `steps` below it; `location` is its own place in the tree."""
    if not steps:
        return value
    step, rest = steps[0], steps[1:]
    if isinstance(node.value, tuple):
        index = _index(node.value, location, step, option)
        inner = _with(node.value[index], (*location, index), rest, value, option)
        return replace(node, value=(*node.value[:index], inner, *node.value[index + 1 :]))
    entries = node.value if isinstance(node.value, Mapping) else {}
    if not isinstance(node.value, Mapping) and node.value is not None:
        raise SpecError("has no keys below it", path=dotted(location), override=option)
    _check_key(entries, location, step, rest, option)
    below = entries.get(step, Node(None, option=option))
    inner = _with(below, (*location, step), rest, value, option)
    if not isinstance(node.value, Mapping):
        return Node({step: inner}, node.line, option)
    return replace(node, value={**entries, step: inner})


def _index(items: Sequence[Node], location: Location, step: str, option: str) -> int:
    if step.isdecimal() and int(step) < len(items):
        return int(step)
    remedy = f"its items are {dotted(location)}[0] to {dotted(location)}[{len(items) - 1}]" if items else "it is empty"
    raise SpecError(f"has no item {step!r}", path=dotted(location), override=option, remedy=remedy)


def _check_key(entries: Mapping[str, Node], location: Location, step: str, rest: Sequence[str], option: str) -> None:
    if step in entries:
        return
    if is_free_mapping(location):
        if not rest:
            return
        legal = list(entries)
    else:
        legal = [key for section in sections_at(location) for key in fields(section)]
        if step in legal:
            return
    raise SpecError(
        f"unknown key {step[:60]!r}",
        path=dotted(location),
        override=option,
        remedy=choice(step, list(dict.fromkeys(legal)), "legal keys"),
    )

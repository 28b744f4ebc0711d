"""A YAML text as a tree in which every value knows its line, or the command-line option that set it.

The parser's events come from PyYAML; the tree is ours, because PyYAML's own drops lines, lets the last of two equal
keys win, and reads ``no`` as false, ``010`` as 8 and ``1:30`` as 90. Scalars follow YAML 1.2's core schema, less what
is ambiguous between the two versions of YAML.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from testbed.errors import SpecError

MAX_FILE_BYTES = 2**20
MAX_NODES = 200_000  # after aliases are expanded: a few lines of nested aliases can mean billions of values
MAX_DEPTH = 32
MAX_SCALAR_LENGTH = 4_096

Location = tuple[str | int, ...]
Scalar = str | int | float | bool | None

_CORE_TAGS = ("tag:yaml.org,2002:str", "!")
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
_FLOAT = re.compile(r"[-+]?(0|[1-9][0-9]*)?\.?[0-9]*([eE][-+]?[0-9]{1,3})?")
_WORDS: Mapping[str, bool | None] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("null", "Null", "NULL", "~", ""), None),
}


@dataclass(frozen=True)
class Node:
    """A value of the tree.

    Attributes:
        value: A scalar, the items of a list, or the entries of a mapping.
        line: The line of a scalar, or of the key that a list or mapping belongs to; None when an option set it.
        option: The command-line option that set it, such as ``--set seed=2``.
        size: Number of values in it, itself included, with aliases expanded.
        key_lines: For a mapping, the line of each key; empty for keys that an option set.
    """

    value: Scalar | tuple[Node, ...] | Mapping[str, Node]
    line: int | None = None
    option: str | None = None
    size: int = 1
    key_lines: Mapping[str, int] | None = None

    def plain(self) -> Any:
        """The value without lines: scalars, tuples and dictionaries."""
        if isinstance(self.value, Mapping):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, tuple):
            return tuple(node.plain() for node in self.value)
        return self.value

    def child(self, key: str | int) -> Node | None:
        """The entry or item at `key`, None if there is none."""
        if isinstance(self.value, Mapping):
            return self.value.get(str(key))
        if isinstance(self.value, tuple) and isinstance(key, int) and 0 <= key < len(self.value):
            return self.value[key]
        return None

    def deepest(self, location: Location) -> Node:
        """The value at `location`, or the nearest one around it that exists."""
        node = self
        for key in location:
            inner = node.child(key)
            if inner is None:
                break
            node = inner
        return node

    def place(self, location: Location, *, of_key: bool = False) -> tuple[int | None, str | None]:
        """Line and option of the value at `location`, or of its key; of what should hold it, if it isn't there."""
        if of_key and location:
            around = self.deepest(location[:-1])
            line = (around.key_lines or {}).get(str(location[-1]))
            if line is not None:
                return line, None
        node = self.deepest(location)
        return node.line, node.option


def dotted(location: Sequence[str | int]) -> str:
    """``links[2].rate`` for ``("links", 2, "rate")``."""
    text = ""
    for key in location:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            shown = key if key.isprintable() else repr(key)
            text += ("." if text else "") + (shown if len(shown) <= 60 else f"{shown[:57]}...")
    return text


def read(path: Path) -> Node:
    """The tree of a file.

    Raises:
        SpecError: If it can't be read, is too large, or isn't one legal YAML document.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SpecError(f"can't read it: {error.strerror or error}", file=path, remedy=_neighbours(path)) from error
    if len(content) > MAX_FILE_BYTES:
        raise SpecError(f"the file is larger than {MAX_FILE_BYTES // 2**20} MiB", file=path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SpecError("not UTF-8 text", file=path, line=line) from error
    return parse(text, file=path)


def _neighbours(path: Path) -> str | None:
    try:
        names = sorted(entry.name for entry in path.parent.iterdir() if entry.suffix in (".yaml", ".yml"))
    except OSError:
        return None
    return f"experiments in {path.parent}: {', '.join(names[:10])}" if names else None


def parse(text: str, *, file: Path | None = None, option: str | None = None) -> Node:
    """The tree of a text.

    Args:
        text: One YAML document.
        file: Where it came from, for errors.
        option: The command-line option that it came from instead.

    Raises:
        SpecError: If it isn't one legal YAML document.
    """
    return _Builder(text, file, option).document()


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark is not None else 1


class _Builder:
    """Makes the tree from the parser's events."""

    def __init__(self, text: str, file: Path | None, option: str | None) -> None:
        self._text = text
        self._file = file
        self._option = option
        self._anchors: dict[str, Node | None] = {}
        self._events: Iterator[yaml.Event] = self._safe_events()

    def _error(self, message: str, line: int | None, remedy: str | None = None) -> SpecError:
        if self._option is not None:
            return SpecError(message, override=self._option, remedy=remedy)
        return SpecError(message, file=self._file, line=line, remedy=remedy)

    def _safe_events(self) -> Iterator[yaml.Event]:
        try:
            yield from yaml.parse(self._text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            problem = error.problem or error.context or "can't be parsed"
            remedy = None
            if "'\\t'" in problem:
                remedy = "YAML is indented with spaces, not tabs"
            elif error.context and error.context != problem:
                remedy = error.context
                if error.context_mark is not None:
                    remedy += f" that began in line {error.context_mark.line + 1}"
            raise self._error(f"not legal YAML: {problem}", mark.line + 1 if mark else None, remedy) from error
        except yaml.reader.ReaderError as error:
            line = self._text.count("\n", 0, error.position) + 1
            raise self._error("not legal YAML: a control character", line) from error
        except (ValueError, OverflowError) as error:  # PyYAML's scanner calls chr() and int() on what it finds
            raise self._error("not legal YAML: an escape sequence or number is out of range", None) from error

    def document(self) -> Node:
        root: Node | None = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    raise self._error("a second document starts here", _line(event), "one experiment a file")
                root = self._node(next(self._events), depth=1)
        return root if root is not None else Node(None, 1 if self._option is None else None, self._option)

    def _node(self, event: yaml.Event, depth: int) -> Node:
        line = _line(event)
        if depth > MAX_DEPTH:
            raise self._error(f"nested deeper than {MAX_DEPTH} levels", line)
        if isinstance(event, yaml.AliasEvent):
            target = self._anchors.get(str(event.anchor))
            if target is None:
                known = "refers to itself" if str(event.anchor) in self._anchors else "is defined nowhere above"
                raise self._error(f"the alias *{event.anchor} {known}", line)
            return replace(target, line=line) if isinstance(target.value, (Mapping, tuple)) else target
        if not isinstance(event, (yaml.ScalarEvent, yaml.SequenceStartEvent, yaml.MappingStartEvent)):
            raise self._error("not legal YAML", line)
        if event.tag is not None and event.tag not in _CORE_TAGS:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")[:60]
            raise self._error(f"the tag {tag} is not supported", line, "write the value without a tag")
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            node = self._made(self._scalar(event, line), line)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(line, depth)
        else:
            node = self._mapping(line, depth)
        if node.size > MAX_NODES:
            raise self._error(f"more than {MAX_NODES} values, aliases expanded", line)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _made(self, value: Scalar | tuple[Node, ...] | Mapping[str, Node], line: int, **more: Any) -> Node:
        return Node(value, line if self._option is None else None, self._option, **more)

    def _checked_text(self, event: yaml.ScalarEvent, line: int) -> str:
        text = str(event.value)
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise self._error("not legal YAML: half of a surrogate pair", line)
        if len(text) > MAX_SCALAR_LENGTH:
            raise self._error(f"a text of more than {MAX_SCALAR_LENGTH} characters", line)
        return text

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> Scalar:
        text = self._checked_text(event, line)
        if event.style is not None or event.tag is not None:
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.fullmatch(text):
            return int(text)
        if _LEADING_ZERO.fullmatch(text):
            raise self._error(
                f"{text[:40]} is ambiguous: some YAML readers take a leading zero for octal",
                line,
                "write it without the zero, or in quotes if it is text",
            )
        if any(digit in text for digit in "0123456789") and _FLOAT.fullmatch(text):
            try:
                return float(text)
            except ValueError:
                return text
        return text

    def _sequence(self, line: int, depth: int) -> Node:
        items: list[Node] = []
        size = 1
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, depth + 1))
            size += items[-1].size
            if size > MAX_NODES:
                break
        return self._made(tuple(items), line, size=size)

    def _mapping(self, line: int, depth: int) -> Node:
        own: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        key_lines: dict[str, int] = {}
        size = 1
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key_line = _line(event)
            if isinstance(event, yaml.AliasEvent) or not isinstance(event, yaml.ScalarEvent):
                raise self._error("a key must be a plain word", key_line)
            is_merge = event.value == "<<" and event.style is None
            key = self._checked_text(event, key_line)
            node = self._node(next(self._events), depth + 1)
            size += node.size
            if size > MAX_NODES:
                break
            if is_merge:
                for name, value in self._merge_sources(node, key_line):
                    merged.setdefault(name, value)
                continue
            if key in own:
                raise self._error(
                    f"the key {key[:60]!r} is there twice", key_line, f"it was first given in line {key_lines[key]}"
                )
            key_lines[key] = key_line
            if isinstance(node.value, (Mapping, tuple)) and node.line is not None:
                node = replace(node, line=key_line)
            own[key] = node
        entries = {name: value for name, value in merged.items() if name not in own} | own
        return self._made(entries, line, size=size, key_lines=key_lines)

    def _merge_sources(self, node: Node, line: int) -> Iterator[tuple[str, Node]]:
        sources = node.value if isinstance(node.value, tuple) else (node,)
        for source in sources:
            if not isinstance(source.value, Mapping):
                raise self._error("<< takes a mapping or a list of mappings", line)
            yield from source.value.items()

"""What is wrong with an experiment, and how it is told.

Checks and validation yield `Finding`s, which know only the location in the tree; `as_error` adds lines and makes one
error of them that fits a screen.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from testbed.errors import SpecError
from testbed.spec.anatomy import field_at, fields, is_tag, sections_at
from testbed.spec.document import Location, Node, dotted
from testbed.spec.faults import FAULT_VERBS

MAX_TOLD = 5
_MAX_LINE = 200


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        location: Keys and indices.
        message: What is wrong.
        remedy: What would be legal.
        of_key: Whether the key itself is wrong, not its value.
    """

    location: Location
    message: str
    remedy: str | None = None
    of_key: bool = False


def nearest(word: str, legal: Iterable[str]) -> str | None:
    """The legal word most like `word`, None if none is like it; capitals don't matter."""
    by_lower = {candidate.lower(): candidate for candidate in legal}
    close = difflib.get_close_matches(word[:100].lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[close[0]] if close else None


def choice(word: str, legal: Sequence[str], what: str = "legal") -> str:
    """``did you mean 'node1'? legal: node1, node2``, at most a line or two long."""
    near = nearest(word, legal)
    shown = ", ".join(legal[:20]) + (f", … ({len(legal) - 20} more)" if len(legal) > 20 else "")
    listed = f"{what}: {shown}" if legal else f"{what}: none"
    return listed if near is None else f"did you mean {near!r}? {listed}"


def as_error(findings: Sequence[Finding], document: Node, file: Path) -> SpecError:
    """One error that tells the first finding in full and up to four more in a line each.

    Args:
        findings: At least one.
        document: The tree, for lines.
        file: Its file.
    """
    places = {finding: document.place(finding.location, of_key=finding.of_key) for finding in findings}
    ordered = sorted(places, key=lambda finding: (places[finding][0] or 0, not finding.of_key))
    errors = [
        SpecError(
            finding.message if len(finding.message) <= 600 else f"{finding.message[:597]}...",
            file=file if places[finding][1] is None else None,
            line=places[finding][0] if places[finding][1] is None else None,
            override=places[finding][1],
            path=dotted(finding.location),
            remedy=finding.remedy,
        )
        for finding in ordered
    ]
    first = errors[0]
    if len(errors) == 1:
        return first
    others = [
        error.message if len(error.message) <= _MAX_LINE else f"{error.message[: _MAX_LINE - 3]}..."
        for error in errors[1:MAX_TOLD]
    ]
    untold = len(errors) - 1 - len(others)
    more = [f"also wrong ({len(errors) - 1}):", *(f"  {other}" for other in others)]
    if untold:
        more.append(f"  … and {untold} more")
    return SpecError(
        first.reason,
        file=first.file,
        line=first.line,
        override=first.override,
        path=first.path,
        remedy="\n".join([first.remedy, *more] if first.remedy else more),
    )


def translated(error: ValidationError) -> list[Finding]:
    """Pydantic's complaints in the words of the file."""
    return [_translate(details) for details in error.errors(include_url=False)]


def _translate(details: ErrorDetails) -> Finding:
    raw = details["loc"]
    of_key = bool(raw) and raw[-1] == "[key]"
    if of_key:
        raw = raw[:-1]
    location: Location = tuple(part for part in raw if not is_tag(part))
    kind, value = details["type"], details["input"]
    info = field_at(raw)
    remedy = f"{location[-1]}: {info.description}" if info is not None and info.description else None
    if kind == "value_error":
        return Finding(location, str(details["ctx"]["error"]), of_key=of_key)
    if kind == "missing":
        return _missing(raw, location, remedy)
    if kind == "extra_forbidden":
        return _unknown_key(raw, location)
    if kind == "union_tag_not_found":
        return _no_branch(location, value)
    if kind == "literal_error":
        legal = [word.strip("'") for word in details["ctx"]["expected"].replace(" or ", ", ").split(", ")]
        return Finding(location, f"{_shown(value)} is not legal here", choice(str(value), legal))
    if kind in ("int_type", "float_type") and isinstance(value, str) and value.strip().lstrip("+-").isdecimal():
        remedy = "write it without quotes"
    return Finding(location, f"{_shown(value)} {_complaint(kind, details)}", remedy)


def _missing(raw: Sequence[str | int], location: Location, remedy: str | None) -> Finding:
    if isinstance(location[-1], int):
        return Finding(location[:-1], "has one entry too few", "it takes two names, like [node1, s1]")
    nouns = [section.noun for section in sections_at(raw[:-1])]
    needs = f"{nouns[0]} needs it" if nouns else "it is needed"
    return Finding(location[:-1], f"the key {location[-1]!r} is missing; {needs}", remedy)


def _unknown_key(raw: Sequence[str | int], location: Location) -> Finding:
    legal = [key for section in sections_at(raw[:-1]) for key in fields(section)]
    key = str(location[-1])
    return Finding(location, f"unknown key {_shown(key)}", choice(key, legal, "legal keys"), of_key=True)


def _no_branch(location: Location, value: object) -> Finding:
    """A union's branch can't be told: a workload without a legal kind, or a fault without exactly one verb."""
    if not isinstance(value, Mapping):
        return Finding(location, f"{_shown(value)} {_complaint('model_type', None)}")
    if location == ("workload",):
        if "kind" not in value:
            return Finding(location, "the key 'kind' is missing; workload needs it", "legal: closed, open")
        kind = value["kind"]
        return Finding((*location, "kind"), f"{_shown(kind)} is not legal here", choice(str(kind), ["closed", "open"]))
    verbs = [verb for verb in FAULT_VERBS if verb in value]
    if len(verbs) > 1:
        return Finding(
            location, f"one fault can't be {' and '.join(verbs)} at once", "write them as two items of the list"
        )
    known = {key for section in sections_at(location) for key in fields(section)}
    strangers = [str(key) for key in value if key not in known]
    if strangers:
        remedy = choice(strangers[0], FAULT_VERBS, "kinds of fault")
        return Finding((*location, strangers[0]), f"unknown kind of fault {_shown(strangers[0])}", remedy, of_key=True)
    return Finding(location, "it doesn't say what happens", f"kinds of fault: {', '.join(FAULT_VERBS)}")


def _complaint(kind: str, details: ErrorDetails | None) -> str:
    ctx = (details.get("ctx") if details is not None else None) or {}
    match kind:
        case "greater_than":
            return f"is too small; it must be above {ctx['gt']:g}"
        case "greater_than_equal":
            return f"is too small; the least is {ctx['ge']}"
        case "less_than_equal":
            return f"is too large; the most is {ctx['le']:.10g}"
        case "string_type":
            return "is no text; put it in quotes if it is a name"
        case "int_type" | "int_from_float" | "int_parsing_size":
            return "is no whole number"
        case "float_type" | "finite_number":
            return "is no number"
        case "tuple_type":
            return "is no list; write it like [a, b]"
        case "model_type" | "mapping_type" | "dict_type":
            return "is no mapping; write it like {key: value}"
        case "too_long":
            return f"has {ctx['actual_length']} entries; at most {ctx['max_length']} are legal"
        case "too_short":
            return f"has too few entries; at least {ctx['min_length']} are needed"
        case "string_too_short":
            return "is too short"
        case "string_too_long":
            return f"is too long; at most {ctx['max_length']} characters are legal"
        case "path_type":
            return "is no path"
        case "bool_type":
            return "is neither true nor false"
        case _:
            return "is not legal here"


def _shown(value: object) -> str:
    """A value as the file would write it, cut to a readable length."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, tuple):
        return f"a list of {len(value)}" if value else "an empty list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

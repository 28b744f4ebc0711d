"""A fault as the file has it, on one line, exactly: what is read from it equals what it was written from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from testbed.spec.faults.base import FaultBase
from testbed.spec.faults.targets import Bottleneck, Drawn, Named, OfStage, written
from testbed.spec.traces import TraceSpec

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_WORDS = frozenset({"true", "false", "null"})


def entry(fault: FaultBase, folder: Path | None = None) -> str:
    """Such as ``{at: 14s, throttle: [node1, s1], rate: 2000000bit/s, for: 6s}``.

    Args:
        fault: What to write.
        folder: The experiment's; files below it are named relative to it.
    """
    texts: dict[str, str] = {}
    for name, info in type(fault).model_fields.items():
        value = getattr(fault, name)
        if value is not None:
            texts[info.alias or name] = _text(name, value, folder)
    first = ("at", fault.verb)
    last = ("for", "every", "times")
    keys = [*first, *(key for key in texts if key not in (*first, *last)), *(key for key in last if key in texts)]
    return "{" + ", ".join(f"{key}: {texts[key]}" for key in keys) + "}"


def _text(name: str, value: Any, folder: Path | None) -> str:
    match value:
        case Named() | OfStage() | Bottleneck() | Drawn():
            return _flow(written(value))
        case TraceSpec():
            return _recording(value, folder)
        case int() | float() if not isinstance(value, bool):
            for suffix, unit in (("_s", "s"), ("_bps", "bit/s"), ("_bytes", "B")):
                if name.endswith(suffix):
                    return f"{_number(value)}{unit}"
            return _number(value)
    return _flow(value)


def _recording(trace: TraceSpec, folder: Path | None) -> str:
    file = trace.file
    if folder is not None and file.is_relative_to(folder):
        file = file.relative_to(folder)
    words = [f"file: {json.dumps(str(file))}", f"format: {trace.format}", f"loop: {_flow(trace.loop)}"]
    if trace.window_s is not None:
        words.append(f"window: {_number(trace.window_s)}s")
    return "{" + ", ".join(words) + "}"


def _flow(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return value if _PLAIN.fullmatch(value) and value.lower() not in _WORDS else json.dumps(value)
        case dict():
            # "2 of workers" needs no quotes, and reads better without.
            return "{" + ", ".join(f"{key}: {inner}" for key, inner in value.items()) + "}"
        case tuple() | list():
            return "[" + ", ".join(_flow(inner) for inner in value) + "]"
    return _number(value)


def _number(value: float) -> str:
    """Shortest text that reads as exactly this number."""
    return repr(value).removesuffix(".0")

"""Which keys are legal where, read off the models."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import Tag
from pydantic.fields import FieldInfo

from testbed.spec.experiment import Experiment
from testbed.spec.section import Section


def is_tag(key: str | int) -> bool:
    """Whether a part of an error's location is the tag of a union's branch, not a key."""
    return isinstance(key, str) and key.startswith("<") and key.endswith(">")


def fields(section: type[Section]) -> dict[str, FieldInfo]:
    """The fields of a section by their keys in the file."""
    return {info.alias or name: info for name, info in section.model_fields.items()}


def sections_at(location: Sequence[str | int]) -> tuple[type[Section], ...]:
    """The sections that may stand at a location: none, one, or the branches of a union.

    Args:
        location: Keys and indices; tags of unions narrow them to one branch, and may be left out.
    """
    return tuple(dict.fromkeys(section for section, _ in _branches(_annotations(location))))


def is_free_mapping(location: Sequence[str | int]) -> bool:
    """Whether the keys at a location are the user's own, as the names of hosts are."""
    return any(get_origin(annotation) is Mapping for annotation, _ in _members(_annotations(location)))


def field_at(location: Sequence[str | int]) -> FieldInfo | None:
    """The field that a location belongs to, None for items of lists and free mappings."""
    for section in sections_at(location[:-1]):
        info = fields(section).get(str(location[-1]))
        if info is not None:
            return info
    return None


def _bare(annotation: Any) -> Any:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation


def _members(annotations: Sequence[Any], tag: str = "") -> Iterator[tuple[Any, str]]:
    """The bare types behind annotations, those of a union one by one, each with the tag of its branch."""
    for annotation in annotations:
        inner_tag = tag
        if get_origin(annotation) is Annotated:
            tags = [item.tag for item in get_args(annotation)[1:] if isinstance(item, Tag)]
            inner_tag = tags[0] if tags else tag
        bare = _bare(annotation)
        if get_origin(bare) in (Union, types.UnionType):
            yield from _members(get_args(bare), inner_tag)
        else:
            yield bare, inner_tag


def _branches(annotations: Sequence[Any]) -> Iterator[tuple[type[Section], str]]:
    for bare, tag in _members(annotations):
        if isinstance(bare, type) and issubclass(bare, Section):
            yield bare, tag


def _annotations(location: Sequence[str | int]) -> list[Any]:
    current: list[Any] = [Experiment]
    for key in location:
        inner: list[Any] = []
        if is_tag(key):
            inner = [annotation for annotation, tag in _members(current) if tag == key]
        elif isinstance(key, int):
            for annotation, _ in _members(current):
                if get_origin(annotation) is tuple:
                    inner.append(get_args(annotation)[0])
        else:
            for section, _ in _branches(current):
                info = fields(section).get(key)
                if info is not None:
                    inner.append(info.annotation)
            for annotation, _ in _members(current):
                if get_origin(annotation) is Mapping:
                    inner.append(get_args(annotation)[1])
        current = inner
    return current

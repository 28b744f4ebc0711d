"""What all sections of the experiment file share."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A mapping of the experiment file: frozen, without unknown keys, without silent conversions.

    Attribute names carry units, the file's keys don't, so many fields have an alias. A file may use the aliases only
    (the loader sees to it); Python code uses the attribute names.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        validate_by_alias=True,
        validate_by_name=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    #: What a person calls this mapping; a message says "a host has no key 'cpus'".
    noun: ClassVar[str]

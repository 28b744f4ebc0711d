"""The JSON Schema of the experiment file, generated from the models."""

from __future__ import annotations

from typing import Any

from testbed.spec.experiment import Experiment


def experiment_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the experiment file, for editors and other tools.

    It knows each section's own rules; what must hold between sections is checked by the loader alone.
    """
    generated = Experiment.model_json_schema(by_alias=True, mode="validation")
    tidy = _tidy(generated)
    for section in tidy["$defs"].values():
        kind = section["properties"].get("kind")
        if kind is not None:  # Python code may leave it out, a file may not: it tells the sections apart
            section["required"] = ["kind", *(key for key in section["required"] if key != "kind")]
            kind.pop("default", None)
    # Hosts and links are listed, or made by a shape; then what is listed of them is laid over what the shape makes.
    tidy["required"] = [key for key in tidy["required"] if key not in ("hosts", "links")]
    speed = tidy["$defs"]["HostSpec"].pop("oneOf")
    tidy["if"] = {"required": ["shape"]}
    tidy["else"] = {
        "required": ["hosts", "links"],
        "properties": {"hosts": {"additionalProperties": {"oneOf": speed}}},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **tidy,
        "title": "Experiment",
        "description": "An emulated edge cluster, the model that it serves, a workload, and faults.",
    }


def _tidy(node: Any, *, names: bool = False) -> Any:
    """The schema less what would mislead: titles made of Python names, defaults in units that a file can't have.

    Args:
        node: A part of the schema.
        names: Whether the keys of `node` are names of properties or definitions, not words of JSON Schema.
    """
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    tidy: dict[str, Any] = {}
    for key, value in node.items():
        if not names and key == "title":
            continue
        if not names and key == "default" and not _is_file_value(node, value):
            continue
        tidy[key] = _tidy(value, names=not names and key in ("properties", "$defs"))
    if not names and "patternProperties" in tidy:  # names of hosts: no other names are legal
        ((pattern, entry),) = tidy.pop("patternProperties").items()
        tidy["propertyNames"] = {"pattern": pattern, **tidy.get("propertyNames", {})}
        tidy["additionalProperties"] = entry
    return tidy


def _is_file_value(schema: dict[str, Any], default: Any) -> bool:
    """Whether a default could stand in the file: a section's default has Python's names, a quantity's has no unit."""
    if isinstance(default, dict):
        return False
    return not (isinstance(default, float) and schema.get("type") == "string")

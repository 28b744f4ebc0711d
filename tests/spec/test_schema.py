"""The JSON Schema takes what the loader takes, as far as a schema can know."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from testbed.spec import experiment_schema

SCHEMA = experiment_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
TOPOLOGIES = Path(__file__).parents[2] / "topologies"


def quickstart() -> Any:
    return yaml.safe_load((TOPOLOGIES / "quickstart.yaml").read_text())


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("file", sorted(TOPOLOGIES.glob("*.yaml")), ids=lambda file: file.stem)
def test_it_takes_every_topology_of_the_project(file: Path) -> None:
    VALIDATOR.validate(yaml.safe_load(file.read_text()))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("speed",), 1),
        (("hosts", "node1", "cpus"), 1),
        (("hosts", "node1", "cpu"), 0),
        (("hosts", "node1", "memory"), 128),
        (("hosts", "node1", "memory"), "128Mib"),
        (("hosts", "no spaces"), {"cpu": 1}),
        (("hosts", "morethantenletters"), {"cpu": 1}),
        (("links", 0, "rate"), "50"),
        (("links", 0, "rate_bps"), 50),
        (("links", 0, "loss"), 1),
        (("links", 0, "between"), ["a"]),
        (("placement", "strategy"), "exat"),
        (("workload", "kind"), "opne"),
        (("workload", "rate"), "5/s"),
        (("model", "module"), "a:b"),
        (("model", "input"), {}),
        (("model", "input"), {"no name": {"shape": [1]}}),
        (("model", "input"), {"ids": {"dtype": "int64"}}),
        (("model", "input"), {"ids": {"shape": [1], "dtype": "int65"}}),
        (("faults", 0, "kil"), "node2"),
        (("name",), "../up"),
    ],
)
def test_it_refuses_what_the_loader_refuses(path: tuple[Any, ...], value: Any) -> None:
    tree = quickstart()
    place = tree
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert not VALIDATOR.is_valid(tree)


@pytest.mark.parametrize("key", ["name", "hosts", "links", "model", "workload"])
def test_it_refuses_a_missing_section(key: str) -> None:
    tree = quickstart()
    del tree[key]
    assert not VALIDATOR.is_valid(tree)


def test_it_refuses_a_workload_of_no_kind() -> None:
    tree = quickstart()
    del tree["workload"]["kind"]
    assert not VALIDATOR.is_valid(tree)


def sections() -> Iterator[tuple[str, dict[str, Any]]]:
    yield "Experiment", SCHEMA
    yield from SCHEMA["$defs"].items()


@pytest.mark.parametrize(
    ("name", "section"), list(sections()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_key_is_described_and_unknown_ones_are_refused(name: str, section: dict[str, Any]) -> None:
    assert section["additionalProperties"] is False
    for key, field in section["properties"].items():
        target = SCHEMA["$defs"][field["$ref"].rpartition("/")[2]] if "$ref" in field else field
        assert field.get("description") or target.get("description"), f"{name}.{key}"
        assert not key.endswith(("_s", "_bps", "_bytes", "_rps", "_shape")), (
            "the file's keys, not the attributes' names"
        )


def test_defaults_are_values_that_a_file_may_have() -> None:
    for _, section in sections():
        for key, field in section["properties"].items():
            if "default" in field:
                alone = copy.deepcopy(field) | {"$defs": SCHEMA["$defs"]}
                assert jsonschema.Draft202012Validator(alone).is_valid(field["default"]), key

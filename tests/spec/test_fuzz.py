"""Whatever the file holds, the answer is an experiment or a SpecError that fits a screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from testbed.errors import SpecError
from testbed.spec import Experiment, LinkSpec, load_experiment
from testbed.spec.anatomy import fields, sections_at
from testbed.spec.document import parse
from testbed.units import format_duration, format_rate

RELAXED = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LOCATIONS: list[tuple[str | int, ...]] = [(), ("hosts", "x"), ("links", 0), ("links", 0, "loss"), ("faults", 0)]
LOCATIONS += [(section,) for section in ("model", "placement", "workload", "recovery", "compute")]
WORDS = sorted(
    {
        key
        for location in LOCATIONS
        for section in sections_at(location)
        for key in fields(section)
    }
)  # fmt: skip
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(
        ["5ms", "20Mbit/s", "64MiB", "5/s", "10%", "50 packets", "closed", "open", "exact", "node1", "s1", "dispatcher"]
    )
)
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)
QUICKSTART: dict[str, Any] = yaml.safe_load(
    (Path(__file__).parents[2] / "topologies" / "quickstart.yaml").read_text()
)  # fmt: skip


def answer(file: Path, content: str | bytes, overrides: tuple[str, ...] = ()) -> None:
    file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    try:
        experiment = load_experiment(file, overrides)
    except SpecError as error:
        told = error
    else:
        assert isinstance(experiment, Experiment)
        assert len(experiment.sha256()) == 64
        return
    text = str(told)
    assert text.strip()
    assert len(text) < 4_000
    assert len(text.splitlines()) <= 20
    assert "pydantic" not in text.lower()
    assert "Input should" not in text
    assert told.override or told.file == file


@given(st.text() | st.text(alphabet="{}[]:,-#&*!|>'\"%@`\n\t ab01.<?", max_size=60))
@RELAXED
def test_any_text(tmp_path: Path, content: str) -> None:
    answer(tmp_path / "x.yaml", content)


@given(st.binary(max_size=60))
@RELAXED
def test_any_bytes(tmp_path: Path, content: bytes) -> None:
    answer(tmp_path / "x.yaml", content)


@given(st.dictionaries(st.sampled_from(WORDS), TREES, max_size=6))
@RELAXED
def test_any_tree(tmp_path: Path, tree: Any) -> None:
    answer(tmp_path / "x.yaml", yaml.safe_dump(tree))


@given(st.dictionaries(st.sampled_from(sorted(QUICKSTART)), TREES, min_size=1, max_size=2))
@RELAXED
def test_a_legal_tree_with_sections_replaced(tmp_path: Path, replaced: dict[str, Any]) -> None:
    answer(tmp_path / "x.yaml", yaml.safe_dump(QUICKSTART | replaced))


@given(
    st.text(max_size=20)
    | st.builds(
        lambda steps, value: f"{'.'.join(steps)}={value}",
        st.lists(st.sampled_from([*WORDS, "0", "1", "node1"]), min_size=1, max_size=4),
        st.text(max_size=8) | st.sampled_from(["5ms", "1", "[]", "{}", "null", "[node1, s1]"]),
    )
)
@RELAXED
def test_any_override(tmp_path: Path, override: str) -> None:
    answer(tmp_path / "x.yaml", yaml.safe_dump(QUICKSTART), (override,))


@given(st.integers(8_000, 10**10), st.floats(0, 10))
@RELAXED
def test_a_link_there_and_back(tmp_path: Path, rate_bps: int, delay_s: float) -> None:
    link = {"between": ["dispatcher", "s1"], "rate": format_rate(rate_bps), "delay": format_duration(delay_s)}
    file = tmp_path / "x.yaml"
    file.write_text(yaml.safe_dump(QUICKSTART | {"links": [link, *QUICKSTART["links"][1:]]}))
    loaded: LinkSpec = load_experiment(file).links[0]
    assert loaded.rate_bps == pytest.approx(rate_bps, rel=1e-3)
    assert loaded.delay_s == pytest.approx(delay_s, rel=1e-3, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("on", "on"), ("Yes", "Yes"), ("true", True), ("~", None), ("", None), ("'5'", "5"), ("5", 5),
        ("-7", -7), ("1e3", 1000.0), ("1_000", "1_000"), ("0x10", "0x10"), ("0o10", "0o10"), ("1:30", "1:30"),
        (".5", 0.5), ("5.", 5.0), ("1.2.3", "1.2.3"), (".nan", ".nan"), ("2024-01-01", "2024-01-01"), ("-", (None,)),
        ("!!str 5", "5"), ("=", "="),
    ],
)  # fmt: skip
def test_scalars_follow_the_core_schema(text: str, value: object) -> None:
    parsed = parse(text).plain()
    assert parsed == value
    assert type(parsed) is type(value)

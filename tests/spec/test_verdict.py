from __future__ import annotations

import re
from pathlib import Path

import pytest

from testbed.errors import SpecError
from testbed.spec.verdict import Bar, VerdictSpec
from testbed.units import format_duration
from tests.spec.conftest import Load


def test_a_file_sets_some_thresholds_and_the_others_stay(load: Load) -> None:
    found = load(
        overrides=("verdict={rate_error: [1%, 0.05], fault_lateness: [50ms, 1s], service_time: [200%, 1000%]}",)
    )
    assert found.verdict.rate_error == Bar(0.01, 0.05)
    assert found.verdict.fault_lateness_s == Bar(0.05, 1.0)
    assert found.verdict.service_time == Bar(2, 10)
    assert found.verdict.steal == VerdictSpec().steal
    assert found.resolved()["verdict"]["fault_lateness_s"] == [0.05, 1.0]
    assert load().verdict == VerdictSpec()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rate_error: 3%", r"like \[3%, 10%\]"),
        ("rate_error: [3%, 10%, 20%]", r"like \[3%, 10%\]"),
        ("rate_error: [10%, 3%]", "the smaller value comes first"),
        ("rate_error: [3ms, 10ms]", "'3ms' is no fraction"),
        ("steal: [3%, 2000%]", "between 0 and 10"),
        ("fault_lateness: [20, 200]", "20 has no unit"),
        ("rate_eror: [1%, 2%]", "rate_error"),
    ],
)
def test_wrong_thresholds_are_told(load: Load, override: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load(overrides=(f"verdict={{{override}}}",))


def test_each_threshold_is_documented_with_its_value(repository: Path) -> None:
    text = (repository / "results" / "README.md").read_text().partition("\n## The verdict\n")[2].partition("\n## ")[0]
    documented = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", text, re.MULTILINE))
    for name, field in VerdictSpec.model_fields.items():
        default = field.default
        show = format_duration if name.endswith("_s") else lambda share: f"{share * 100:g}%"
        values = [default] if isinstance(default, float) else [default.suspect, default.invalid]
        assert documented.pop(field.alias or name) == ", ".join(map(show, values)), name
    assert documented == {}

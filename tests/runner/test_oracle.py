"""Oracles: what must be true of a pipeline whatever the figures are.

A pipeline is as fast as its slowest part. So doubling a link that is not the bottleneck changes nothing, and halving
the one that is halves the throughput.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.emulation.world import World, world
from tests.runner.real_run import RealRun, experiment, started

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(300)]

SETTLED_S = 1.5
TOLERANCE = 0.08


@pytest.fixture(scope="module")
def machine() -> Iterator[World]:
    with world() as found:
        yield found


def throughput_rps(run: RealRun) -> float:
    """Answers a second once the pipeline is full."""
    code, said = run.finish()
    assert code in (0, 4), said  # a busy machine may make the emulation invalid; the answers must be right all the same
    rows = run.rows("requests.csv")
    assert {row["outcome"] for row in rows} == {"ok"}
    times = [float(row["completed_s"]) for row in rows if float(row["completed_s"]) > SETTLED_S]
    return (len(times) - 1) / (times[-1] - times[0])


def pipeline(first: str, second: str) -> dict[str, Any]:
    """Two stages; a cut of this model sends 128 channels of 40 x 40, which is more than the image of 160 x 160."""
    return experiment(
        hosts={"dispatcher": {"cpu": 0.3}, "node1": {"cpu": 0.5}, "node2": {"cpu": 0.5}},
        links=[
            {"between": ["dispatcher", "s1"], "rate": "100Mbit/s", "delay": "1ms"},
            {"between": ["node1", "s1"], "rate": first, "delay": "1ms"},
            {"between": ["node2", "s1"], "rate": second, "delay": "1ms"},
        ],
        model={"module": "tests.runner.tiny_model:tiny_net", "input": [1, 3, 160, 160]},
        placement={"strategy": "even"},
        workload={"kind": "closed", "in_flight": 4, "duration": "6s"},
        faults=[],
    )


def test_a_pipeline_is_as_fast_as_its_slowest_link(machine: World, tmp_path: Path) -> None:
    measured = {}
    for name, rates in {
        "base": ("12Mbit/s", "40Mbit/s"),
        "other doubled": ("12Mbit/s", "80Mbit/s"),
        "halved": ("6Mbit/s", "40Mbit/s"),
    }.items():
        with started(machine, tmp_path / name.replace(" ", "-"), pipeline(*rates), "--quiet") as run:
            measured[name] = throughput_rps(run)
    assert measured["other doubled"] == pytest.approx(measured["base"], rel=TOLERANCE), measured
    assert measured["halved"] == pytest.approx(measured["base"] / 2, rel=TOLERANCE), measured
    # The cut tensor's bits over what TCP gets through of the first stage's link.
    ideal = 12e6 * 1448 / 1514 / (128 * 40 * 40 * 32)
    assert measured["base"] == pytest.approx(ideal, rel=TOLERANCE), measured

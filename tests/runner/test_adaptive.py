"""Strategies that decide anew during a run, on the emulated cluster: they act on what they have measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.emulation.world import World, world
from tests.runner.real_run import NAME, RealRun, started

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.alone]


def experiment(rate: str, side: int, device: float, **changes: Any) -> dict[str, Any]:
    """A slow device beside the dispatcher, and a fast cloud behind a slower link; the model's times are nominal.

    Args:
        rate: Of the cloud's link.
        side: Of the images, in pixels.
        device: The device's share of a core.
        changes: Top-level keys.
    """
    return {
        "name": NAME,
        "seed": 1,
        "hosts": {
            "dispatcher": {"cpu": 0.3},
            "device": {"cpu": device, "tier": "device"},
            "cloud": {"cpu": 0.5, "tier": "cloud"},
        },
        "switches": ["s1"],
        "links": [
            {"between": ["dispatcher", "s1"], "rate": "100Mbit/s", "delay": "1ms"},
            {"between": ["device", "s1"], "rate": "100Mbit/s", "delay": "1ms"},
            {"between": ["cloud", "s1"], "rate": rate, "delay": "2ms"},
        ],
        "model": {"module": "tests.runner.tiny_model:narrowing", "input": [1, 3, side, side]},
        "compute": {"mode": "calibrated"},
        **changes,
    }


@pytest.fixture(scope="module")
def machine() -> Iterator[World]:
    with world() as made:
        yield made


def stages_by_epoch(run: RealRun) -> list[list[tuple[str, bool]]]:
    """For each epoch its stages: the host, and whether it begins within the model."""
    found: dict[str, list[tuple[str, bool]]] = {}
    for row in run.rows("plan.csv"):
        found.setdefault(row["epoch"], []).append((row["host"], row["first_op"] != "0"))
    return list(found.values())


SPLIT = [("device", False), ("cloud", True)]
ALONE = [("device", False)]


def test_dnnsplit_moves_its_cut_with_the_rate_and_back(
    machine: World, tmp_path_factory: pytest.TempPathFactory
) -> None:
    spec = experiment(
        "10Mbit/s",
        128,
        0.025,
        placement={"strategy": "dnnsplit", "costs": "analytic"},
        workload={"kind": "closed", "in_flight": 1, "duration": "18s"},
        recovery={"horizon": "5s", "heartbeat": "100ms", "misses": 10},
        faults=[{"at": "2s", "throttle": ["cloud", "s1"], "rate": "1Mbit/s", "for": "6s"}],
    )
    with started(machine, tmp_path_factory.mktemp("dnnsplit"), spec) as run:
        code, output = run.finish()
    assert code in (0, 4), output
    assert run.record["outcome"] == "passed", output
    assert {row["outcome"] for row in run.rows("requests.csv")} == {"ok"}
    assert stages_by_epoch(run)[:3] == [SPLIT, ALONE, SPLIT]
    (slow_s,) = (event["t_s"] for event in run.events() if event["event"] == "fault_effective")
    (healed_s,) = (event["t_s"] for event in run.events() if event["event"] == "fault_healed")
    weighings = [event for event in run.events() if event["event"] == "change_weighed"]
    away, back = [event for event in weighings if event["changes"]][:2]
    assert slow_s < away["t_s"] < healed_s < back["t_s"]
    reasons = [event["reason"] for event in weighings if slow_s < event["t_s"] <= away["t_s"]]
    assert any("a request alone" in reason for reason in reasons), reasons
    assert away["new_latency_s"] < away["latency_s"] / 1.1
    assert back["new_latency_s"] < back["latency_s"] / 1.1


def test_dynamic_splits_the_model_under_load(machine: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Alone a request is answered sooner by the device; many at a time are answered sooner by both."""
    spec = experiment(
        "750kbit/s",
        64,
        0.008,
        placement={"strategy": "dynamic", "costs": "analytic"},
        workload={"kind": "closed", "in_flight": 6, "duration": "16s"},
        recovery={"heartbeat": "100ms", "misses": 10},
    )
    with started(machine, tmp_path_factory.mktemp("dynamic"), spec) as run:
        code, output = run.finish()
    assert code in (0, 4), output
    assert run.record["outcome"] == "passed", output
    assert {row["outcome"] for row in run.rows("requests.csv")} == {"ok"}
    assert stages_by_epoch(run)[:2] == [ALONE, SPLIT]
    change = next(event for event in run.events() if event["event"] == "change_weighed" and event["changes"])
    assert "requests/s are asked for" in change["reason"]
    assert change["new_latency_s"] > change["latency_s"]
    before, after = run.record["summary"]["epochs"][:2]
    assert after["measured_rps"] > 1.2 * before["measured_rps"]

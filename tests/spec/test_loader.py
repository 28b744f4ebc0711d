"""What a legal file means."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from testbed.spec import (
    ClosedWorkload,
    Experiment,
    HostSpec,
    KillFault,
    LinkSpec,
    ModelSpec,
    OpenWorkload,
    ThrottleFault,
    load_experiment,
)
from testbed.spec.inference import InputSpec

Load = Callable[..., Experiment]
TOPOLOGIES = sorted((Path(__file__).parents[2] / "topologies").glob("*.yaml"))


@pytest.mark.parametrize("file", TOPOLOGIES, ids=lambda file: file.stem)
def test_every_topology_of_the_project_is_legal(file: Path) -> None:
    assert load_experiment(file).source == file


def test_quantities_come_in_base_units(load: Load) -> None:
    experiment = load()
    assert experiment.hosts["node1"] == HostSpec(cpu=0.1, memory_bytes=128 * 2**20, storage_bytes=256 * 2**20)
    assert experiment.links[1] == LinkSpec(between=("node1", "s1"), rate_bps=20_000_000, delay_s=0.005, loss=0.001)
    assert experiment.workload == ClosedWorkload(duration_s=30.0, in_flight=4)
    assert experiment.faults == (
        KillFault(at_s=8.0, kill="node2"),
        ThrottleFault(at_s=20.0, throttle=("node1", "s1"), rate_bps=2_000_000, for_s=5.0),
    )
    assert experiment.workers == ("node1", "node2")
    assert [(fault.kind, fault.target) for fault in experiment.faults] == [("kill", "node2"), ("throttle", "node1-s1")]


def test_what_is_absent_has_its_default(load: Load) -> None:
    experiment = load(("rate: 50Mbit/s, delay: 2ms", "rate: 50Mbit/s"), ("recovery:", "compute: {}\nrecovery:"))
    assert experiment.links[0].delay_s == 0
    assert experiment.hosts["dispatcher"].memory_bytes is None
    assert (experiment.compute.mode, experiment.compute.period_s) == ("real", None)
    assert (experiment.placement.strategy, experiment.placement.deploy) == ("exact", "network")


def test_an_open_workload(load: Load) -> None:
    experiment = load(("{kind: closed, in_flight: 4, duration: 30s}", "{kind: open, rate: 90/min, duration: 30s}"))
    assert experiment.workload == OpenWorkload(rate_rps=1.5, duration_s=30.0)
    assert (experiment.workload.queue, experiment.workload.in_flight) == (64, 8)


def test_words_that_old_yaml_takes_for_booleans_are_names(load: Load) -> None:
    experiment = load(("node1", "no"), ("s1", "on"))
    assert experiment.workers == ("no", "node2")
    assert experiment.links[1].between == ("no", "on")


def test_anchors_and_merge_keys(load: Load) -> None:
    experiment = load(
        ("node1: {cpu: 0.1, memory: 128MiB, storage: 256MiB}", "node1: &board {cpu: 0.1, memory: 128MiB}"),
        ("node2: {cpu: 0.1, memory: 128MiB}", "node2: {<<: *board, cpu: 0.2}"),
    )
    assert experiment.hosts["node2"] == HostSpec(cpu=0.2, memory_bytes=128 * 2**20)


def test_paths_are_beside_the_file(load: Load, tmp_path: Path) -> None:
    experiment = load(("name: mobilenet_v2", "name: mobilenet_v2, weights: w/m.safetensors"))
    assert experiment.model.weights == tmp_path / "w/m.safetensors"
    assert experiment.resolved()["model"]["weights"] == "w/m.safetensors"


def test_resolved_is_plain_and_hashed_by_value(load: Load, tmp_path: Path) -> None:
    experiment = load()
    resolved = experiment.resolved()
    assert json.loads(json.dumps(resolved)) == resolved
    first = resolved["links"][0]
    assert (first["between"], first["rate_bps"], first["delay_s"]) == (["dispatcher", "s1"], 50_000_000, 0.002)
    assert (first["loss"], first["forward"], first["queue"], first["trace"]) == (0, None, None, None)
    assert "source" not in resolved
    same = load(("50Mbit/s", "50000kbit/s"), ("delay: 2ms", "delay: 0.002s"))
    assert same.sha256() == experiment.sha256()
    assert load(seed=2).sha256() != experiment.sha256()


def test_an_experiment_can_not_be_changed(load: Load) -> None:
    experiment = load()
    with pytest.raises(ValidationError):
        experiment.seed = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        experiment.hosts["more"] = HostSpec(cpu=1)  # type: ignore[index]


def test_python_code_may_leave_units_out_but_not_the_checks_of_a_section() -> None:
    with pytest.raises(ValidationError, match="out of range"):
        LinkSpec(between=("a", "b"), rate_bps=5)
    with pytest.raises(ValidationError, match="both a name and a module"):
        ModelSpec(name="a", module="b:c", input=(1,))


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ("links.1.rate=5Mbit/s", "links[1].rate"),
        ("links[1].rate=5Mbit/s", "links[1].rate"),
    ],
)
def test_an_override_of_an_item(load: Load, override: str, path: str) -> None:
    assert load(overrides=(override,)).links[1].rate_bps == 5_000_000, path


def test_overrides_may_set_what_the_file_leaves_out(load: Load) -> None:
    experiment = load(overrides=("compute.period=10ms", "faults=[]", "hosts.node2.cpu=0.7", "hosts.node2.cpu=0.8"))
    assert experiment.compute.period_s == 0.01
    assert experiment.faults == ()
    assert experiment.hosts["node2"] == HostSpec(cpu=0.8, memory_bytes=128 * 2**20)


def test_the_seed_option_wins(load: Load) -> None:
    assert load(overrides=("seed=3",), seed=4).seed == 4


def test_a_shape_is_one_input_and_names_are_several(load: Load) -> None:
    plain = load()
    assert plain.model.inputs == {None: InputSpec(shape=(1, 3, 224, 224))}
    named = load(overrides=("model.input={ids: {shape: [1, 128], dtype: int64, below: 9}, scale: {shape: [1]}}",))
    assert list(named.model.inputs.items()) == [
        ("ids", InputSpec(shape=(1, 128), dtype="int64", below=9)),
        ("scale", InputSpec(shape=(1,))),
    ]
    assert named.resolved()["model"]["input"]["ids"] == {"shape": [1, 128], "dtype": "int64", "below": 9}
    assert plain.resolved()["model"]["input"] == [1, 3, 224, 224]
    assert named.sha256() != plain.sha256()
    assert load(overrides=("model.input={ids: {shape: [1]}}", "model.input.ids.dtype=int8")).model.inputs["ids"] == (
        InputSpec(shape=(1,), dtype="int8")
    )


@pytest.mark.parametrize(
    ("overrides", "adapts"),
    [
        ((), False),
        (("recovery.adaptive=true", "recovery.drift=20%"), True),
        (("placement={strategy: dynamic}", "recovery.drift=20%"), True),
        (("placement={strategy: dnnsplit}",), True),
        (("placement={strategy: dnnsplit}", "recovery.adaptive=false"), False),
    ],
)
def test_strategies_that_are_made_for_it_adapt_unless_told_otherwise(
    load: Load, overrides: tuple[str, ...], adapts: bool
) -> None:
    assert load(overrides=overrides).adapts == adapts

"""Random campaigns, entries of the timeline as text, and replaying them."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from testbed.errors import SpecError
from testbed.spec import Experiment, load_experiment
from testbed.spec.document import parse
from testbed.spec.faults import FaultBase, PartitionFault, ThrottleFault
from testbed.spec.faults.campaign import drawable
from testbed.spec.faults.chaos import ChaosSpec, Span
from testbed.spec.faults.entries import entry
from testbed.spec.faults.timeline import timeline
from testbed.spec.scaling import slowed
from tests.spec.conftest import Load

ALL = ", ".join(drawable())


def chaotic(load: Load, settings: str, *edits: tuple[str, str], seed: int | None = None) -> Experiment:
    return load(("recovery:", f"chaos: {{{settings}}}\nrecovery:"), *edits, overrides=("faults=[]",), seed=seed)


def texts(experiment: Experiment) -> list[str]:
    return [entry(fault) for fault in timeline(experiment)]


def test_a_campaign_is_the_seed_s(load: Load) -> None:
    settings = f"rate: 60/min, kinds: [{ALL}], for: [200ms, 2s]"
    assert texts(chaotic(load, settings)) == texts(chaotic(load, settings))
    assert texts(chaotic(load, settings)) != texts(chaotic(load, settings, seed=2))
    own = f"{settings}, seed: 5"
    assert texts(chaotic(load, own)) == texts(chaotic(load, own, seed=2)) != texts(chaotic(load, settings))


def test_a_campaign_is_as_it_was_asked_for(load: Load) -> None:
    kinds = set(drawable()) - {"kill", "poweroff", "leave"}  # after which nothing else could befall a host
    experiment = chaotic(
        load, f"rate: 20/s, kinds: [{', '.join(sorted(kinds))}], from: 3s, until: 25s, for: [100ms, 1s]"
    )
    flat = timeline(experiment)
    assert 200 < len(flat) <= 550  # 440 on average; hosts that have a fault already are left alone
    assert {fault.kind for fault in flat} == kinds
    assert [fault.at_s for fault in flat] == sorted(fault.at_s for fault in flat)
    for fault in flat:
        assert 3 <= fault.at_s <= 25
        assert fault.lasts_s is None or (0.01 <= fault.lasts_s <= 1 and fault.at_s + fault.lasts_s <= 30 + 1e-9)
    throttles = [fault for fault in flat if isinstance(fault, ThrottleFault)]
    assert all(fault.rate_bps <= 25_000_000 for fault in throttles)
    assert any(fault.from_ is None for fault in throttles)
    partitions = [fault for fault in flat if isinstance(fault, PartitionFault)]
    assert all({host for group in fault.partition for host in group} == set(experiment.hosts) for fault in partitions)


def test_a_host_has_one_fault_at_a_time_and_none_after_its_end(load: Load) -> None:
    flat = timeline(chaotic(load, "rate: 10/s, kinds: [kill, isolate], for: 500ms"))
    until_s: dict[str, float] = {}
    for fault in flat:
        assert until_s.get(fault.target, 0.0) <= fault.at_s
        until_s[fault.target] = float("inf") if fault.kind == "kill" else fault.at_s + 0.5
    assert [fault.kind for fault in flat].count("kill") == 2


def test_a_campaign_does_not_depend_on_the_time_scale(load: Load) -> None:
    settings = f"rate: 60/min, kinds: [{ALL}]"
    experiment = chaotic(load, settings)
    scaled = chaotic(load, settings, ("recovery:", "compute: {time_scale: 8}\nrecovery:"))
    assert [f for f in texts(scaled) if "throttle" not in f] == [f for f in texts(experiment) if "throttle" not in f]
    slow = slowed(scaled.model_copy(update={"faults": timeline(scaled)}))
    assert [fault.at_s for fault in slow.faults] == [8 * fault.at_s for fault in timeline(scaled)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("kinds: [kill]", "the key 'rate' is missing; chaos needs it"),
        ("rate: 6/min", "the key 'kinds' is missing; chaos needs it"),
        ("rate: 6/min, kinds: [kil]", "chaos.kinds[0]: 'kil' is no kind of fault to draw\ndid you mean 'kill'?"),
        ("rate: 6/min, kinds: []", "chaos.kinds: an empty list has too few entries"),
        ("rate: 6/min, kinds: [kill], until: 31s", "chaos.until: is 31s, but the workload ends after 30s"),
        ("rate: 6/min, kinds: [kill], from: 9s, until: 8s", "chaos: ends at 8s, before it begins"),
        ("rate: 6/min, kinds: [kill], for: 2", "2 has no unit"),
        ("rate: 6/min, kinds: [kill], for: [3s, 2s]", "3s to 2s is out of range"),
        ("rate: 6/min, kinds: [kill], for: [1s, 2s, 3s]", "is a duration like 2s, or the shortest and the longest"),
        ("rate: 1000/s, kinds: [kill]", "chaos.rate: makes more than 5000 faults"),
        ("rate: 6, kinds: [kill]", "chaos.rate: 6 has no unit"),
    ],
)
def test_a_campaign_that_can_not_be_is_refused(load: Load, settings: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        chaotic(load, settings)
    assert message in str(caught.value)


def test_jitter_is_drawn_only_where_there_is_a_delay(load: Load) -> None:
    bare = [(f", delay: {delay}", "") for delay in ("2ms", "5ms, loss: 0.1%", "5ms")]
    with pytest.raises(SpecError, match="no worker or link fits"):
        chaotic(load, "rate: 6/min, kinds: [jitter]", *bare)


def test_a_span_is_one_duration_or_two() -> None:
    assert ChaosSpec(rate_rps=1.0, kinds=("kill",)).lasting == Span(1, 5)
    assert ChaosSpec.model_validate({"rate_rps": 1.0, "kinds": ("kill",), "lasting": 2.0}).lasting == Span(2, 2)


def replayed(load: Load, tmp_path: Path, faults: tuple[FaultBase, ...]) -> Experiment:
    table = tmp_path / "faults.csv"
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "kind", "entry"])
        writer.writerows([number, fault.kind, entry(fault, tmp_path)] for number, fault in enumerate(faults))
    load()
    return load_experiment(tmp_path / "topo.yaml", replay=table)


def test_a_replay_is_the_timeline_exactly(load: Load, tmp_path: Path) -> None:
    drawn = timeline(chaotic(load, f"rate: 20/s, kinds: [{ALL}], for: [100ms, 1s]"))
    (tmp_path / "lte.csv").write_text("time_s,rate\n0,1Mbit/s\n1.5,3Mbit/s\n")
    listed = load(
        overrides=(
            "hosts.node1.tags=[edge]",
            "faults=[{at: 0.1s, kill: edge}, {at: 1ms, throttle: [s1, node2], rate: 1234567bit/s, from: s1},"
            "{at: 3s, kill: {stage: 1}}, {at: 4s, isolate: [node1, node2], for: 0.3s, every: 0.7s},"
            "{at: 5s, kill: {random: 1}}, {at: 5s, kill: bottleneck}, {at: 6s, kill: {random: 1 of edge}},"
            "{at: 7s, flap: [node1, s1], period: 333ms, duty: 33%},"
            "{at: 8s, trace: [node1, s1], recording: {file: lte.csv, format: csv, loop: false}, for: 2s},"
            "{at: 9s, partition: [[dispatcher], [node1, node2]], for: 1s}]",
        )
    )
    for faults in (drawn, timeline(listed), ()):
        again = replayed(load, tmp_path, faults)
        assert timeline(again) == faults
        assert again.chaos is None


def test_an_entry_reads_well() -> None:
    fault = ThrottleFault(at_s=14.0, throttle=("node1", "s1"), rate_bps=2_000_000, for_s=6.5)
    assert entry(fault) == "{at: 14s, throttle: [node1, s1], rate: 2000000bit/s, for: 6.5s}"
    assert parse(entry(fault)).plain() == {
        "at": "14s",
        "throttle": ("node1", "s1"),
        "rate": "2000000bit/s",
        "for": "6.5s",
    }


def test_names_that_yaml_would_misread_are_quoted() -> None:
    fault = ThrottleFault(at_s=0.0, throttle=("null", "true"), rate_bps=8_000)
    assert parse(entry(fault)).plain()["throttle"] == ("null", "true")


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "id\n1\n"])
def test_what_is_no_table_of_faults_is_refused(load: Load, tmp_path: Path, content: str) -> None:
    (tmp_path / "faults.csv").write_text(content)
    load()
    with pytest.raises(SpecError, match="is no table of faults"):
        load_experiment(tmp_path / "topo.yaml", replay=tmp_path / "faults.csv")
    with pytest.raises(SpecError, match="can't read it"):
        load_experiment(tmp_path / "topo.yaml", replay=tmp_path / "none.csv")


def test_a_replay_of_another_cluster_says_which_fault_can_not_be(load: Load, tmp_path: Path) -> None:
    (tmp_path / "faults.csv").write_text('id,entry\n0,"{at: 1s, kill: node7}"\n')
    load()
    with pytest.raises(SpecError) as caught:
        load_experiment(tmp_path / "topo.yaml", replay=tmp_path / "faults.csv")
    assert "faults.csv, fault 0" in str(caught.value)
    assert "there is no host 'node7'" in str(caught.value)

"""Faults of the file: targets, repetitions, and the flat timeline that they come to."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from testbed.errors import SpecError
from testbed.spec import experiment_schema
from testbed.spec.faults import (
    ACCEPTED,
    DiskSlowFault,
    FaultBase,
    HostFault,
    KillFault,
    LinkFault,
    PartitionFault,
    RebootFault,
    RestartFault,
    ThrottleFault,
)
from testbed.spec.faults.targets import Bottleneck, Drawn, HostTarget, Named, OfStage, written
from testbed.spec.faults.timeline import timeline
from tests.spec.conftest import Load

SCHEMA = jsonschema.Draft202012Validator(experiment_schema())
TAGGED = (
    ("node1: {cpu: 0.1,", "node1: {cpu: 0.1, tags: [edge, left],"),
    ("node2: {cpu: 0.1,", "node2: {cpu: 0.1, tags: [edge],"),
)


def every_kind(cls: type[FaultBase] = FaultBase) -> list[type[FaultBase]]:
    found = [below for below in cls.__subclasses__() if "verb" in vars(below)]
    return list(dict.fromkeys([*found, *(kind for below in cls.__subclasses__() for kind in every_kind(below))]))


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("node2", Named(("node2",))),
        ("[node1, node2]", Named(("node1", "node2"))),
        ("edge", Named(("edge",))),
        ("bottleneck", Bottleneck()),
        ("{stage: 1}", OfStage(1)),
        ("{random: 2 of workers}", Drawn(2)),
        ("{random: 1 of edge}", Drawn(1, "edge")),
        ("{random: 1}", Drawn(1)),
    ],
)
def test_a_target_is_what_the_file_says(load: Load, text: str, target: HostTarget) -> None:
    fault = load(*TAGGED, ("kill: node2", f"kill: {text}")).faults[0]
    assert isinstance(fault, KillFault)
    assert fault.kill == target
    # What it was written as, and what it is when printed, mean the same.
    assert KillFault(at_s=8.0, kill=written(target)) == fault


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{stage: 2}", "faults[0].kill: there is no stage 2\na plan has at most 2 stages, from 0"),
        ("{stage: -1}", "faults[0].kill: -1 is no number of a stage; stages are numbered from 0"),
        ("{random: 3 of workers}", "faults[0].kill.random: draws 3 of workers, who are 2\nnode1, node2"),
        ("{random: 1 of egde}", "faults[0].kill.random: no host has the tag 'egde'\ndid you mean 'edge'?"),
        ("{random: some}", "faults[0].kill: 'some' doesn't say how many of which"),
        ("{host: node1}", "faults[0].kill: {'host': 'node1'} says no hosts; write a host, [host, host], a tag"),
        ("[]", "faults[0].kill: () says no hosts"),
        ("[node1, node1]", "faults[0].kill: 'node1' is there twice"),
        ("[node1, node3]", "faults[0].kill[1]: there is no host 'node3'\ndid you mean 'node2'?"),
        ("3", "faults[0].kill: 3 says no hosts"),
    ],
)
def test_a_target_that_says_no_hosts_is_refused(load: Load, text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(*TAGGED, ("kill: node2", f"kill: {text}"))
    assert message in str(caught.value)


@pytest.mark.parametrize("tag", ["node2", "s1", "workers", "bottleneck"])
def test_a_tag_that_could_mean_something_else_is_refused(load: Load, tag: str) -> None:
    with pytest.raises(SpecError, match=r"hosts.node1.tags\[0\]"):
        load(("node1: {cpu: 0.1,", f"node1: {{cpu: 0.1, tags: [{tag}],"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("times: 3", "has times without every"),
        ("every: 5s, times: 0", "0 is too small; the least is 1"),
        ("every: 5s, times: 9", "faults[0].times: strikes 9 times, but the workload ends after 30s"),
        ("every: 1ms", "faults[0].every: strikes more than 10000 times"),
    ],
)
def test_repetitions_that_make_no_sense_are_refused(load: Load, text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(("{at: 8s, kill: node2}", f"{{at: 8s, kill: {{random: 1}}, {text}}}"))
    assert message in str(caught.value)


def test_a_fault_must_end_before_it_strikes_again(load: Load) -> None:
    with pytest.raises(SpecError, match="has every without for"):
        load(("for: 5s", "every: 5s"))
    with pytest.raises(SpecError, match="lasts 5s, longer than the 2s after which it strikes again"):
        load(("for: 5s", "for: 5s, every: 2s"))
    with pytest.raises(ValidationError, match="longer than"):
        RebootFault(at_s=1.0, reboot="a", for_s=3.0, every_s=2.0)  # type: ignore[arg-type]


def test_repetitions_are_entries_of_their_own(load: Load) -> None:
    experiment = load(("for: 5s", "for: 500ms, every: 4s"), ("at: 8s", "at: 20s, every: 3s, times: 2"))
    flat = timeline(experiment)
    assert [(fault.kind, fault.at_s, fault.lasts_s) for fault in flat] == [
        ("kill", 20, None),
        ("kill", 23, None),
        ("throttle", 20, 0.5),
        ("throttle", 24, 0.5),
        ("throttle", 28, 0.5),
    ]
    assert all(fault.every_s is None and fault.times is None for fault in flat)


def test_tags_are_hosts_in_the_timeline_and_a_stage_stays_one(load: Load) -> None:
    def struck(text: str) -> HostTarget:
        fault = timeline(load(*TAGGED, ("kill: node2", f"kill: {text}")))[0]
        assert isinstance(fault, HostFault)
        return fault.struck

    assert struck("edge") == Named(("node1", "node2"))
    assert struck("left") == Named(("node1",))
    assert struck("{random: 2 of edge}") == Named(("node1", "node2"))
    assert struck("{stage: 1}") == OfStage(1)
    assert struck("bottleneck") == Bottleneck()


def test_draws_are_the_seed_s(load: Load) -> None:
    edit = ("{at: 8s, kill: node2}", "{at: 1s, kill: {random: 1 of workers}, every: 1s}")

    def drawn(seed: int) -> list[str]:
        return [fault.target for fault in timeline(load(edit, seed=seed)) if fault.kind == "kill"]

    assert drawn(1) == drawn(1)
    assert len({tuple(drawn(seed)) for seed in range(5)}) == 5
    assert set(drawn(1)) == {"node1", "node2"}


def test_kinds_are_told_by_their_verbs() -> None:
    kinds = every_kind()
    assert len({kind.verb for kind in kinds}) == len(kinds) == 23
    assert set(ACCEPTED) <= set(kinds)
    for kind in kinds:
        keys = {info.alias or name for name, info in kind.model_fields.items()}
        others = {other.verb for other in kinds if other is not kind}
        assert kind.verb in keys, kind
        assert not keys & others, kind


def test_kinds_name_what_they_strike() -> None:
    for kind in every_kind():
        if issubclass(kind, LinkFault):
            required: dict[str, Any] = {"rate_bps": 10**6, "add_s": 0.1, "loss_share": 0.1, "period_s": 1.0}
            fields = {name: value for name, value in required.items() if name in kind.model_fields}
            if "recording" not in kind.model_fields:
                made = kind(at_s=1.0, **{kind.verb: ("a", "b")}, from_="b", **fields)
                assert (made.target, made.from_) == ("a-b", "b")
        elif issubclass(kind, HostFault):
            required = {"for_s": 1.0, "cpu_share": 0.1, "limit_bytes": 2**24, "rate_bps": 10**6}
            fields = {name: value for name, value in required.items() if name in kind.model_fields}
            assert kind(at_s=1.0, **{kind.verb.replace("-", "_"): ("a", "b")}, **fields).target == "a, b"
    assert PartitionFault(at_s=1.0, partition=(("a",), ("b", "c"))).target == "a | b, c"


def test_one_direction_leaves_an_end_of_the_link(load: Load) -> None:
    one_way = load(("rate: 2Mbit/s", "from: node1, rate: 2Mbit/s")).faults[1]
    assert isinstance(one_way, ThrottleFault)
    assert one_way.from_ == "node1"
    with pytest.raises(SpecError, match="from: 'node2' is no end of node1-s1; legal: node1, s1"):
        load(("rate: 2Mbit/s", "from: node2, rate: 2Mbit/s"))


def test_a_partition_is_of_groups_that_are_apart() -> None:
    with pytest.raises(ValidationError, match="two groups at least"):
        PartitionFault(at_s=1.0, partition=(("a", "b"),))
    with pytest.raises(ValidationError, match="'b' is there twice"):
        PartitionFault(at_s=1.0, partition=(("a", "b"), ("b", "c")))


def test_a_file_may_use_the_keys_of_the_file_alone() -> None:
    fault = DiskSlowFault.model_validate({"at_s": 1.0, "disk-slow": "a", "rate_bps": 10**6})
    assert fault.target == "a"
    assert RestartFault.model_validate({"at_s": 1.0, "restart": "a"}).lasts_s == 0.1


def test_the_schema_takes_the_targets() -> None:
    spec: dict[str, Any] = {
        "name": "demo",
        "hosts": {"a": {"cpu": 1, "tags": ["edge"]}, "b": {"cpu": 1}},
        "links": [{"between": ["a", "b"]}],
        "model": {"name": "mobilenet_v2", "input": [1, 3, 8, 8]},
        "workload": {"kind": "closed", "in_flight": 1, "duration": "1s"},
    }
    for target in ("b", ["a", "b"], "edge", "bottleneck", {"stage": 0}, {"random": "1 of workers"}, {"random": 2}):
        SCHEMA.validate({**spec, "faults": [{"at": "0s", "kill": target}]})
    for target in (3, [], {}, {"stage": -1}, {"random": "many"}, {"stage": 0, "random": 1}):
        assert not SCHEMA.is_valid({**spec, "faults": [{"at": "0s", "kill": target}]}), target

"""Faults of hosts: what can't be, and the hosts that join later."""

from __future__ import annotations

import pytest

from testbed.errors import SpecError
from testbed.spec.faults.timeline import joining, timeline
from tests.spec.conftest import Load


def test_hosts_that_join_are_not_there_at_the_start(load: Load) -> None:
    assert joining(load()) == frozenset()
    assert joining(load(overrides=("faults=[{at: 3s, join: node2}, {at: 4s, kill: node1}]",))) == {"node2"}
    drawn = load(overrides=("faults=[{at: 3s, join: {random: 1 of workers}}]",))
    (fault,) = timeline(drawn)
    assert joining(drawn) == {fault.target}


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ("{at: 3s, join: bottleneck}", "bottleneck is a part of the plan"),
        ("{at: 3s, join: node1, every: 5s}", "a host joins once"),
        ("{at: 3s, join: node1}, {at: 4s, join: node1}", "'node1' joins already"),
        ("{at: 2s, kill: node1}, {at: 3s, join: node1}", "strikes 'node1' at 2s, but that joins at 3s"),
        ("{at: 3s, join: {random: 3 of workers}}", "no worker is there at the start"),
        ("{at: 3s, join: [node1, node2]}, {at: 4s, join: spare}", "no worker is there at the start"),
        ("{at: 3s, cpu: node1, share: 0.0005}", "can't give a host 0.0005 of a core"),
        ("{at: 3s, memory: node1, limit: 256MiB}", "is no squeeze: node1 has 128MiB anyway"),
        ("{at: 3s, reboot: node1}", "for"),
    ],
)
def test_what_cannot_be(load: Load, faults: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load(overrides=(f"faults=[{faults}]",))


def test_a_host_that_others_need_as_a_relay_cannot_join_later(load: Load) -> None:
    edits = (("- {between: [node2, s1],", "- {between: [node2, node1],"),)
    load(*edits, overrides=("faults=[{at: 3s, join: node2}]",))
    with pytest.raises(SpecError, match="others reach each other only through 'node1'"):
        load(*edits, overrides=("faults=[{at: 3s, join: node1}]",))

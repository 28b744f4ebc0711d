"""A host whose memory is too small for what it holds: the kernel kills its server, and everybody can read why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from runner import preparation
from runner.csvfile import from_csv
from runner.events import HostStateChanged
from runner.experiment import Options, run
from runner.preparation import Prepared, answer, planned
from testbed.model.graph import ModelGraph
from testbed.serving.events import EpochActive
from testbed.spec import Experiment
from testbed.spec.hosts import HostSpec
from testbed.spec.inference import ModelSpec
from testbed.spec.links import LinkSpec
from testbed.spec.workload import ClosedWorkload

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.alone]

MIB = 1 << 20
SHAPE = (1, 1024)


def prepare(declared: Experiment, progress: Callable[[str], None]) -> Prepared:
    """12 MiB of weights that take hardly any time."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = torch.nn.Linear(1024, 3 * 1024).eval()
    inputs = [torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    graph = ModelGraph.trace(module, SHAPE)
    return planned(declared, declared, graph, answer(module, inputs), [0.005 / len(graph.ops)] * len(graph.ops))


def test_an_out_of_memory_kill_is_told_with_the_hosts_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The planner believes that a server takes nothing beside its weights, so it trusts the small host with them.
    monkeypatch.setattr(preparation, "SERVER_OVERHEAD_BYTES", 1 * MIB)
    names = ("dispatcher", "small", "large")
    declared = Experiment(
        name="out-of-memory",
        hosts={
            "dispatcher": HostSpec(cpu=0.4),
            "small": HostSpec(cpu=0.4, memory_bytes=16 * MIB),
            "large": HostSpec(cpu=0.2),
        },
        switches=("s1",),
        links=tuple(LinkSpec(between=(name, "s1")) for name in names),
        model=ModelSpec(module="tests.runner.test_out_of_memory:prepare", input=SHAPE),
        workload=ClosedWorkload(in_flight=2, duration_s=2),
    )
    result = run(declared, Options(tmp_path, prepare=prepare))
    (dead,) = [e for e in result.events if isinstance(e, HostStateChanged) and e.state == "dead"]
    assert dead.host == "small"
    assert "out of memory: the kernel killed it at its limit of 16MiB" in dead.detail
    assert result.ruling.outcome == "failed"
    assert any(
        reason.startswith("small died, and no fault had killed it: out of memory") for reason in result.ruling.reasons
    )
    assert any(isinstance(event, EpochActive) for event in result.events)  # the other host took over
    rows = [row for row in from_csv((result.folder / "hosts.csv").read_bytes()) if row["host"] == "small"]
    assert sum(int(row["oom_kills"]) for row in rows) >= 1
    assert {row["state"] for row in rows} == {"dead"}

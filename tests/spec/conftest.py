"""The quickstart, loaded with edits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from testbed.spec import Experiment, load_experiment

QUICKSTART = """\
name: quickstart
seed: 1
hosts:
  dispatcher: {cpu: 0.3}
  node1: {cpu: 0.1, memory: 128MiB, storage: 256MiB}
  node2: {cpu: 0.1, memory: 128MiB}
switches: [s1]
links:
  - {between: [dispatcher, s1], rate: 50Mbit/s, delay: 2ms}
  - {between: [node1, s1], rate: 20Mbit/s, delay: 5ms, loss: 0.1%}
  - {between: [node2, s1], rate: 20Mbit/s, delay: 5ms}
model: {name: mobilenet_v2, input: [1, 3, 224, 224]}
workload: {kind: closed, in_flight: 4, duration: 30s}
recovery: {policy: replan, heartbeat: 100ms, misses: 3}
faults:
  - {at: 8s, kill: node2}
  - {at: 20s, throttle: [node1, s1], rate: 2Mbit/s, for: 5s}
"""

Load = Callable[..., Experiment]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads the quickstart with replacements of text (which must be there), overrides and a seed."""

    def load_edited(*edits: tuple[str, str], overrides: tuple[str, ...] = (), seed: int | None = None) -> Experiment:
        text = QUICKSTART
        for old, new in edits:
            assert old in text
            text = text.replace(old, new)
        file = tmp_path / "topo.yaml"
        file.write_text(text)
        return load_experiment(file, overrides, seed)

    return load_edited

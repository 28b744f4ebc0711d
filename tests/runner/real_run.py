"""Real runs of a small experiment through the command line, watched from outside: by the journal and the history."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.emulation.world import World

NAME = f"tiny-{os.getpid()}"
"""Control groups bear it, and those of all worlds are in one tree."""
RATE = "20Mbit/s"
DEADLINE_S = 150.0
POLL_S = 0.002


def experiment(**changes: Any) -> dict[str, Any]:
    """Three workers, one of which is killed and one of whose links is throttled; top-level keys may be changed.

    JSON is YAML, so this can be written as it is.
    """
    workers = ("node1", "node2", "node3")
    return {
        "name": NAME,
        "seed": 1,
        "hosts": {
            "dispatcher": {"cpu": 0.3},
            **{name: {"cpu": 0.1, "memory": "64MiB", "storage": "64MiB"} for name in workers},
        },
        "switches": ["s1"],
        "links": [
            {"between": ["dispatcher", "s1"], "rate": RATE, "delay": "1ms"},
            *({"between": [name, "s1"], "rate": RATE, "delay": "2ms"} for name in workers),
        ],
        "model": {"module": "tests.runner.tiny_model:tiny_net", "input": [1, 3, 32, 32]},
        "workload": {"kind": "closed", "in_flight": 4, "duration": "6s"},
        "recovery": {"heartbeat": "100ms", "misses": 3},
        "faults": [
            {"at": "2s", "kill": "node2"},
            {"at": "4s", "throttle": ["node1", "s1"], "rate": "2Mbit/s", "for": "1s"},
        ],
        **changes,
    }


@dataclass
class RealRun:
    """A run that was started.

    Attributes:
        world: Where it runs.
        results: Folder of all runs; this one is the first to write there.
        process: On the real machine.
    """

    world: World
    results: Path
    process: subprocess.Popen[str]
    output: str = field(default="", init=False)

    @property
    def folder(self) -> Path | None:
        """The run's own folder, once there is one."""
        found = [path for path in self.results.glob("*") if path.is_dir() and not path.is_symlink()]
        return found[0] if found else None

    @property
    def record(self) -> dict[str, Any]:
        """``run.json``."""
        assert self.folder is not None, self.output
        content: dict[str, Any] = json.loads((self.folder / "run.json").read_text())
        return content

    def rows(self, table: str) -> list[dict[str, str]]:
        assert self.folder is not None, self.output
        with (self.folder / table).open(newline="") as file:
            return list(csv.DictReader(file))

    def journal(self) -> list[dict[str, Any]]:
        """The lines of the run's journal so far, not those of what the machine's capabilities are tried with."""
        lines = []
        for path in self.world.runs.glob(f"{NAME}-*/manifest.jsonl"):
            lines += _lines(path)
        return lines

    def events(self) -> list[dict[str, Any]]:
        return [] if self.folder is None else _lines(self.folder / "events.jsonl")

    def roles(self) -> dict[str, int]:
        """Processes by what they are, with their numbers in the world."""
        return {line["role"]: line["pid"] for line in self.journal() if line["kind"] == "process"}

    @property
    def pid(self) -> int:
        """The runner's own process, by its number in the world."""
        return int(json.loads((self.world.runs / "lock").read_text())["pid"])

    def wait_until(self, condition: Callable[[RealRun], object], deadline_s: float = DEADLINE_S) -> None:
        """Wait for something that can be seen from outside.

        Raises:
            AssertionError: If it doesn't happen in time, or the run ends before.
        """
        end_s = time.monotonic() + deadline_s
        while not condition(self):
            assert self.process.poll() is None, f"the run has ended before\n{self.finish()[1]}"
            assert time.monotonic() < end_s, f"not within {deadline_s} s"
            time.sleep(POLL_S)

    def kill(self, role: str) -> None:
        """SIGKILL the runner or one of its processes."""
        self.signal(signal.SIGKILL, role)

    def signal(self, number: signal.Signals, role: str = "runner") -> None:
        self.world.signal(self.pid if role == "runner" else self.roles()[role], number)

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the runner and all in its process group, as a terminal does."""
        self.world.signal(-self.pid, number)

    def finish(self, deadline_s: float = DEADLINE_S) -> tuple[int, str]:
        """Wait for its end; exit code and all output."""
        said, _ = self.process.communicate(timeout=deadline_s)
        self.output += said
        return self.process.returncode, self.output


@contextlib.contextmanager
def started(
    world: World, folder: Path, spec: Mapping[str, Any], *options: str, environment: Mapping[str, str] | None = None
) -> Iterator[RealRun]:
    """Start a run; at the end of the block it is dead.

    Args:
        world: Where.
        folder: An empty one, for the specification and the results.
        spec: As :func:`experiment` makes it.
        options: Of the command line.
        environment: What to add to that of the run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "tiny.yaml"
    file.write_text(json.dumps(spec))
    results = folder / "results"
    process = world.start("run", str(file), "--results", str(results), *options, environment=environment)
    run = RealRun(world, results, process)
    try:
        yield run
    finally:
        if process.poll() is None and (world.runs / "lock").read_text():
            run.kill("runner")
        process.kill()
        process.communicate(timeout=DEADLINE_S)


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        whole = path.read_text().split("\n")[:-1]
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in whole]

"""Is the verdict right on a machine that has nothing else to do?

Runs the quickstart again and again, and counts verdicts. An idle machine must give `valid` in at least 19 of 20 runs;
that an overloaded one does not is a test (tests/runner/test_overload.py). A machine of whose CPU time the hypervisor
gives some to others isn't idle: a run meanwhile is printed and doesn't count, and another one is added, up to half as
many.

    sudo .venv/bin/python -m benchmarks.verdicts [--runs 20] [--csv FILE]
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.ending import ended
from runner.fidelity_checks import stolen_share
from runner.machine_load import sample
from testbed.emulation.machine import require_root

QUICKSTART = Path(__file__).parent.parent / "topologies" / "quickstart.yaml"
BAR = 0.95
MOST_STOLEN = 0.01
"""Of the CPU time of a run, on a machine that counts as idle."""
SPARE_RUNS = 0.5
COLUMNS = (
    "run",
    "outcome",
    "verdict",
    "reasons",
    "ok",
    "submitted",
    "throughput_rps",
    "latency_p50_ms",
    "detection_ms_max",
    "recovery_s_max",
)
FIGURES = ("stolen_pct", *COLUMNS[4:])
RUN_TIMEOUT_S = 300.0


def main() -> int:
    """Run, print a table; 1 if too few runs are valid, or one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args()
    require_root()
    rows: list[dict[str, str]] = []
    idle: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        while len(idle) < arguments.runs and len(rows) < (1 + SPARE_RUNS) * arguments.runs:
            row = _run(Path(folder))
            rows.append(row)
            if float(row["stolen_pct"]) <= 100 * MOST_STOLEN:
                idle.append(row)
            figures = " ".join(f"{name}={row[name]}" for name in FIGURES)
            print(f"{len(rows):>3} {row['outcome']:<7} {row['verdict']:<8} {figures} {row['reasons']}", flush=True)
    if arguments.csv is not None:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, (*COLUMNS, "stolen_pct"))
            writer.writeheader()
            writer.writerows(rows)
    verdicts = Counter(row["verdict"] for row in idle)
    failed = sum(row["outcome"] != "passed" for row in rows)
    print(f"{len(rows)} runs, {len(idle)} of them on an idle machine: {dict(verdicts)}; {failed} failed")
    print(f"the bar: {BAR:.0%} of {arguments.runs} on an idle machine valid, none failed")
    return int(len(idle) < arguments.runs or verdicts["valid"] < BAR * len(idle) or failed > 0)


def _run(folder: Path) -> dict[str, str]:
    """Run the quickstart; its row of ``runs.csv``, and the share of the CPU time that the hypervisor took."""
    command = [sys.executable, "-m", "testbed", "run", str(QUICKSTART), "--results", str(folder), "--quiet"]
    before = sample(0.0)
    subprocess.run(command, check=False, timeout=RUN_TIMEOUT_S, capture_output=True)
    after = sample(0.0)
    with (folder / "runs.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    return {name: last[name] for name in COLUMNS} | {"stolen_pct": f"{100 * stolen_share(before, after):.2f}"}


if __name__ == "__main__":
    sys.exit(ended(main))

"""Is the verdict right on a machine that has nothing else to do?

Runs the quickstart again and again, and counts verdicts. An idle machine must give `valid` in at least 19 of 20 runs;
that an overloaded one does not is a test (tests/runner/test_overload.py).

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

QUICKSTART = Path(__file__).parent.parent / "topologies" / "quickstart.yaml"
BAR = 0.95
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
RUN_TIMEOUT_S = 300.0


def main() -> int:
    """Run, print a table; 1 if too few runs are valid, or one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args()
    rows: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "testbed", "run", str(QUICKSTART), "--results", folder, "--quiet"]
        for number in range(1, arguments.runs + 1):
            subprocess.run(command, check=False, timeout=RUN_TIMEOUT_S, capture_output=True)
            with (Path(folder) / "runs.csv").open(newline="") as file:
                rows = [{name: row[name] for name in COLUMNS} for row in csv.DictReader(file)]
            last = rows[-1]
            figures = " ".join(f"{name}={last[name]}" for name in COLUMNS[4:])
            print(f"{number:>3} {last['outcome']:<7} {last['verdict']:<8} {figures} {last['reasons']}", flush=True)
    if arguments.csv is not None:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    verdicts = Counter(row["verdict"] for row in rows)
    failed = sum(row["outcome"] != "passed" for row in rows)
    print(f"{dict(verdicts)}, {failed} failed; the bar: {BAR:.0%} valid, none failed")
    return int(len(rows) < arguments.runs or verdicts["valid"] < BAR * len(rows) or failed > 0)


if __name__ == "__main__":
    sys.exit(main())

"""What does the serving path add to the model's own time?

One stage on loopback, no shaping, no limits, one request at a time: client → dispatcher → node → dispatcher → client,
in processes of their own. The node's own computation is in every request's record, so the rest is what serving adds.

    python -m benchmarks.serving_overhead [--model mobilenet_v2] [--requests 200]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.ending import ended
from benchmarks.loopback import serve_alone

BAR_MS = 2.0


def main() -> int:
    """Measure, print a table; 1 if the median is over the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["mobilenet_v2", "resnet50"])
    parser.add_argument("--seconds", type=float, default=8.0)
    arguments = parser.parse_args()
    print(f"{'model':<16}{'requests':>9}{'compute ms':>12}{'latency ms':>12}{'added ms p50':>14}{'p95':>8}{'bar':>6}")
    failed = False
    for name in arguments.model:
        with tempfile.TemporaryDirectory() as folder:
            measured = serve_alone(name, Path(folder), arguments.seconds)
        added_ms = sorted((latency_s - compute_s) * 1e3 for latency_s, compute_s in measured)
        median = statistics.median(added_ms)
        failed |= median > BAR_MS
        print(
            f"{name:<16}{len(measured):>9}"
            f"{statistics.median(compute for _, compute in measured) * 1e3:>12.2f}"
            f"{statistics.median(latency for latency, _ in measured) * 1e3:>12.2f}"
            f"{median:>14.2f}{added_ms[int(0.95 * len(added_ms))]:>8.2f}{BAR_MS:>6.1f}"
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(ended(main))

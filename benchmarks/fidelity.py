"""How true is the emulation? Links, faults and compute against their bars; needs root.

    sudo .venv/bin/python -m benchmarks.fidelity [--quick] [--only PART …] [--csv FILE]

Parts: goodput, loaded, round_trip, loss and faults (benchmarks/link_fidelity.py); service, oracle and dilation
(benchmarks/compute_fidelity.py). The exit status is 1 when a row is over its bar. Whatever else the machine does shows
in the figures: run it alone.
"""

from __future__ import annotations

import sys

from benchmarks import compute_fidelity, link_fidelity
from benchmarks.fidelity_rows import measure

if __name__ == "__main__":
    sys.exit(
        measure(
            __doc__,
            {**link_fidelity.PARTS, **compute_fidelity.PARTS},
            "fewer and shorter repetitions: about nine minutes",
            "fidelity.csv",
        )
    )

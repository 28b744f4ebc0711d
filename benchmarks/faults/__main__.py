"""``python -m benchmarks.faults``."""

import sys

from benchmarks.ending import ended
from benchmarks.faults.command import main

sys.exit(ended(main))

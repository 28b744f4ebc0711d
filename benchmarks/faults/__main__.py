"""``python -m benchmarks.faults``."""

import sys

from benchmarks.faults.command import main

sys.exit(main())

"""``python -m benchmarks.peers``."""

import sys

from benchmarks.ending import ended
from benchmarks.peers.comparison import main

sys.exit(ended(main))

"""``python -m benchmarks.peers``."""

import sys

from benchmarks.peers.comparison import main

sys.exit(main())

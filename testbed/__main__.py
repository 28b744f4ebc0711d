"""``python -m testbed`` and the console script ``testbed``."""

from __future__ import annotations

import os
import sys

if "SUDO_UID" in os.environ:
    # Bytecode that root writes into the caller's tree could not be removed by the caller.
    sys.dont_write_bytecode = True

from testbed.cli.main import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())

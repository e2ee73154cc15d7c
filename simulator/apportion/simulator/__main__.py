"""`python -m apportion.simulator`."""

from __future__ import annotations

import sys

from apportion.simulator.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m apportion.doors`."""

from __future__ import annotations

import sys

from apportion.doors.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

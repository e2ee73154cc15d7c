"""`python -m apportion.doors NAME ...`: a door by its name, as `apportion NAME ...`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Final

DOORS: Final = ("otlp", "sglang")


def main(argv: Sequence[str]) -> int:
    """Run one door; 2 where there is none of that name."""
    if not argv or argv[0] not in DOORS:
        sys.stderr.write(f"usage: python -m apportion.doors {{{','.join(DOORS)}}} ...\n")
        return 2
    # Each needs what the other does not.
    status: int = importlib.import_module(f"apportion.doors.{argv[0]}").main(argv[1:])
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What a command says beside its output."""

from __future__ import annotations

import sys
from collections.abc import Iterable


def say(lines: Iterable[str]) -> None:
    """Lines beside the output, on stderr."""
    for line in lines:
        # names of members in an archive are whatever its maker wrote
        plain = "".join(letter if letter.isprintable() else "�" for letter in line)
        sys.stderr.write(f"apportion: {plain}\n")

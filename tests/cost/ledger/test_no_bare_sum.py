"""A bare sum of units overflows int64: the source has none outside the wide sum."""

from __future__ import annotations

import re
from pathlib import Path

import apportion.cost

BARE = re.compile(r"func\.(sum|total)\b|\b(SUM|TOTAL)\(|import sum\b")


def test_no_bare_sum_in_the_source() -> None:
    """Whoever adds up money, energy or time goes through apportion.cost.sums."""
    (root,) = apportion.cost.__path__
    found = [
        f"{path.name}:{number}: {line.strip()}"
        for path in sorted(Path(root).rglob("*.py"))
        if path.name != "sums.py"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if BARE.search(line)
    ]
    assert found == []

"""With what a run computed, as text: what was the same throughout, and what was not, with where."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING

from apportion.cost.report_text import WIDTH
from apportion.cost.table import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apportion.cost.training.run_rows import AttemptRow


def manifest_lines(attempts: Sequence[AttemptRow]) -> list[str]:
    """Its lines; none where no process said anything. Attempts are named by their numbers."""
    same: list[str] = []
    differing: list[str] = []
    for key in dict.fromkeys(key for attempt in attempts for key in attempt.manifest):
        where: dict[tuple[str, ...], list[str]] = {}
        for attempt in attempts:
            where.setdefault(attempt.manifest.get(key, ()), []).append(str(attempt.number))
        if len(where) == 1 and len(next(iter(where))) == 1:
            same.append(f"{key} {next(iter(where))[0]}")
            continue
        parts = [
            f"{' and '.join(texts) or 'not said'} in {', '.join(numbers)}"
            for texts, numbers in where.items()
        ]
        differing.append(f"{key}: {'; '.join(parts)}")
    if not same and not differing:
        return []
    lines = ["What it ran with"]
    for text in [", ".join(same), *differing]:
        if text:
            lines += wrap(printable(text), WIDTH, initial_indent="  ", subsequent_indent="    ")
    return lines

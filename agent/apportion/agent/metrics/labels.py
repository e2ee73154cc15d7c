"""Label values within bounds: the first that spend keep their own series, the rest are `other`.

Folding happens where a counter is added to, never where it is shown: a value that was folded
once stays folded, so no series is ever split, moved or falls.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from typing import Final

OTHER: Final = "other"
MAX_CHARACTERS: Final = 128
MAX_FOLDED_REMEMBERED: Final = 100_000
"""Distinct folded values are counted exactly up to this many."""

_PLAIN: Final = re.compile(r"[\x20-\x7e]*")


class BoundedLabel:
    """The values of one label. Sticky: what was let in first stays."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: dict[str, str] = {}
        self._folded: set[bytes] = set()

    def fold(self, value: str | None) -> str:
        """The value as it may be shown: cleaned, or `other` once the bound is reached.

        None and empty text, which mean that nothing was said, stay empty and take no place.
        """
        if not value:
            return ""
        known = self._kept.get(value)
        if known is not None:
            return known
        text = clean(value)
        if text in {"", OTHER}:
            return text
        if len(self._kept) < self._limit:
            self._kept[value] = text
            return text
        if len(self._folded) < MAX_FOLDED_REMEMBERED:
            digest = hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=8)
            self._folded.add(digest.digest())
        return OTHER

    @property
    def folded(self) -> int:
        """How many distinct values became `other`."""
        return len(self._folded)


class LabelFolder:
    """The bounded labels of the settlement's counters. One writer: not for several threads."""

    def __init__(self, limits: Mapping[str, int]) -> None:
        """`limits` maps `workload`, `run`, `tenant`, `model` to how many values each may have."""
        self._labels = {label: BoundedLabel(limit) for label, limit in limits.items()}
        self.workload = self._labels["workload"].fold
        self.run = self._labels["run"].fold
        self.tenant = self._labels["tenant"].fold
        self.model = self._labels["model"].fold

    @property
    def folded(self) -> dict[str, int]:
        """Distinct values that became `other`, by label."""
        return {label: bounded.folded for label, bounded in self._labels.items()}


def clean(value: str) -> str:
    """`value` as one printable line of at most `MAX_CHARACTERS`, ending in `~` where it was cut."""
    if not _PLAIN.fullmatch(value):
        value = "".join(
            "\N{REPLACEMENT CHARACTER}" if unicodedata.category(letter).startswith("C") else letter
            for letter in value
        )
    value = value.strip()
    return value if len(value) <= MAX_CHARACTERS else value[: MAX_CHARACTERS - 1] + "~"

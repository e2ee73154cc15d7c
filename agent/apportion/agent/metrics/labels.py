"""Label values and series within bounds: those that spend have their own, others are `other`.

Places go to an allow-list, then to those that spent most before the agent started, then to the
first that come. Now and then somebody who is in `other` and spends much more takes the place of
whoever spends least.

Folding happens where a counter is added to, never where it is shown, so that no amount is moved
from one series to another and no counter falls: who takes a place begins at 0, and who leaves one
is added to `other` from then on. What ends gives its place back.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from typing import Final, TypeVar

OTHER: Final = "other"
MAX_CHARACTERS: Final = 128
MAX_FOLDED_REMEMBERED: Final = 100_000
"""Distinct folded values are counted exactly up to this many."""
MAX_SERIES: Final = 20_000
MUCH_MORE: Final = 2
"""Who takes a place spends at least so many times as much as who leaves it."""
MOST_LEAVE: Final = 10
"""One of so many places changes at a time, or one of fewer."""

_PLAIN: Final = re.compile(r"[\x20-\x7e]*")
_NOBODY: Final[Mapping[str, Collection[str]]] = {}

K = TypeVar("K")


class BoundedLabel:
    """The values of one label. Sticky: what was let in first stays until it ends."""

    def __init__(self, limit: int, always: Collection[str] = ()) -> None:
        """Values that are named in `always` are never folded and take no place."""
        self._limit = limit
        self._always = {value: clean(value) for value in always}
        self._kept: dict[str, str] = {}
        self._folded: set[bytes] = set()
        self._lately: set[bytes] = set()
        """Those that were folded since places were last decided."""
        self._placed: set[str] = set()
        """Those that were given a place then: they may have no series yet."""

    def fold(self, value: str | None) -> str:
        """The value as it may be shown: cleaned, or `other` once the bound is reached.

        None and empty text, which mean that nothing was said, stay empty and take no place.
        """
        if not value:
            return ""
        known = self._always.get(value) or self._kept.get(value)
        if known is not None:
            return known
        text = clean(value)
        if text in {"", OTHER}:
            return text
        if len(self._kept) < self._limit:
            self._kept[value] = text
            return text
        digest = _digest(value)
        for remembered in (self._folded, self._lately):
            if len(remembered) < MAX_FOLDED_REMEMBERED:
                remembered.add(digest)
        return OTHER

    def reserve(self, values: Iterable[str]) -> None:
        """Give places to values before they come, half of the places at most."""
        for value in values:
            if len(self._kept) >= self._limit // 2:
                return
            self.fold(value)

    def decide(self, spent: Mapping[str, int]) -> set[str]:
        """Give places to those that spend much more than others who have one.

        `spent` is what each value cost lately. Only who was folded since the last decision comes in
        question. Returns what those are shown as that have lost their places.
        """
        wanting = [
            value
            for value, amount in spent.items()
            if amount > 0
            and value not in self._kept
            and value not in self._always
            and _digest(value) in self._lately
        ]
        wanting.sort(key=lambda value: (-spent[value], value))
        del wanting[
            : max(0, self._limit - len(self._kept))
        ]  # a free place they take when they come
        leaving = sorted(self._kept, key=lambda value: (spent.get(value, 0), value))
        left: set[str] = set()
        self._placed.clear()
        self._lately.clear()
        places = range(max(1, self._limit // MOST_LEAVE))
        for _, comes, goes in zip(places, wanting, leaving, strict=False):
            if spent[comes] < MUCH_MORE * spent.get(goes, 0):
                break
            left.add(self._kept.pop(goes))
            self._kept[comes] = clean(comes)
            self._placed.add(comes)
        return left.difference(self._kept.values(), self._always.values())

    def keep_only(self, shown: Collection[str]) -> None:
        """Free the places of values that no series shows any more."""
        self._kept = {
            value: text
            for value, text in self._kept.items()
            if text in shown or value in self._placed
        }

    @property
    def folded(self) -> int:
        """How many distinct values became `other`."""
        return len(self._folded)


class SeriesBudget:
    """How many series the counters of settlement may have together. One writer."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._used = 0
        self.refused = 0
        """Times that an amount went to `other` for want of series."""

    def key(self, key: K, known: Collection[K], *, other: K, series: int) -> K:
        """`key`, if it has its series already or they fit in; else `other`, which always does."""
        if key in known:
            return key
        if self._used + series > self._most:
            self.refused += 1
            return other
        self._used += series
        return key

    def give_back(self, series: int) -> None:
        """So many have ended."""
        self._used = max(0, self._used - series)


class LabelFolder:
    """The bounded labels of the settlement's counters. One writer: not for several threads."""

    def __init__(
        self,
        limits: Mapping[str, int],
        always: Mapping[str, Collection[str]] = _NOBODY,
        *,
        most_series: int = MAX_SERIES,
    ) -> None:
        """`limits`: how many values each of `workload`, `run`, `tenant`, `model`, `pod` may have.

        `always` maps them to values that are never folded.
        """
        self._labels = {
            label: BoundedLabel(limit, always.get(label, ())) for label, limit in limits.items()
        }
        self.budget = SeriesBudget(most_series)
        self.workload = self._labels["workload"].fold
        self.run = self._labels["run"].fold
        self.tenant = self._labels["tenant"].fold
        self.model = self._labels["model"].fold
        self.pod = self._labels["pod"].fold

    def reserve(self, values: Mapping[str, Iterable[str]]) -> None:
        """Give places to values before they come, by label, those that matter most first."""
        for label, some in values.items():
            self._labels[label].reserve(some)

    def decide(self, spent: Mapping[str, Mapping[str, int]]) -> set[tuple[str, str]]:
        """Decide anew about places, by what values of labels cost lately.

        Returns the labels and shown values that have none any more.
        """
        return {
            (label, shown)
            for label, amounts in spent.items()
            for shown in self._labels[label].decide(amounts)
        }

    def keep_only(self, shown: Mapping[str, Collection[str]]) -> None:
        """Free the places of values that no series shows any more, by label."""
        for label, values in shown.items():
            self._labels[label].keep_only(values)

    @property
    def folded(self) -> dict[str, int]:
        """Distinct values that became `other`, by label."""
        return {label: bounded.folded for label, bounded in self._labels.items()}


def _digest(value: str) -> bytes:
    return hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def clean(value: str) -> str:
    """`value` as one printable line of at most `MAX_CHARACTERS`, ending in `~` where it was cut."""
    if not _PLAIN.fullmatch(value):
        value = "".join(
            "\N{REPLACEMENT CHARACTER}" if unicodedata.category(letter).startswith("C") else letter
            for letter in value
        )
    value = value.strip()
    return value if len(value) <= MAX_CHARACTERS else value[: MAX_CHARACTERS - 1] + "~"

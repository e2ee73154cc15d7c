"""Half-open intervals of integer nanoseconds, alone and as sorted disjoint sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


@dataclass(frozen=True, slots=True, order=True)
class Interval:
    """`[start_ns, end_ns)`; empty where they are equal."""

    start_ns: int
    end_ns: int

    def __post_init__(self) -> None:
        if self.end_ns < self.start_ns:
            message = f"an interval cannot end ({self.end_ns}) before it starts ({self.start_ns})"
            raise ValueError(message)

    @property
    def duration_ns(self) -> int:
        """Its length."""
        return self.end_ns - self.start_ns

    def __bool__(self) -> bool:
        return self.end_ns > self.start_ns

    def clip(self, to: Interval) -> Interval:
        """The part inside `to`; empty (at one of `to`'s edges) where they do not meet."""
        start_ns = min(max(self.start_ns, to.start_ns), to.end_ns)
        return Interval(start_ns, max(start_ns, min(self.end_ns, to.end_ns)))

    def split(self, at: Iterable[int]) -> Iterator[Interval]:
        """The non-empty pieces between the instants of `at` that fall inside."""
        start_ns = self.start_ns
        for cut_ns in sorted({cut for cut in at if self.start_ns < cut < self.end_ns}):
            yield Interval(start_ns, cut_ns)
            start_ns = cut_ns
        if start_ns < self.end_ns:
            yield Interval(start_ns, self.end_ns)

    def split_every(self, period_ns: int) -> Iterator[Interval]:
        """The pieces between whole multiples of `period_ns` (hours, minutes)."""
        first_ns = (self.start_ns // period_ns + 1) * period_ns
        return self.split(range(first_ns, self.end_ns, period_ns))


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """Sorted, disjoint, non-touching intervals that cover the same instants."""
    merged: list[Interval] = []
    for interval in sorted(interval for interval in intervals if interval):
        if merged and interval.start_ns <= merged[-1].end_ns:
            if interval.end_ns > merged[-1].end_ns:
                merged[-1] = Interval(merged[-1].start_ns, interval.end_ns)
        else:
            merged.append(interval)
    return merged


def subtract(interval: Interval, covered: Sequence[Interval]) -> list[Interval]:
    """What of `interval` no member of `covered` (sorted, disjoint) covers."""
    rest: list[Interval] = []
    start_ns = interval.start_ns
    for cover in covered:
        if cover.end_ns <= start_ns:
            continue
        if cover.start_ns >= interval.end_ns:
            break
        if cover.start_ns > start_ns:
            rest.append(Interval(start_ns, cover.start_ns))
        start_ns = max(start_ns, cover.end_ns)
    if start_ns < interval.end_ns:
        rest.append(Interval(start_ns, interval.end_ns))
    return rest

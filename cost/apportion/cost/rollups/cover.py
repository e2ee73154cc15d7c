"""Cutting node time into weeks, days and hours: the longest rollups that make up an interval."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from apportion.core.units import NS_PER_HOUR
from apportion.cost.rollups.sources import GRAINS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


class Stretch(NamedTuple):
    """[start_ns, end_ns) in whole hours of node time; None: without an end on that side."""

    start_ns: int | None
    end_ns: int | None


class Grained(NamedTuple):
    """A stretch of rollups that are `hours` long."""

    hours: int
    stretch: Stretch


def covered(
    stretches: Iterable[Stretch], grains: Sequence[int] = GRAINS
) -> dict[int, tuple[Stretch, ...]]:
    """By length of rollup the stretches of it that together are `stretches`."""
    found: dict[int, list[Stretch]] = {}
    for stretch in stretches:
        for hours, part in _cut(stretch, sorted(grains, reverse=True)):
            found.setdefault(hours, []).append(part)
    return {hours: tuple(parts) for hours, parts in found.items()}


def without(stretch: Stretch, hours: Iterable[int]) -> list[Stretch]:
    """What is left of it without some hours, given by their starts in ascending order."""
    left: list[Stretch] = []
    start_ns = stretch.start_ns
    for hour_ns in hours:
        if not _reaches(stretch, hour_ns):
            continue
        if start_ns is None or start_ns < hour_ns:
            left.append(Stretch(start_ns, hour_ns))
        start_ns = hour_ns + NS_PER_HOUR
    if stretch.end_ns is None or start_ns is None or start_ns < stretch.end_ns:
        left.append(Stretch(start_ns, stretch.end_ns))
    return left


def _reaches(stretch: Stretch, hour_ns: int) -> bool:
    after_start = stretch.start_ns is None or stretch.start_ns <= hour_ns
    return after_start and (stretch.end_ns is None or hour_ns < stretch.end_ns)


def _cut(stretch: Stretch, grains: Sequence[int]) -> Iterator[Grained]:
    start_ns, end_ns = stretch
    if start_ns is not None and end_ns is not None and start_ns >= end_ns:
        return
    hours, finer = grains[0], grains[1:]
    if not finer:
        yield Grained(hours, stretch)
        return
    length_ns = hours * NS_PER_HOUR
    first_ns = None if start_ns is None else start_ns + -start_ns % length_ns
    last_ns = None if end_ns is None else end_ns - end_ns % length_ns
    if first_ns is not None and last_ns is not None and first_ns >= last_ns:
        yield from _cut(stretch, finer)
        return
    yield Grained(hours, Stretch(first_ns, last_ns))
    if first_ns is not None:
        yield from _cut(Stretch(start_ns, first_ns), finer)
    if last_ns is not None:
        yield from _cut(Stretch(last_ns, end_ns), finer)

"""Two accounts of the same hours, compared hour by hour: neither is ever held whole."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from apportion.cost.rollups.steps import united

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Row = tuple[Any, ...]
Hour = dict[Row, Row]
"""The rows of one hour: figures by key."""


def by_hour(found: Iterable[Row], width: int) -> Iterator[tuple[int, Hour]]:
    """Rows in the order of their hour; their first `width` columns are agent, hour and key."""
    for start_ns, rows in groupby(found, key=lambda row: row[1]):
        yield start_ns, {row[2:width]: row[width:] for row in rows}


def steps_by_hour(found: Iterable[Row]) -> Iterator[tuple[int, Hour]]:
    """Rows of agent, hour, entity, whether charged, first and last, in the order of the hour."""
    for start_ns, rows in groupby(found, key=lambda row: row[1]):
        ranges: dict[Row, list[tuple[int, int]]] = {}
        for _, _, entity, charged, first, last in rows:
            ranges.setdefault((entity, charged), []).append((first, last))
        yield start_ns, {key: tuple(united(numbers)) for key, numbers in ranges.items()}


def side_by_side(
    one: Iterator[tuple[int, Hour]], other: Iterator[tuple[int, Hour]]
) -> Iterator[tuple[int, Hour, Hour]]:
    """Both hour by hour; an hour that only one has is empty in the other."""
    left, right = next(one, None), next(other, None)
    while left is not None or right is not None:
        start_ns = min(side[0] for side in (left, right) if side is not None)
        hours: list[Hour] = [{}, {}]
        if left is not None and left[0] == start_ns:
            hours[0], left = left[1], next(one, None)
        if right is not None and right[0] == start_ns:
            hours[1], right = right[1], next(other, None)
        yield start_ns, hours[0], hours[1]

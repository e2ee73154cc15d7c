"""Several histograms of one engine as one, with no more buckets than dashboards need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from apportion.collectors.exposition_text import RawSample

MOST_BOUNDS: Final = 23
"""Beside +Inf. vLLM's histograms have up to 22, TGI's 100."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """`buckets` are (upper bound, cumulative count), ascending, the last bound infinite."""

    buckets: tuple[tuple[float, float], ...]
    sum: float
    count: float


def merged(
    buckets: Sequence[RawSample],
    sums: Sequence[RawSample],
    counts: Sequence[RawSample],
    scale: float,
) -> Histogram | None:
    """The sum of the histograms in these rows; None where they are none, or contradict themselves.

    Only bounds that all of them have can be added up; of more than `MOST_BOUNDS` some are left
    out, always the same ones.
    """
    series: dict[frozenset[tuple[str, str]], dict[float, float]] = {}
    for row in buckets:
        bound = _bound(row.labels.get("le"))
        if bound is None or not _is_count(row.value):
            return None
        others = frozenset(item for item in row.labels.items() if item[0] != "le")
        series.setdefault(others, {})[bound] = row.value
    if not series or not all(_is_cumulative(each) for each in series.values()):
        return None
    total = math.fsum(row.value for row in sums if math.isfinite(row.value))
    count = math.fsum(max(each.values()) for each in series.values())
    if counts:
        count = max(count, math.fsum(row.value for row in counts if _is_count(row.value)))
    shared = set[float].intersection(*(set(each) for each in series.values())) - {math.inf}
    found = tuple(
        (bound * scale, math.fsum(each[bound] for each in series.values()))
        for bound in _thinned(sorted(shared))
    )
    return Histogram((*found, (math.inf, count)), total * scale, count)


def _thinned(bounds: list[float]) -> list[float]:
    """Evenly chosen, with the first and the last."""
    if len(bounds) <= MOST_BOUNDS:
        return bounds
    step = (len(bounds) - 1) / (MOST_BOUNDS - 1)
    return [bounds[round(index * step)] for index in range(MOST_BOUNDS)]


def _bound(text: str | None) -> float | None:
    try:
        bound = float(text or "")
    except ValueError:
        return None
    return None if math.isnan(bound) else bound


def _is_count(value: float) -> bool:
    return math.isfinite(value) and value >= 0


def _is_cumulative(series: dict[float, float]) -> bool:
    counts = [series[bound] for bound in sorted(series)]
    return counts == sorted(counts)

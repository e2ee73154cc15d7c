"""One device's settled time in one clock hour, cut wherever its price is or was another one."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from apportion.core.units import NS_PER_HOUR

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from apportion.cost.repricing.rates import PricePeriod, Rates


_EVER_NS: Final = 1 << 63


class Run(NamedTuple):
    """Settled time at one rate (0: none), without a gap."""

    start_ns: int
    end_ns: int
    rate: int


class Change(NamedTuple):
    """From one rate (0: none) to another."""

    from_rate: int
    to_rate: int


class Repricing(NamedTuple):
    """A device's time [start_ns, end_ns) at another price; `units` is what it costs more."""

    device: int
    start_ns: int
    end_ns: int
    change: Change
    units: int


@dataclass(slots=True)
class DeviceHour:
    """What the ledger says of a device's hour: `posted` in the order of posting."""

    device: int
    hour_ns: int
    runs: list[Run] = field(default_factory=list[Run])
    posted: list[Repricing] = field(default_factory=list[Repricing])


class Slice(NamedTuple):
    """A piece of time that is alike throughout.

    It was metered at one rate, its price was changed by the same repricings, and the price table
    has one rate for it; `wanted` None: it has none.
    """

    device: int
    start_ns: int
    end_ns: int
    metered: int
    changes: tuple[Change, ...]
    wanted: int | None

    @property
    def rate(self) -> int:
        """What its time costs in the book; 0 for no rate."""
        return self.changes[-1].to_rate if self.changes else self.metered


def slices(hour: DeviceHour, periods: Sequence[PricePeriod]) -> list[Slice]:
    """The device's settled time in order; together exactly the runs of `hour`.

    `periods` follow one another.
    """
    end_ns = hour.hour_ns + NS_PER_HOUR
    first = bisect_right(periods, hour.hour_ns, key=lambda period: period.to_ns or _EVER_NS)
    table: list[tuple[int, int, int]] = []
    for period in periods[first:]:
        from_ns = max(period.from_ns or 0, hour.hour_ns)
        if from_ns >= end_ns:
            break
        table.append((from_ns, min(period.to_ns or _EVER_NS, end_ns), period.rate))
    edges = {
        *(edge for run in hour.runs for edge in run[:2]),
        *(edge for row in hour.posted for edge in (row.start_ns, row.end_ns)),
        *(edge for start, end, _ in table for edge in (start, end)),
    }
    found: list[Slice] = []
    for start, end in pairwise(sorted(edges)):
        metered = [run.rate for run in hour.runs if run.start_ns <= start < run.end_ns]
        if metered:
            changes = [row.change for row in hour.posted if row.start_ns <= start < row.end_ns]
            wanted = next((rate for since, until, rate in table if since <= start < until), None)
            found.append(Slice(hour.device, start, end, metered[0], tuple(changes), wanted))
    return found


def repricings(found: Iterable[Slice], rates: Rates) -> list[Repricing]:
    """What of one device's slices costs something else by the table than in the book.

    Neighbours that change alike are one.
    """
    rows: list[tuple[int, int, int, Change]] = []
    for piece in found:
        if (
            piece.wanted is None
            or not rates.differ(piece.wanted, piece.rate)
            or not rates.may_replace(piece.wanted, piece.rate)
        ):
            continue
        change = Change(piece.rate, piece.wanted)
        start_ns = piece.start_ns
        if rows and rows[-1][2:] == (start_ns, change):
            start_ns = rows.pop()[1]
        rows.append((piece.device, start_ns, piece.end_ns, change))
    return [
        Repricing(
            device,
            start_ns,
            end_ns,
            change,
            (rates.units(change.to_rate, start_ns, end_ns) or 0)
            - (rates.units(change.from_rate, start_ns, end_ns) or 0),
        )
        for device, start_ns, end_ns, change in rows
    ]

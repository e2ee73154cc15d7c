"""Who pays for each instant of a device: a sweep over exact event boundaries.

Work is a set of claims: [start, end) of one device in one category. Of the categories that
claim an instant the first wins (design, Categories); those who claim it in that category share
it by the apportioner's weights. Amounts come from the meter and the energy curve as differences
of cumulative integers, so a category's total is exact; within a category they are divided by
largest remainder. Everything here is a pure function and does not depend on the claims' order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from apportion.core.category import SETTLED, Category
from apportion.cost.rounding import largest_remainder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from apportion.cost.rounding import Tie

    Column = NDArray[np.int64]

_WEIGHT_BITS: Final = 20
"""Fixed point of a share of an instant: an hour in ns (2^42) and these fit 63 bits."""


@dataclass(frozen=True, slots=True)
class Claims:
    """Columns of equal length n, one row a claim; `tie` decides between equal remainders.

    `start_ns`, `end_ns`: int64, node time. `category`: uint8. `key`: int64, the caller's own
    index of who claims; it is not looked at here.
    """

    start_ns: Column
    end_ns: Column
    category: NDArray[np.uint8]
    key: Column

    @classmethod
    def of(cls, rows: list[tuple[int, int, Category, int]]) -> Claims:
        """From (start, end, category, key) rows."""
        table = np.array([(s, e, int(c), k) for s, e, c, k in rows], dtype=np.int64).reshape(-1, 4)
        return cls(table[:, 0], table[:, 1], table[:, 2].astype(np.uint8), table[:, 3])

    def take(self, chosen: NDArray[np.bool_] | Column) -> Claims:
        """The chosen rows."""
        return Claims(
            self.start_ns[chosen], self.end_ns[chosen], self.category[chosen], self.key[chosen]
        )

    def joined(self, other: Claims) -> Claims:
        """These rows and those of `other`."""
        return Claims(
            np.concatenate([self.start_ns, other.start_ns]),
            np.concatenate([self.end_ns, other.end_ns]),
            np.concatenate([self.category, other.category]),
            np.concatenate([self.key, other.key]),
        )


class Cumulative(Protocol):
    """A meter or an energy curve: a non-decreasing integer function of time."""

    def at_all(self, times_ns: Column) -> Column:
        """Its value at each instant."""
        ...


class Apportioner(Protocol):
    """How those who hold an instant in the same category share it."""

    @property
    def name(self) -> str:
        """Written into every line it produced as `allocation_method`."""
        ...

    def weights(self, dt_ns: Column, sharing: Column, first: Column, last: Column) -> Column:
        """One integer weight a claim, shape n.

        `dt_ns` (shape k): lengths of the elementary intervals that this category won, 0 for
        those that it did not. `sharing` (k): how many claims share each. A claim covers the
        elementary intervals `first[i]` up to but not including `last[i]`.
        """
        ...


@dataclass(frozen=True, slots=True)
class TimeShare:
    """`time-share/1`: an instant is divided evenly among those who claim it."""

    name: str = "time-share/1"

    def weights(self, dt_ns: Column, sharing: Column, first: Column, last: Column) -> Column:
        """See `Apportioner`."""
        share = (dt_ns << _WEIGHT_BITS) // np.maximum(sharing, 1)
        cumulative = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(share)])
        weights: Column = cumulative[last] - cumulative[first]
        return weights


@dataclass(frozen=True, slots=True)
class CategoryTotal:
    """What one category won of an interval."""

    device_ns: int
    units: int | None
    energy_mj: int | None


@dataclass(frozen=True, slots=True)
class Shares:
    """The outcome for one device and interval: columns over the claims, totals by category.

    Columns are int64 of shape n in the claims' order; `units` or `energy_mj` is None where the
    device has no rate or no energy source. Column sums by category equal `totals` exactly.
    """

    claims: Claims
    device_ns: Column
    units: Column | None
    energy_mj: Column | None
    totals: dict[Category, CategoryTotal]

    @property
    def some(self) -> NDArray[np.bool_]:
        """The claims that got anything at all."""
        some = self.device_ns > 0
        for amounts in (self.units, self.energy_mj):
            if amounts is not None:
                some = some | (amounts > 0)
        return some


def apportion(
    start_ns: int,
    end_ns: int,
    claims: Claims,
    *,
    meter: Cumulative | None,
    energy: Cumulative | None,
    apportioner: Apportioner,
    tie: Tie,
) -> Shares:
    """Divide [start_ns, end_ns) of one device among `claims`.

    The interval lies in one clock hour and has one rate. Claims are clipped to it, and must
    cover it: what nobody claims has to be claimed as `unattributed` by the caller.

    Raises:
        ValueError: an instant is claimed by nobody.
    """
    starts = np.clip(claims.start_ns, start_ns, end_ns)
    ends = np.clip(claims.end_ns, start_ns, end_ns)
    edges = np.unique(np.concatenate([starts, ends, np.array([start_ns, end_ns], np.int64)]))
    dt = np.diff(edges)
    first = np.searchsorted(edges, starts)
    last = np.maximum(np.searchsorted(edges, ends), first)

    count = claims.start_ns.size
    columns = {"device_ns": np.zeros(count, dtype=np.int64)}
    steps = {"device_ns": dt}
    if meter is not None:
        columns["units"], steps["units"] = np.zeros(count, np.int64), np.diff(meter.at_all(edges))
    if energy is not None:
        columns["energy_mj"] = np.zeros(count, np.int64)
        steps["energy_mj"] = np.diff(energy.at_all(edges))

    totals: dict[Category, CategoryTotal] = {}
    free = np.ones(dt.size, dtype=bool)
    for category in SETTLED:
        members = np.flatnonzero(claims.category == int(category))
        if not members.size:
            continue
        first_in, last_in = first[members], last[members]
        change = np.bincount(first_in, minlength=dt.size + 1)
        change = change - np.bincount(last_in, minlength=dt.size + 1)
        sharing = np.cumsum(change)[: dt.size]
        won = free & (sharing > 0)
        if not won.any():
            continue
        free &= ~won
        sums = {name: int(step[won].sum()) for name, step in steps.items()}
        totals[category] = CategoryTotal(
            sums["device_ns"], sums.get("units"), sums.get("energy_mj")
        )
        weights = apportioner.weights(np.where(won, dt, 0), sharing, first_in, last_in)
        paying = weights > 0
        payers = members[paying] if paying.any() else members
        shares = weights[paying] if paying.any() else weights
        for name, amount in sums.items():
            columns[name][payers] = largest_remainder(amount, shares, claims.key[payers], tie)
    if free.any():
        index = int(np.flatnonzero(free)[0])
        message = f"nobody claims [{edges[index]}, {edges[index + 1]}) of the interval"
        raise ValueError(message)
    return Shares(
        claims, columns["device_ns"], columns.get("units"), columns.get("energy_mj"), totals
    )

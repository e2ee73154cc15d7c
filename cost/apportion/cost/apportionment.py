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

WEIGHT_BITS: Final = 20
"""Fixed point of a share of an instant: an hour in ns (2^42) and these fit 63 bits."""


@dataclass(frozen=True, slots=True)
class Windows:
    """What is known of claims' needs, int64 columns beside them (`methods.occupancy`).

    A claim is in prefill from `begun_ns` to `first_token_ns` and in decode from there on, and
    needs `prefill_own` and `decode_own` of the device meanwhile (fixed point, see `own_fixed`).
    """

    begun_ns: Column
    first_token_ns: Column
    prefill_own: Column
    decode_own: Column

    def take(self, chosen: NDArray[np.bool_] | Column) -> Windows:
        """The chosen rows."""
        return Windows(
            self.begun_ns[chosen],
            self.first_token_ns[chosen],
            self.prefill_own[chosen],
            self.decode_own[chosen],
        )


@dataclass(frozen=True, slots=True)
class Claims:
    """Columns of equal length n, one row a claim; `tie` decides between equal remainders.

    `start_ns`, `end_ns`: int64, node time. `category`: uint8. `key`: int64, the caller's own
    index of who claims; it is not looked at here. `windows` is None where no needs are known.
    """

    start_ns: Column
    end_ns: Column
    category: NDArray[np.uint8]
    key: Column
    windows: Windows | None = None

    @classmethod
    def of(cls, rows: list[tuple[int, int, Category, int]]) -> Claims:
        """From (start, end, category, key) rows."""
        table = np.array([(s, e, int(c), k) for s, e, c, k in rows], dtype=np.int64).reshape(-1, 4)
        return cls(table[:, 0], table[:, 1], table[:, 2].astype(np.uint8), table[:, 3])

    def take(self, chosen: NDArray[np.bool_] | Column) -> Claims:
        """The chosen rows."""
        return Claims(
            self.start_ns[chosen],
            self.end_ns[chosen],
            self.category[chosen],
            self.key[chosen],
            None if self.windows is None else self.windows.take(chosen),
        )


class Cumulative(Protocol):
    """A meter or an energy curve: a non-decreasing integer function of time."""

    def at_all(self, times_ns: Column) -> Column:
        """Its value at each instant."""
        ...


@dataclass(frozen=True, slots=True)
class Pieces:
    """The elementary intervals of one category, and those who share them.

    `edges_ns` (shape k + 1) bound the intervals; `dt_ns` (k) are their lengths, 0 for those that
    the category did not win; `sharing` (k) is how many claims share each. Claim i of `claims`
    covers the intervals `first[i]` up to but not including `last[i]`.
    """

    edges_ns: Column
    dt_ns: Column
    sharing: Column
    first: Column
    last: Column
    claims: Claims


@dataclass(frozen=True, slots=True)
class Weights:
    """One integer weight a claim, shape n; `prefill` is the part of it before the first token.

    `prefill` is None where the method does not tell phases: then time does.
    """

    whole: Column
    prefill: Column | None = None


class Apportioner(Protocol):
    """How those who hold an instant in the same category share it."""

    def cuts(self, claims: Claims) -> Column:
        """Instants at which a claim's weight changes, beside where it starts and ends."""
        ...

    def weights(self, pieces: Pieces) -> Weights:
        """The weights of one category's claims."""
        ...


@dataclass(frozen=True, slots=True)
class TimeShare:
    """`time-share/1`: an instant is divided evenly among those who claim it."""

    def cuts(self, claims: Claims) -> Column:
        """See `Apportioner`."""
        return claims.start_ns[:0]

    def weights(self, pieces: Pieces) -> Weights:
        """See `Apportioner`."""
        share = (pieces.dt_ns << WEIGHT_BITS) // np.maximum(pieces.sharing, 1)
        cumulative = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(share)])
        return Weights(cumulative[pieces.last] - cumulative[pieces.first])


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
    prefill_ns: Column | None = None
    """Of `device_ns`, what the method gave to prefill; None where it does not tell."""

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
    cuts = np.clip(apportioner.cuts(claims), start_ns, end_ns)
    bounds = np.array([start_ns, end_ns], np.int64)
    edges = np.unique(np.concatenate([starts, ends, cuts, bounds]))
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
    prefill_ns: Column | None = None
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
        pieces = Pieces(
            edges, np.where(won, dt, 0), sharing, first_in, last_in, claims.take(members)
        )
        found = apportioner.weights(pieces)
        weights = found.whole
        paying = weights > 0
        payers = members[paying] if paying.any() else members
        shares = weights[paying] if paying.any() else weights
        for name, amount in sums.items():
            columns[name][payers] = largest_remainder(amount, shares, claims.key[payers], tie)
        if found.prefill is not None:
            if prefill_ns is None:
                prefill_ns = np.zeros(count, np.int64)
            part = found.prefill / np.maximum(weights, 1)
            prefill_ns[members] = np.rint(columns["device_ns"][members] * part).astype(np.int64)
    if free.any():
        index = int(np.flatnonzero(free)[0])
        message = f"nobody claims [{edges[index]}, {edges[index + 1]}) of the interval"
        raise ValueError(message)
    return Shares(
        claims,
        columns["device_ns"],
        columns.get("units"),
        columns.get("energy_mj"),
        totals,
        prefill_ns,
    )

"""Who pays for each instant of a device: a sweep over exact event boundaries.

Work is a set of claims: [start, end) of one device in one category. Of the categories that
claim an instant the first wins (design, Categories); those who claim it in that category share
it by the apportioner's weights. Amounts come from the meter and the energy curve as differences
of cumulative integers, so a category's total is exact; within a category they are divided by
largest remainder. Everything here is a pure function and does not depend on the claims' order.

Time and money are divided by how long each held a share of the device. Energy is divided instant
by instant in the same shares, so that whoever runs while much is used pays for it; and of it,
where the power at rest is known, that part evenly among those present (docs/methods.md, Energy).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from apportion.core.category import SETTLED, Category
from apportion.cost.distinct import distinct
from apportion.cost.rounding import largest_remainder

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from apportion.cost.energy import EnergyCurve
    from apportion.cost.rounding import Tie

    Column = NDArray[np.int64]
    Division = Callable[[Column], "Weights"]
    """Divides what each elementary interval gives (shape k, >= 0) among a category's claims."""

WEIGHT_BITS: Final = 20
"""Fixed point of a share of an instant: an hour in ns (2^42) and these fit 63 bits."""
_STEP_BITS: Final = 42


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
    """The elementary intervals of a piece of time, and the claims of one category that share them.

    `edges_ns` (shape k + 1) bound the intervals; `sharing` (k) is how many claims share each.
    Claim i of `claims` covers the intervals `first[i]` up to but not including `last[i]`.
    """

    edges_ns: Column
    sharing: Column
    first: Column
    last: Column
    claims: Claims


@dataclass(frozen=True, slots=True)
class Weights:
    """One integer weight a claim, shape n; `prefill` is the part of it before the first token.

    They sum to what was divided, times 2^`WEIGHT_BITS`, but for rounding. `prefill` is None where
    the method does not tell phases: then time does.
    """

    whole: Column
    prefill: Column | None = None


class Apportioner(Protocol):
    """How those who hold an instant in the same category share it."""

    def cuts(self, claims: Claims) -> Column:
        """Instants at which a claim's weight changes, beside where it starts and ends."""
        ...

    def division(self, pieces: Pieces) -> Division:
        """How the claims of one category divide what its intervals give: time, or energy."""
        ...


@dataclass(frozen=True, slots=True)
class TimeShare:
    """`time-share/1`: an instant is divided evenly among those who claim it."""

    def cuts(self, claims: Claims) -> Column:
        """See `Apportioner`."""
        return claims.start_ns[:0]

    def division(self, pieces: Pieces) -> Division:
        """See `Apportioner`."""
        sharing = np.maximum(pieces.sharing, 1)

        def divide(steps: Column) -> Weights:
            share = (steps << WEIGHT_BITS) // sharing
            cumulative = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(share)])
            return Weights(cumulative[pieces.last] - cumulative[pieces.first])

        return divide


_EVENLY: Final = TimeShare()


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
    energy: EnergyCurve | None,
    idle: EnergyCurve | None = None,
    apportioner: Apportioner,
    tie: Tie,
) -> Shares:
    """Divide [start_ns, end_ns) of one device among `claims`.

    The interval lies in one clock hour and has one rate. Claims are clipped to it, and must
    cover it: what nobody claims has to be claimed as `unattributed` by the caller. `idle` is
    `energy.idle_part` where the device's power at rest is known.

    Raises:
        ValueError: an instant is claimed by nobody.
    """
    starts = np.clip(claims.start_ns, start_ns, end_ns)
    ends = np.clip(claims.end_ns, start_ns, end_ns)
    cuts = np.clip(apportioner.cuts(claims), start_ns, end_ns)
    bounds = np.array([start_ns, end_ns], np.int64)
    edges = distinct(np.concatenate([starts, ends, cuts, bounds]))
    dt = np.diff(edges)
    first = np.searchsorted(edges, starts)
    last = np.maximum(np.searchsorted(edges, ends), first)

    count = claims.start_ns.size
    columns = {"device_ns": np.zeros(count, dtype=np.int64)}
    steps = {"device_ns": dt}
    if meter is not None:
        columns["units"], steps["units"] = np.zeros(count, np.int64), np.diff(meter.at_all(edges))
    idle_mj = np.zeros(dt.size, np.int64)
    if energy is not None:
        totals_mj = energy.at_all(edges)
        columns["energy_mj"], steps["energy_mj"] = np.zeros(count, np.int64), np.diff(totals_mj)
        if idle is not None:
            idle_mj = np.diff(idle.at_all(totals_mj))

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
        pieces = Pieces(edges, sharing, first_in, last_in, claims.take(members))
        divide = apportioner.division(pieces)
        found = divide(np.where(won, dt, 0))
        for name, amount in sums.items():
            weights = found.whole
            if name == "energy_mj":
                used_mj = np.where(won, steps[name], 0)
                weights = _by_energy(pieces, divide, used_mj, np.where(won, idle_mj, 0))
            paying = weights > 0
            payers = members[paying] if paying.any() else members
            shares = weights[paying] if paying.any() else weights
            columns[name][payers] = largest_remainder(amount, shares, claims.key[payers], tie)
        if found.prefill is not None:
            if prefill_ns is None:
                prefill_ns = np.zeros(count, np.int64)
            part = found.prefill / np.maximum(found.whole, 1)
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


def _by_energy(pieces: Pieces, divide: Division, used_mj: Column, idle_mj: Column) -> Column:
    """Weights of energy: `used_mj` of each interval, of which `idle_mj` are divided evenly."""
    # No device uses so much, but a counter may say anything.
    excess = max(0, int(used_mj.sum()).bit_length() - _STEP_BITS)
    used_mj, idle_mj = used_mj >> excess, idle_mj >> excess
    weights = divide(used_mj - idle_mj).whole
    if idle_mj.any():
        weights = weights + _EVENLY.division(pieces)(idle_mj).whole
    return weights

"""Columns of time, energy and money beside the work that they are for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from apportion.cost.quantity import plus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from apportion.cost.apportionment import Shares

    Column = NDArray[np.int64]


class Quantity(NamedTuple):
    """Device time, energy and money of one row or line (None: no source, no rate)."""

    device_ns: int
    energy_mj: int | None
    units: int | None

    def plus(self, other: Quantity) -> Quantity:
        """Both together."""
        return Quantity(
            self.device_ns + other.device_ns,
            plus(self.energy_mj, other.energy_mj),
            plus(self.units, other.units),
        )


@dataclass(frozen=True, slots=True)
class Amounts:
    """Columns of shape n, one row for each of `rows` of a tick's work: those that got anything.

    Rows of the work are its roots, then its spanless time; they are distinct here and ascending.
    `units` is None at no rate; `metered` tells where `energy_mj` means something. `prefill_ns` is
    the part of `device_ns` that a method gave to prefill, 0 where it does not tell.
    """

    rows: Column
    device_ns: Column
    units: Column | None
    energy_mj: Column
    metered: NDArray[np.bool_]
    prefill_ns: Column

    @classmethod
    def of(cls, rows: Column, shares: Shares) -> Amounts:
        """The `shares` of claims that are `rows` of the work."""
        some = shares.some
        if shares.energy_mj is None:
            energy_mj, metered = np.zeros_like(rows), np.zeros(rows.size, np.bool_)
        else:
            energy_mj, metered = shares.energy_mj, some
        prefill_ns = np.zeros_like(rows) if shares.prefill_ns is None else shares.prefill_ns
        whole = cls(rows, shares.device_ns, shares.units, energy_mj, metered, prefill_ns)
        return whole.take(np.flatnonzero(some)[np.argsort(rows[some])])

    @classmethod
    def of_energy(cls, row: int, energy_mj: int, *, priced: bool) -> Amounts:
        """Energy alone, of one row."""
        nothing = np.zeros(1, np.int64)
        units = nothing if priced else None
        return cls(
            nothing + row, nothing, units, nothing + energy_mj, np.ones(1, np.bool_), nothing
        )

    @classmethod
    def joined(cls, parts: Sequence[Amounts]) -> Amounts:
        """All `parts` together; they have units, or not, alike."""
        if len(parts) == 1:
            return parts[0]
        rows, place = np.unique(np.concatenate([part.rows for part in parts]), return_inverse=True)

        def summed(columns: Sequence[Column]) -> Column:
            return _sums(np.concatenate(columns), place, rows.size)

        units = [part.units for part in parts if part.units is not None]
        return cls(
            rows,
            summed([part.device_ns for part in parts]),
            summed(units) if units else None,
            summed([part.energy_mj for part in parts]),
            summed([part.metered.astype(np.int64) for part in parts]) > 0,
            summed([part.prefill_ns for part in parts]),
        )

    def take(self, chosen: NDArray[np.bool_] | Column) -> Amounts:
        """Some of them."""
        if chosen.dtype == np.bool_ and chosen.all():
            return self
        units = None if self.units is None else self.units[chosen]
        return Amounts(
            self.rows[chosen],
            self.device_ns[chosen],
            units,
            self.energy_mj[chosen],
            self.metered[chosen],
            self.prefill_ns[chosen],
        )

    def map(self, change: Callable[[Column], Column]) -> Amounts:
        """Each column changed in the same way."""
        units = None if self.units is None else change(self.units)
        device_ns, energy_mj = change(self.device_ns), change(self.energy_mj)
        return Amounts(self.rows, device_ns, units, energy_mj, self.metered, self.prefill_ns)

    def less(self, part: Amounts) -> Amounts:
        """What is left without `part`."""
        units = None
        if self.units is not None and part.units is not None:
            units = self.units - part.units
        time_ns, energy_mj = self.device_ns - part.device_ns, self.energy_mj - part.energy_mj
        return Amounts(self.rows, time_ns, units, energy_mj, self.metered, self.prefill_ns)

    def sums(self, group: Column, size: int) -> list[Quantity]:
        """The sum of each of `size` groups; `group` (shape n) says which one a row is in."""
        time_ns, energy_mj = (
            _sums(column, group, size).tolist() for column in (self.device_ns, self.energy_mj)
        )
        metered = np.bincount(group[self.metered], minlength=size).tolist()
        units = [None] * size if self.units is None else _sums(self.units, group, size).tolist()
        columns = zip(time_ns, energy_mj, metered, units, strict=True)
        return [Quantity(ns, mj if some else None, cost) for ns, mj, some, cost in columns]


def _sums(column: Column, group: Column, size: int) -> Column:
    sums = np.zeros(size, np.int64)
    np.add.at(sums, group, column)
    return sums

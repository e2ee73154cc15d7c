"""Columns of time, energy and money beside the work that they are for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from apportion.cost.quantity import plus

if TYPE_CHECKING:
    from collections.abc import Callable

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


@dataclass(slots=True)
class Amounts:
    """Columns of shape n over the tick's work: roots first, then spanless time.

    `units` is None at no rate; `metered` tells where `energy_mj` means something. `prefill_ns` is
    the part of `device_ns` that a method gave to prefill, 0 where it does not tell.
    """

    device_ns: Column
    units: Column | None
    energy_mj: Column
    metered: NDArray[np.bool_]
    prefill_ns: Column

    @classmethod
    def zeros(cls, size: int, *, priced: bool) -> Amounts:
        """Nothing yet, for `size` rows."""
        return cls(
            np.zeros(size, np.int64),
            np.zeros(size, np.int64) if priced else None,
            np.zeros(size, np.int64),
            np.zeros(size, np.bool_),
            np.zeros(size, np.int64),
        )

    @property
    def some(self) -> NDArray[np.bool_]:
        """The rows that have any amount: a unit can fall to one whose time rounds to nothing."""
        some = (self.device_ns > 0) | (self.energy_mj > 0)
        return some if self.units is None else some | (self.units > 0)

    def take(self, rows: NDArray[np.bool_] | Column) -> Amounts:
        """The amounts of some rows."""
        units = None if self.units is None else self.units[rows]
        return Amounts(
            self.device_ns[rows],
            units,
            self.energy_mj[rows],
            self.metered[rows],
            self.prefill_ns[rows],
        )

    def map(self, change: Callable[[Column], Column]) -> Amounts:
        """Each column changed in the same way."""
        units = None if self.units is None else change(self.units)
        device_ns, energy_mj = change(self.device_ns), change(self.energy_mj)
        return Amounts(device_ns, units, energy_mj, self.metered, self.prefill_ns)

    def less(self, part: Amounts) -> Amounts:
        """What is left without `part`."""
        units = None
        if self.units is not None and part.units is not None:
            units = self.units - part.units
        time_ns, energy_mj = self.device_ns - part.device_ns, self.energy_mj - part.energy_mj
        return Amounts(time_ns, units, energy_mj, self.metered, self.prefill_ns)

    def plus(self, other: Amounts) -> Amounts:
        """Both together; they have units, or not, alike."""
        units = None
        if self.units is not None and other.units is not None:
            units = self.units + other.units
        time_ns, energy_mj = self.device_ns + other.device_ns, self.energy_mj + other.energy_mj
        metered, prefill_ns = self.metered | other.metered, self.prefill_ns + other.prefill_ns
        return Amounts(time_ns, units, energy_mj, metered, prefill_ns)

    def sums(self, group: Column, size: int) -> list[Quantity]:
        """The sum of each of `size` groups; `group` (shape n) says which one a row is in."""
        device_ns, energy_mj = (
            _sums(self.device_ns, group, size),
            _sums(self.energy_mj, group, size),
        )
        metered = np.bincount(group[self.metered], minlength=size).tolist()
        units = [None] * size if self.units is None else _sums(self.units, group, size)
        columns = zip(device_ns, energy_mj, metered, units, strict=True)
        return [Quantity(ns, mj if some else None, cost) for ns, mj, some, cost in columns]

    def add(self, rows: Column, shares: Shares) -> None:
        """Add `shares` of the claims that are `rows` (distinct) of the work."""
        self.device_ns[rows] += shares.device_ns
        if shares.prefill_ns is not None:
            self.prefill_ns[rows] += shares.prefill_ns
        if self.units is not None and shares.units is not None:
            self.units[rows] += shares.units
        if shares.energy_mj is not None:
            self.energy_mj[rows] += shares.energy_mj
            self.metered[rows] |= shares.some


def _sums(column: Column, group: Column, size: int) -> list[int]:
    sums = np.zeros(size, np.int64)
    np.add.at(sums, group, column)
    values: list[int] = sums.tolist()
    return values

"""A rate as the ledger has it: every fact of a row of `rate` but its key."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Final, NamedTuple

from apportion.core.units import NS_PER_HOUR

if TYPE_CHECKING:
    from apportion.cost.price_row import Rate

_SAME_DATE_NS: Final = 24 * NS_PER_HOUR
"""Dates are wall time; this far the wall clock may be set and a date is still the same one."""


class RateKey(NamedTuple):
    """`valid_*_ns` are node time, fixed when the rate was first used."""

    device_name: str
    per_hour: str
    numerator: str
    denominator: str
    currency: str
    covers: str
    basis: str
    source: str
    as_of: str
    valid_from_ns: int | None
    valid_to_ns: int | None

    @classmethod
    def of(cls, rate: Rate, valid_from_ns: int | None, valid_to_ns: int | None) -> RateKey:
        """A row of the price table, valid in node time."""
        return cls(
            rate.device_name,
            rate.per_hour,
            str(rate.units_per_hour.numerator),
            str(rate.units_per_hour.denominator),
            rate.currency,
            str(rate.covers),
            str(rate.basis),
            rate.source,
            str(rate.as_of),
            valid_from_ns,
            valid_to_ns,
        )

    @property
    def units_per_hour(self) -> Fraction:
        """The exact price of a device-hour."""
        return Fraction(int(self.numerator), int(self.denominator))

    def is_still(self, wanted: RateKey) -> bool:
        """Is this what the table's `wanted` says, whenever it began here?"""
        if self[:9] != wanted[:9] or (self.valid_to_ns is None) != (wanted.valid_to_ns is None):
            return False
        return abs((self.valid_to_ns or 0) - (wanted.valid_to_ns or 0)) <= _SAME_DATE_NS

    def moved(self, wanted: RateKey, now_ns: int) -> RateKey:
        """With the dates of `wanted` where neither date has come yet."""
        moved = self
        if _is_ahead(self.valid_from_ns, now_ns) and _is_ahead(wanted.valid_from_ns, now_ns):
            moved = moved._replace(valid_from_ns=wanted.valid_from_ns)
        if _is_ahead(self.valid_to_ns, now_ns) and _is_ahead(wanted.valid_to_ns, now_ns):
            moved = moved._replace(valid_to_ns=wanted.valid_to_ns)
        return moved

    def until(self, now_ns: int) -> RateKey:
        """As it is for a price that is no longer in the table."""
        end_ns = max(now_ns, self.valid_from_ns or now_ns)
        if self.valid_to_ns is not None and self.valid_to_ns <= end_ns:
            return self
        return self._replace(valid_to_ns=end_ns)


def _is_ahead(time_ns: int | None, now_ns: int) -> bool:
    return time_ns is not None and time_ns > now_ns

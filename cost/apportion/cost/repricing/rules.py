"""What rules of a price row add to the meter: quanta and minimums of a rental, unused commitments.

The money is nobody's: it has no device time, and no span. Like the rest of repricing this says
what should stand in the ledger; only the difference to what does is posted.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from apportion.core.category import Category
from apportion.core.interval import Interval
from apportion.core.units import NS_PER_HOUR
from apportion.cost.meter import hour_of
from apportion.cost.prices.billing import (
    AS_METERED,
    Commitment,
    billing_rounding,
    commitment_unused,
)
from apportion.cost.repricing.slices import slices

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from apportion.cost.prices.billing import PricedPiece
    from apportion.cost.repricing.rates import PricePeriod, Rates
    from apportion.cost.repricing.recorded import Device
    from apportion.cost.repricing.slices import DeviceHour

ENDED_NS: Final = NS_PER_HOUR
"""A rental is taken to be over when its device has not been settled for so long."""


class RulePiece(NamedTuple):
    """Where an amount by a rule stands: beside a device, within one clock hour, at a rate."""

    device: int
    category: Category
    rate: int
    start_ns: int
    end_ns: int


class RuleAmount(NamedTuple):
    """Units, and of how many devices' time over the piece at most."""

    devices: int = 0
    units: int = 0


Amounts = dict[RulePiece, RuleAmount]


class PriceRules:
    """The rules of the rows that hold for some devices, and what they come to.

    `hours` are all hours of the period that are settled, with what is re-priced now, by device;
    `left` of them, (hour, device), are not at the table's prices yet.
    """

    def __init__(
        self,
        devices: Mapping[int, Device],
        periods: Mapping[int, Sequence[PricePeriod]],
        rates: Rates,
        hours: Mapping[int, Mapping[int, DeviceHour]],
        left: set[tuple[int, int]],
    ) -> None:
        self._devices, self._periods, self._rates = devices, periods, rates
        self._hours, self._left = hours, left

    def differences(self, known: Amounts, now_ns: int) -> Amounts:
        """What has to be added to what is `known` in the ledger.

        Only rentals that end in the period and commitments of its hours are decided anew.
        """
        wanted = {piece: amount for piece, amount in known.items() if not self._decides(piece)}
        for key, device in self._devices.items():
            if self._ends_inside(device.settled):
                wanted |= self._rounding(key, device.settled, now_ns)
        for name in {device.name for device in self._devices.values()}:
            wanted |= self._unused(self._named(name))
        found: Amounts = {}
        for piece in sorted({*wanted, *known}):
            one, other = wanted.get(piece, RuleAmount()), known.get(piece, RuleAmount())
            if one != other:
                found[piece] = RuleAmount(one.devices - other.devices, one.units - other.units)
        return found

    def _decides(self, piece: RulePiece) -> bool:
        if piece.category is Category.BILLING_ROUNDING:
            return self._ends_inside(self._devices[piece.device].settled)
        alike = self._named(self._devices[piece.device].name)
        return self._is_priced(hour_of(piece.start_ns), alike)

    def _named(self, name: str) -> list[int]:
        return sorted(key for key, device in self._devices.items() if device.name == name)

    def _is_priced(self, hour_ns: int, keys: Iterable[int]) -> bool:
        """Whether an hour of the period is at the table's prices for all of some devices."""
        return hour_ns in self._hours and not any((hour_ns, key) in self._left for key in keys)

    # -- rentals -------------------------------------------------------------------------------
    def _ends_inside(self, spell: Interval) -> bool:
        return bool(spell) and hour_of(spell.end_ns - 1) in self._hours

    def _rounding(self, key: int, spell: Interval, now_ns: int) -> Amounts:
        """Of a device's rental: all that the ledger has of it, which is settled without a gap."""
        if now_ns - spell.end_ns < ENDED_NS:
            return {}
        for period in self._periods[key]:
            rule, facts = self._rates.row(period.rate).billing, self._rates.facts(period.rate)
            if period.holds(spell.end_ns - 1) and rule != AS_METERED:
                pieces = billing_rounding([spell], rule, facts.units_per_hour, facts.valid_from_ns)
                return _amounts(key, Category.BILLING_ROUNDING, period.rate, 1, pieces)
        return {}

    # -- commitments ---------------------------------------------------------------------------
    def _unused(self, keys: Sequence[int]) -> Amounts:
        """Devices of one kind draw on their commitments together."""
        spells = [self._devices[key].settled for key in keys if self._devices[key].settled]
        found: Amounts = {}
        for period in self._periods[keys[0]] if spells else ():
            row, facts = self._rates.row(period.rate), self._rates.facts(period.rate)
            if not row.committed_devices or period.from_ns is None or period.to_ns is None:
                continue
            hours = [hour_ns for hour_ns in self._hours if self._is_priced(hour_ns, keys)]
            pieces = commitment_unused(
                Commitment(
                    row.committed_devices,
                    facts.units_per_hour,
                    Interval(period.from_ns, period.to_ns),
                ),
                Interval(min(s.start_ns for s in spells), max(s.end_ns for s in spells)),
                self._metered(keys, period, hours),
            )
            posted = [piece for piece in pieces if hour_of(piece.start_ns) in hours]
            category, devices = Category.COMMITMENT_UNUSED, row.committed_devices
            found |= _amounts(keys[0], category, period.rate, devices, posted)
        return found

    def _metered(
        self, keys: Iterable[int], period: PricePeriod, hours: Iterable[int]
    ) -> Counter[int]:
        """What devices cost at the rate of a period, by hour."""
        found: Counter[int] = Counter()
        for hour_ns in hours:
            for hour in map(self._hours[hour_ns].get, keys):
                for piece in () if hour is None else slices(hour, [period]):
                    if piece.wanted == period.rate:
                        units = self._rates.units(period.rate, piece.start_ns, piece.end_ns)
                        found[hour_ns] += units or 0
        return found


def _amounts(
    device: int, category: Category, rate: int, devices: int, pieces: Iterable[PricedPiece]
) -> Amounts:
    return {
        RulePiece(device, category, rate, piece.start_ns, piece.end_ns): RuleAmount(
            devices, piece.units
        )
        for piece in pieces
    }

"""One row of a price table: the rate of a device, when and where it holds, and who says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Final

from apportion.core.units import NS_PER_HOUR, UNITS_PER_CURRENCY, UnixNs
from apportion.cost.prices.billing import AS_METERED, BillingRule
from apportion.cost.prices.mig import MIG_POLICIES

COVERS: Final = ("gpu", "gpu+host", "host")
ESTIMATE: Final = "list-estimate"
BASES: Final = (ESTIMATE, "list", "contract", "amortised")
MATCHED: Final = ("cloud", "region", "zone", "instance_type", "capacity")
"""What a row may ask of a node, beside its labels (`labels.NAME`)."""
CAPACITIES: Final = ("on-demand", "spot", "reserved", "owned")
LABEL: Final = "labels."
OLD_PRICE_DAYS: Final = 90
"""A price that was known to be right longer ago than this is to be looked up again."""
MAX_UNITS_PER_HOUR: Final = (1 << 63) - 1
"""A ledger line is at most a device-hour and must fit 64 bits."""

_NS_PER_DAY: Final = 24 * NS_PER_HOUR


@dataclass(frozen=True, slots=True)
class Rate:
    """The price of one device-hour over [valid_from_ns, valid_to_ns) of unix time.

    `units_per_hour` is exact, in 10^-12 of `currency`. `per_hour` is the same in the currency as
    a decimal string: as written, or for a share of an instance with at most twelve decimals,
    rounded for display where it has more. None for an end of validity means open.
    """

    device_name: str
    units_per_hour: Fraction
    per_hour: str
    currency: str
    covers: str
    basis: str
    source: str
    as_of: date
    valid_from_ns: UnixNs | None = None
    valid_to_ns: UnixNs | None = None
    match: tuple[tuple[str, str], ...] = ()
    """What a node must be for the row to hold there, sorted: (cloud, aws), (labels.pool, a)."""
    line: int = field(default=0, compare=False)
    """Where the row stands in its file; 0: in none."""
    billing: BillingRule = AS_METERED
    """What the provider bills for a spell of use; it is no part of the rate."""
    committed_devices: int | None = None
    """How many such devices are paid for from `valid_from_ns` to `valid_to_ns`, used or not."""
    mig_policy: str = MIG_POLICIES[0]
    """By which slices the MIG instances of such a device share its rate."""

    def of_share(self, device_name: str, share: Fraction) -> Rate:
        """The rate of `device_name`, which is that part of this row's device.

        What is committed, and what billing adds, stays with the device itself.
        """
        units = self.units_per_hour * share
        return replace(
            self,
            device_name=device_name,
            units_per_hour=units,
            per_hour=decimal_text(units / UNITS_PER_CURRENCY),
            billing=AS_METERED,
            committed_devices=None,
        )

    def age_days(self, unix_ns: int) -> int:
        """Since when the price was known to be right, at that time; negative for a date to come."""
        today = date(1970, 1, 1) + timedelta(days=unix_ns // _NS_PER_DAY)
        return (today - self.as_of).days

    def for_share(self, share: Fraction) -> Rate:
        """The price of that part of a device; `per_hour` goes on to say what all of it costs."""
        return replace(self, units_per_hour=self.units_per_hour * share)

    def holds_on(self, placement: Mapping[str, str]) -> bool:
        """Whether a node that is placed so is one that the row asks for."""
        return all(placement.get(name) == value for name, value in self.match)

    def may_meet(self, other: Rate) -> bool:
        """Whether some node could be one that both ask for."""
        theirs = dict(other.match)
        return all(theirs.get(name, value) == value for name, value in self.match)

    def holds_at(self, unix_ns: int) -> bool:
        """Whether `unix_ns` is in its validity."""
        after_start = self.valid_from_ns is None or self.valid_from_ns <= unix_ns
        return after_start and (self.valid_to_ns is None or unix_ns < self.valid_to_ns)


def decimal_text(amount: Fraction) -> str:
    """`amount` with at most twelve decimals, rounded half to even where it has more."""
    scaled = round(amount * UNITS_PER_CURRENCY)
    text = f"{Decimal(scaled) / UNITS_PER_CURRENCY:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text

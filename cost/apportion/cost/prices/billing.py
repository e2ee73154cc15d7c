"""What a provider bills beyond what was metered: whole quanta, minimums, commitments not used.

Pure functions over node time. Money comes from the meter's own cumulative floor R(t), so that the
metered amount and the one that is added here are together R of what is billed, to the unit. Each
piece lies within one clock hour, as a ledger line does. Its money has no device time of its own:
the device was not there, or not ours, in it.

What one device pays for is billed here. The rate of an instance with several devices is each
device's even share of it, so all of them together pay for the instance's rounding.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from apportion.core.interval import Interval
from apportion.core.units import NS_PER_HOUR
from apportion.cost.meter import Meter, hour_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from fractions import Fraction


@dataclass(frozen=True, slots=True)
class BillingRule:
    """In which quanta a provider bills a spell of use, and the least that it bills for one.

    As metered unless told otherwise. Both in nanoseconds; the granularity is 1 or more.
    """

    granularity_ns: int = 1
    minimum_ns: int = 0

    def billed_ns(self, duration_ns: int) -> int:
        """What is billed for a spell that lasted so long: never less than it lasted."""
        quanta = -(-duration_ns // self.granularity_ns)
        return max(self.minimum_ns, quanta * self.granularity_ns)


AS_METERED: Final = BillingRule()


class PricedPiece(NamedTuple):
    """[start_ns, end_ns) of one clock hour, and its money in units."""

    start_ns: int
    end_ns: int
    units: int


@dataclass(frozen=True, slots=True)
class Commitment:
    """`devices` that are paid for throughout `valid` (node time), used or not.

    `units_per_hour` is the rate of one of them.
    """

    devices: int
    units_per_hour: Fraction
    valid: Interval


def priced(
    interval: Interval, units_per_hour: Fraction, valid_from_ns: int | None
) -> tuple[PricedPiece, ...]:
    """What a device that is metered over `interval` costs, hour by hour.

    The arguments are `Meter.within_hour`'s; the interval does not begin before `valid_from_ns`.
    """
    pieces: list[PricedPiece] = []
    for piece in interval.split_every(NS_PER_HOUR):
        meter = Meter.within_hour(units_per_hour, piece.start_ns, valid_from_ns)
        units = meter.at(piece.end_ns) - meter.at(piece.start_ns)
        pieces.append(PricedPiece(piece.start_ns, piece.end_ns, units))
    return tuple(pieces)


def units_by_hour(pieces: Iterable[PricedPiece]) -> Counter[int]:
    """The units of `pieces` by the start of their clock hour."""
    found: Counter[int] = Counter()
    for piece in pieces:
        found[hour_of(piece.start_ns)] += piece.units
    return found


def billing_rounding(
    spells: Iterable[Interval],
    rule: BillingRule,
    units_per_hour: Fraction,
    valid_from_ns: int | None,
) -> tuple[PricedPiece, ...]:
    """What a device is billed for beyond its metered `spells`, after the end of each.

    A spell is one rental as the provider counts it, from start to end, at whatever rates it was
    metered; one that still runs is for a later call. Each is billed for itself, so two short ones
    pay the minimum twice even where what they are billed for overlaps. The rounding is priced at
    the rate in force at a spell's end.
    """
    pieces: list[PricedPiece] = []
    for spell in spells:
        if spell:
            billed_until_ns = spell.start_ns + rule.billed_ns(spell.duration_ns)
            beyond = Interval(spell.end_ns, billed_until_ns)
            pieces.extend(priced(beyond, units_per_hour, valid_from_ns))
    return tuple(pieces)


def commitment_unused(
    commitment: Commitment, over: Interval, metered_units: Mapping[int, int]
) -> tuple[PricedPiece, ...]:
    """What was committed and not used, for each clock hour that lies wholly in `over`.

    `metered_units`: by the start of the clock hour, what the devices that draw on the commitment
    were metered at its rate in that hour (`units_by_hour`, or sums of the ledger). Use beyond the
    commitment in one hour makes up for nothing in another. An hour that `over` holds in part is
    left for a later call, because its use is not known yet.
    """
    first_ns, last_ns = hour_of(over.start_ns + NS_PER_HOUR - 1), hour_of(over.end_ns)
    if first_ns >= last_ns:
        return ()
    paid = commitment.valid.clip(Interval(first_ns, last_ns))
    pieces: list[PricedPiece] = []
    for piece in priced(paid, commitment.units_per_hour, commitment.valid.start_ns):
        committed = commitment.devices * piece.units
        unused = committed - metered_units.get(hour_of(piece.start_ns), 0)
        if unused > 0:
            pieces.append(piece._replace(units=unused))
    return tuple(pieces)

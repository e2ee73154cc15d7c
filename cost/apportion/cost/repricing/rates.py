"""The rates of one agent's ledger by key, and those of a price table that join them."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

from apportion.cost.ledger.rate_key import RateKey
from apportion.cost.meter import Meter
from apportion.cost.price_row import ESTIMATE
from apportion.cost.settlement.work import NO_RATE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from apportion.cost.ledger.batch import Row
    from apportion.cost.price_row import Rate


class PricePeriod(NamedTuple):
    """From when to when (node time, None: open) a device costs what the rate of that key says."""

    rate: int
    from_ns: int | None
    to_ns: int | None

    def holds(self, time_ns: int) -> bool:
        """Whether an instant is in it."""
        return (self.from_ns is None or self.from_ns <= time_ns) and (
            self.to_ns is None or time_ns < self.to_ns
        )


class Share(NamedTuple):
    """The part of a device's price that holds for it from `since_ns` on."""

    since_ns: int
    share: Fraction


class Rates:
    """Rates by key. Those that a command adds are numbered from -1 down: an agent counts up.

    A row of the table that was used before is found again by its facts, so that applying a table
    twice makes no new rate; only its end may have changed, which no amount depends on.
    """

    def __init__(self, known: Mapping[int, RateKey]) -> None:
        self._by_key = dict(known)
        self._keys = {_facts(rate): key for key, rate in known.items() if key < 0}
        self._next_key = min(known, default=0)
        self._new: set[int] = set()
        self._rows: dict[int, Rate] = {}

    def periods(
        self, rates: Iterable[Rate], shares: Sequence[Share], node_ns: Callable[[int], int]
    ) -> list[PricePeriod]:
        """What a device costs and when, by the table's `rates` for it, in order.

        `shares` are dated, oldest first; before the first of them, and without any, it is all of
        the device. `node_ns` turns unix time into node time.
        """
        parts = [Fraction(1), *(share.share for share in shares)]
        dates = [None, *(share.since_ns for share in shares), None]
        spans = list(zip(parts, dates, dates[1:], strict=False))
        found: list[PricePeriod] = []
        for rate in rates:
            edges = [
                None if unix_ns is None else node_ns(unix_ns)
                for unix_ns in (rate.valid_from_ns, rate.valid_to_ns)
            ]
            for share, since_ns, until_ns in spans:
                from_ns = max((t for t in (edges[0], since_ns) if t is not None), default=None)
                to_ns = min((t for t in (edges[1], until_ns) if t is not None), default=None)
                if from_ns is None or to_ns is None or from_ns < to_ns:
                    key = self._key(RateKey.of(rate.for_share(share), edges[0], edges[1]))
                    self._rows[key] = rate
                    found.append(PricePeriod(key, from_ns, to_ns))
        return sorted(found, key=lambda period: period.from_ns or 0)

    def may_replace(self, new: int, old: int) -> bool:
        """An estimate never replaces a price that somebody chose."""
        known = self._by_key.get(old)
        return known is None or known.basis == ESTIMATE or self._by_key[new].basis != ESTIMATE

    def differ(self, new: int, old: int) -> bool:
        """Whether they cost something else; a price that was chosen is none that was estimated."""
        known, rate = self._by_key.get(old), self._by_key[new]
        return known is None or (rate.units_per_hour, rate.basis == ESTIMATE) != (
            known.units_per_hour,
            known.basis == ESTIMATE,
        )

    def facts(self, key: int) -> RateKey:
        """What the rate of that key says."""
        return self._by_key[key]

    def row(self, key: int) -> Rate:
        """The row of the table that one of the `periods` is of."""
        return self._rows[key]

    def units(self, key: int, start_ns: int, end_ns: int) -> int | None:
        """What a device costs over [start_ns, end_ns) of one clock hour; None for no rate."""
        if key == NO_RATE:
            return None
        rate = self._by_key[key]
        meter = Meter.within_hour(rate.units_per_hour, start_ns, rate.valid_from_ns)
        return meter.at(end_ns) - meter.at(start_ns)

    def new_rows(self, used: Collection[int]) -> list[Row]:
        """Rows of `rate` for those of the `used` keys that the ledger does not have."""
        return [(key, *self._by_key[key]) for key in sorted(self._new & set(used))]

    def _key(self, rate: RateKey) -> int:
        known = self._keys.get(_facts(rate))
        if known is None:
            self._next_key = min(self._next_key, 0) - 1
            known = self._keys[_facts(rate)] = self._next_key
            self._by_key[known] = rate
            self._new.add(known)
        return known


def _facts(rate: RateKey) -> RateKey:
    return rate._replace(valid_to_ns=None)

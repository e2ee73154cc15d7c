"""The small tables of one agent: devices, groups, entities, rates, rings, and their keys."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

from apportion.agent.pipeline.interned import EntityKey, Interned, entity_rows, group_rows
from apportion.cost.rounding import stable_hash
from apportion.cost.settlement.work import RatePeriod

if TYPE_CHECKING:
    from collections.abc import Iterable

    from apportion.cost.ledger.batch import LedgerState, Row, TickBatch
    from apportion.cost.rate import Rate


class DeviceKey(NamedTuple):
    """A device as the ledger names it."""

    device: str
    name: str
    source: str
    simulated: int


class RateKey(NamedTuple):
    """A rate as the ledger has it; `valid_*_ns` are node time, fixed when it was first used."""

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

    def same_price(self, rate: Rate) -> bool:
        """Is this what `rate` says, whenever it began?"""
        return self[:9] == _facts(rate)[:9]


def _facts(rate: Rate) -> RateKey:
    return RateKey(
        rate.device_name,
        rate.per_hour,
        str(rate.units_per_hour.numerator),
        str(rate.units_per_hour.denominator),
        rate.currency,
        str(rate.covers),
        str(rate.basis),
        rate.source,
        str(rate.as_of),
        None,
        None,
    )


@dataclass(slots=True)
class Registry:
    """Keys for everything that charges refer to. `write` adds what no commit has written yet."""

    devices: Interned[DeviceKey]
    groups: Interned[tuple[int, ...]]
    entities: Interned[EntityKey]
    rings: Interned[str]
    rates: dict[int, RateKey]
    _ring_rows: list[Row] = field(default_factory=list["Row"])
    _rate_rows: dict[int, RateKey] = field(default_factory=dict[int, RateKey])
    _hashes: dict[tuple[str, int, int], int] = field(
        default_factory=dict[tuple[str, int, int], int]
    )

    @classmethod
    def of(cls, state: LedgerState) -> Registry:
        """From the rows of the ledger."""
        tables = state.tables
        return cls(
            Interned((row[0], DeviceKey(*row[1:])) for row in tables.get("device", [])),
            Interned(
                (row[0], tuple(int(key) for key in row[1].split(",")))
                for row in tables.get("device_group", [])
            ),
            Interned((row[0], EntityKey(*row[1:])) for row in tables.get("entity", [])),
            Interned((row[0], row[1]) for row in tables.get("ring", [])),
            {row[0]: RateKey(*row[1:]) for row in tables.get("rate", [])},
        )

    def note_ring(self, row: Row) -> None:
        """A row of `ring`, once."""
        self._ring_rows.append(row)

    def periods(
        self, device_name: str, rates: Iterable[Rate], now_ns: int, offset_ns: int
    ) -> list[RatePeriod]:
        """The rates of a device by that name, oldest first; `offset_ns` is wall - node time.

        What the ledger has used stays as it was. A price that replaces another one without a
        date holds from now on: what was metered is only re-priced by adjustments.
        """
        known = {key: rate for key, rate in self.rates.items() if rate.device_name == device_name}
        for rate in rates:
            if any(
                old.same_price(rate) and old.valid_to_ns == _node(rate.valid_to_ns, offset_ns)
                for old in known.values()
            ):
                continue
            from_ns = _node(rate.valid_from_ns, offset_ns)
            to_ns = _node(rate.valid_to_ns, offset_ns)
            for key, old in known.items():
                if _overlap(old, from_ns, to_ns):
                    cut_ns = max(now_ns, from_ns or now_ns)
                    from_ns = cut_ns
                    known[key] = self._rate_rows[key] = old._replace(valid_to_ns=cut_ns)
                    self.rates[key] = known[key]
            key = max(self.rates, default=0) + 1
            fresh = _facts(rate)._replace(valid_from_ns=from_ns, valid_to_ns=to_ns)
            known[key] = self.rates[key] = self._rate_rows[key] = fresh
        periods = [
            RatePeriod(
                key,
                Fraction(int(rate.numerator), int(rate.denominator)),
                rate.valid_from_ns,
                rate.valid_to_ns,
            )
            for key, rate in known.items()
        ]
        return sorted(periods, key=lambda period: (period.from_ns or 0, period.rate))

    def tie(self, ring: int, number: int, entity: int) -> int:
        """The stable hash that decides between equal remainders: by identity, never by key."""
        key = ("s", ring, number) if ring else ("e", entity, 0)
        known = self._hashes.get(key)
        if known is None:
            if ring:
                known = stable_hash(f"{self.rings.value(ring)}/{number}")
            else:
                value = self.entities.value(entity) if entity else EntityKey()
                known = stable_hash(json.dumps(value))
            if len(self._hashes) > 100_000:  # noqa: PLR2004 - a bound, not a tuning knob
                self._hashes.clear()
            self._hashes[key] = known
        return known

    def write(self, batch: TickBatch) -> None:
        """Add the rows that are new since the last commit."""
        batch.insert("device", [(key, *value) for key, value in self.devices.fresh()])
        batch.insert("device_group", group_rows(self.groups))
        batch.insert("entity", entity_rows(self.entities))
        batch.insert("ring", list(self._ring_rows))
        batch.replace("rate", [(key, *value) for key, value in self._rate_rows.items()])

    def committed(self) -> None:
        """The batch that `write` filled is in the ledger."""
        self.devices.committed()
        self.groups.committed()
        self.entities.committed()
        self.rings.committed()
        self._ring_rows.clear()
        self._rate_rows.clear()


def _node(unix_ns: int | None, offset_ns: int) -> int | None:
    return None if unix_ns is None else unix_ns - offset_ns


def _overlap(old: RateKey, from_ns: int | None, to_ns: int | None) -> bool:
    starts_before = to_ns is None or old.valid_from_ns is None or old.valid_from_ns < to_ns
    ends_after = from_ns is None or old.valid_to_ns is None or old.valid_to_ns > from_ns
    return starts_before and ends_after

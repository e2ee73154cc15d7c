"""The small tables of one agent: devices, groups, entities, rates, rings, and their keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from apportion.agent.pipeline.interned import EntityKey, Interned, entity_rows, group_rows
from apportion.cost.ledger.rate_key import RateKey
from apportion.cost.rounding import mixed_hash, stable_hash
from apportion.cost.settlement.work import NOBODY, RatePeriod

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from apportion.agent.pipeline.server_engines import ServerEngines
    from apportion.core.reading import DeviceInfo
    from apportion.cost.ledger.batch import LedgerState, Row, TickBatch
    from apportion.cost.rate import Rate
    from apportion.cost.rounding import Tie
    from apportion.cost.settlement.work import Roots, Spanless


class DeviceKey(NamedTuple):
    """A device as the ledger names it."""

    device: str
    name: str
    source: str
    simulated: int

    @classmethod
    def of(cls, info: DeviceInfo) -> DeviceKey:
        """The key of a device that was found."""
        return cls(info.device, info.name, info.source, int(info.simulated))


@dataclass(slots=True)
class Registry:
    """Keys for everything that charges refer to. `write` adds what no commit has written yet.

    Rates with keys below 0 are those of commands that re-price what was settled: the agent never
    meters by them.
    """

    devices: Interned[DeviceKey]
    groups: Interned[tuple[int, ...]]
    entities: Interned[EntityKey]
    rings: Interned[str]
    rates: dict[int, RateKey]
    _ring_rows: list[Row] = field(default_factory=list["Row"])
    _rate_rows: dict[int, RateKey] = field(default_factory=dict[int, RateKey])
    _ended: set[int] = field(default_factory=set[int])
    """Rates that this process has found to be no longer in the table."""
    _hashes: dict[int, int] = field(default_factory=dict[int, int])

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
            {row[0]: RateKey(*row[1:]) for row in tables.get("rate", []) if row[0] > 0},
        )

    def engine_groups(self, engines: ServerEngines | None, group: int) -> list[int]:
        """The group of each engine of a server that uses `group`, where they are told apart."""
        if engines is None:
            return []
        return [self.groups.key(part) for part in engines.split(self.groups.value(group))]

    def note_ring(self, row: Row) -> None:
        """A row of `ring`, once."""
        self._ring_rows.append(row)

    def periods(
        self, device_name: str, rates: Iterable[Rate], now_ns: int, offset_ns: int
    ) -> list[RatePeriod]:
        """The rates of a device by that name, oldest first; `offset_ns` is wall - node time.

        What is settled before `now_ns` stays as it was; what was metered is only re-priced by
        adjustments. So a price that replaces another one without a date holds from now on, one
        that is no longer in the table ends now, and a date that has not come yet may still move
        with the wall clock.
        """
        known = {key: rate for key, rate in self.rates.items() if rate.device_name == device_name}
        news: list[RateKey] = []
        kept: set[int] = set()
        for rate in rates:
            edges = (_node(rate.valid_from_ns, offset_ns), _node(rate.valid_to_ns, offset_ns))
            wanted = RateKey.of(rate, *edges)
            same = (key for key, old in known.items() if key not in kept and old.is_still(wanted))
            key = next(same, None)
            if key is not None:
                kept.add(key)
                self._put(key, known[key].moved(wanted, now_ns))
            elif edges[1] is None or edges[1] > now_ns:
                news.append(wanted)
        for key, old in known.items():
            if key not in kept and key not in self._ended:
                self._ended.add(key)
                self._put(key, old.until(now_ns))
        ends = [min(now_ns, self.rates[key].valid_to_ns or now_ns) for key in known.keys() - kept]
        for wanted in news:
            replaces = any(end_ns > (wanted.valid_from_ns or 0) for end_ns in ends)
            from_ns = now_ns if replaces else wanted.valid_from_ns
            self._put(max(self.rates, default=0) + 1, wanted._replace(valid_from_ns=from_ns))
        return self.used_periods(device_name)

    def used_periods(self, device_name: str) -> list[RatePeriod]:
        """The rates of a device by that name that the ledger knows, oldest first."""
        periods = [
            RatePeriod(key, rate.units_per_hour, rate.valid_from_ns, rate.valid_to_ns)
            for key, rate in self.rates.items()
            if rate.device_name == device_name
        ]
        return sorted(periods, key=lambda period: (period.from_ns or 0, period.rate))

    def _put(self, key: int, rate: RateKey) -> None:
        if self.rates.get(key) != rate:
            self.rates[key] = self._rate_rows[key] = rate

    def ties(self, roots: Roots, spanless: Sequence[Spanless]) -> Tie:
        """The stable hashes of rows of work, by identity and never by key.

        Rows are those of `roots`, then `spanless`, then time that belongs to nobody.
        """

        def tie(rows: NDArray[np.int64]) -> NDArray[np.uint64]:
            is_root = rows < roots.size
            found = np.zeros(rows.size, np.uint64)
            mine = roots[rows[is_root]]
            owners = np.where(mine["number"] > 0, mine["ring"], -mine["entity"])
            found[is_root] = mixed_hash(self._owner_hashes(owners), mine["number"])
            others = rows[~is_root] - roots.size
            entities = np.array([*(claim.entity for claim in spanless), NOBODY], np.int64)
            hashes = self._owner_hashes(-entities[np.minimum(others, len(spanless))])
            found[~is_root] = mixed_hash(hashes, np.zeros(others.size, np.int64))
            return found

        return tie

    def _owner_hashes(self, owners: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Of rings (> 0) and entities (negative, 0 is nobody)."""
        values, inverse = np.unique(owners, return_inverse=True)
        hashes = np.array([self._owner_hash(owner) for owner in values.tolist()], np.uint64)
        found: NDArray[np.uint64] = hashes[inverse]
        return found

    def _owner_hash(self, owner: int) -> int:
        known = self._hashes.get(owner)
        if known is None:
            name = self.rings.value(owner) if owner > 0 else ""
            if owner <= 0:
                name = (self.entities.value(-owner) if owner else EntityKey()).name
            known = self._hashes[owner] = stable_hash(name)
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

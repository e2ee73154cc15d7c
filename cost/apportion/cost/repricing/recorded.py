"""What repricing reads from the ledger of one agent, in one read transaction."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import func, select

from apportion.core.category import Category
from apportion.core.interval import Interval
from apportion.core.units import NS_PER_HOUR
from apportion.cost.ledger.price_tables import device_share, price_rule, repricing
from apportion.cost.ledger.rate_key import RateKey
from apportion.cost.ledger.rows import rows, stream
from apportion.cost.ledger.schema import (
    accrual,
    charge,
    device,
    device_group,
    entity,
    rate,
    ring,
    settlement,
    watermark,
)
from apportion.cost.meter import hour_of
from apportion.cost.repricing.holders import Holder, Line
from apportion.cost.repricing.rates import Share
from apportion.cost.repricing.rules import Amounts, RuleAmount, RulePiece
from apportion.cost.repricing.slices import Change, DeviceHour, Repricing, Run
from apportion.cost.settlement.work import NO_RATE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy import Connection, Table

    from apportion.cost.period import Period

_BY_RULE: Final = (int(Category.COMMITMENT_UNUSED), int(Category.BILLING_ROUNDING))
"""Categories of money beside the meter: no device time is in them, and no price divides them."""


class Device(NamedTuple):
    """A device of the ledger: what it is called, which group is it alone, how far it is settled.

    `shares` are the dated parts of its price that hold for it.
    """

    device: str
    name: str
    shares: Sequence[Share]
    group: int
    settled: Interval


@dataclass(frozen=True)
class Recorded:
    """The ledger's rows about one agent."""

    connection: Connection
    agent_id: int

    def devices(self) -> dict[int, Device]:
        """Those that are settled at all, by key."""
        shares: dict[int, list[Share]] = {}
        for key, since_ns, share in sorted(
            self._all(device_share, "device_key", "since_ns", "share")
        ):
            shares.setdefault(key, []).append(Share(since_ns, Fraction(share)))
        settled = {
            key: Interval(since_ns, settled_ns)
            for key, since_ns, settled_ns in self._all(
                watermark, "device_key", "since_ns", "settled_ns"
            )
        }
        alone = {members[0]: key for key, members in self.groups.items() if len(members) == 1}
        return {
            key: Device(name, model, shares.get(key, ()), alone.get(key, 0), settled[key])
            for key, name, model in self._all(device, "device_key", "device", "name")
            if key in settled
        }

    def rates(self) -> dict[int, RateKey]:
        """By key."""
        found = self._all(rate, "rate_key", *RateKey._fields)
        return {row[0]: RateKey(*row[1:]) for row in found}

    @cached_property
    def groups(self) -> Mapping[int, tuple[int, ...]]:
        """The device keys of each group."""
        found = self._all(device_group, "group_key", "device_keys")
        return {key: tuple(map(int, keys.split(","))) for key, keys in found}

    def by_rule(self) -> Amounts:
        """What rules of price rows came to so far."""
        found: Amounts = {}
        names = ("device_key", "category", "rate_key", "start_ns", "end_ns", "devices", "units")
        for key, category, rate_key, start_ns, end_ns, devices, units in self._all(
            price_rule, *names
        ):
            piece = RulePiece(key, Category(category), rate_key, start_ns, end_ns)
            known = found.get(piece, RuleAmount())
            found[piece] = RuleAmount(known.devices + devices, known.units + units)
        return found

    def running(self) -> set[tuple[int, int]]:
        """(hour, group) of everything that is settled and not posted yet."""
        found = self._all(accrual, "bucket_ns", "group_key")
        return {(hour_of(bucket_ns), group) for bucket_ns, group in found}

    def last_posted_ns(self) -> int:
        """When a command posted something for the last time; 0 where none ever did."""
        line, row = charge.c, repricing.c
        of_lines = select(func.max(line.posted_ns)).where(
            line.agent_id == self.agent_id, line.charge_key < 0
        )
        of_rows = select(func.max(row.posted_ns)).where(row.agent_id == self.agent_id)
        found = (self.connection.execute(query).scalar() for query in (of_lines, of_rows))
        return max(posted_ns or 0 for posted_ns in found)

    def least_line(self) -> int:
        """The lowest key of a line; commands count on from it."""
        query = select(func.min(charge.c.charge_key)).where(charge.c.agent_id == self.agent_id)
        return min(0, self.connection.execute(query).scalar() or 0)

    def hours(self, period: Period) -> dict[int, dict[int, DeviceHour]]:
        """What was settled and re-priced in the period, by hour and device."""
        found: dict[int, dict[int, DeviceHour]] = {}

        def place(key: int, start_ns: int) -> DeviceHour:
            hour_ns = hour_of(start_ns)
            by_device = found.setdefault(hour_ns, {})
            return by_device.setdefault(key, DeviceHour(key, hour_ns))

        part = settlement.c
        query = (
            select(part.device_key, part.start_ns, part.end_ns, part.rate_key)
            .where(part.agent_id == self.agent_id, period.holds(part.agent_id, part.start_ns))
            .order_by(part.device_key, part.start_ns)
        )
        for key, start_ns, end_ns, rate_key in stream(self.connection, query):
            run = Run(start_ns, end_ns, rate_key or NO_RATE)
            runs = place(key, start_ns).runs
            if runs and runs[-1][1:] == (start_ns, run.rate):
                run = run._replace(start_ns=runs.pop().start_ns)
            runs.append(run)
        for row in self._posted(period):
            place(row.device, row.start_ns).posted.append(row)
        return dict(sorted(found.items()))

    def _posted(self, period: Period) -> Iterator[Repricing]:
        row = repricing.c
        query = (
            select(
                row.device_key,
                row.start_ns,
                row.end_ns,
                row.from_rate_key,
                row.to_rate_key,
                row.units,
            )
            .where(row.agent_id == self.agent_id, period.holds(row.agent_id, row.start_ns))
            .order_by(row.posted_ns, row.device_key, row.start_ns)
        )
        for key, start_ns, end_ns, before, after, units in stream(self.connection, query):
            yield Repricing(key, start_ns, end_ns, Change(before or NO_RATE, after), units)

    def lines(self, first_ns: int, last_ns: int) -> Iterator[tuple[int, list[Line]]]:
        """(hour, its lines) for the hours of [first, last) that have any, in order."""
        line = charge.c
        hour = (line.start_ns - line.start_ns % NS_PER_HOUR).label("hour_ns")
        keys = (line.phase, line.entity_key, line.ring_key, line.number)
        query = (
            select(
                hour,
                line.kind,
                line.group_key,
                line.category,
                *(func.coalesce(key, 0) for key in (*keys, line.rate_key, line.from_rate_key)),
                line.start_ns,
                line.end_ns,
                line.device_ns,
                line.units,
                line.priced_ns,
                line.method_key,
                line.incomplete,
            )
            .where(
                line.agent_id == self.agent_id,
                line.start_ns >= first_ns,
                line.start_ns < last_ns,
                line.category.not_in(_BY_RULE),
            )
            .order_by(hour)
        )
        found = map(Line._make, stream(self.connection, query))
        for hour_ns, of_hour in groupby(found, lambda line: line.hour_ns):
            yield hour_ns, list(of_hour)

    def identity(self, holder: Holder) -> str:
        """What a holder is called wherever it is: no key of this ledger is in it."""
        who = self._rings.get(holder.ring) if holder.ring else self._entities.get(holder.entity)
        members = [self._device_names[key] for key in self.groups.get(holder.group, ())]
        return json.dumps([who, holder.number, holder.category, holder.phase, members])

    @cached_property
    def _rings(self) -> Mapping[int, str]:
        return dict(self._all(ring, "ring_key", "ring"))

    @cached_property
    def _entities(self) -> Mapping[int, Sequence[Any]]:
        names = ("workload", "run", "attempt", "tenant", "model", "owner")
        return {row[0]: row[1:] for row in self._all(entity, "entity_key", *names)}

    @cached_property
    def _device_names(self) -> Mapping[int, str]:
        return {key: found.device for key, found in self.devices().items()}

    def _all(self, table: Table, *columns: str) -> list[tuple[Any, ...]]:
        query = select(*(table.c[name] for name in columns))
        return rows(self.connection, query.where(table.c.agent_id == self.agent_id))

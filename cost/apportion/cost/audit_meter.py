"""The meter's side of the book.

Settlements follow one another, cost what the rate says, and are the sum of their parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy import select

from apportion.core.category import SETTLED
from apportion.core.units import NS_PER_HOUR
from apportion.cost.audit_deleted import Deleted
from apportion.cost.audit_finding import Checker, Finding
from apportion.cost.audit_rates import RateFacts, rate_facts
from apportion.cost.ledger.rows import rows, stream
from apportion.cost.ledger.schema import settlement, settlement_part, watermark

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy import Connection

    from apportion.cost.audit_finding import Check, Names


class _Settlement(NamedTuple):
    agent_id: int
    device: int
    start_ns: int
    end_ns: int
    rate: int | None
    units: int | None
    energy_mj: int | None


class _Part(NamedTuple):
    agent_id: int
    device: int
    start_ns: int
    category: int
    device_ns: int
    units: int | None
    energy_mj: int | None


def meter_checks(connection: Connection, names: Names) -> list[Check]:
    """Go through all settlements once, in order of device and time."""
    audit = _MeterAudit(names, rate_facts(connection), _marks(connection))
    for row, parts in _settlements(connection):
        if row is None:
            audit.orphan(parts[0])
        else:
            audit.see(row, parts)
    return audit.done()


class _MeterAudit:
    def __init__(
        self,
        names: Names,
        rates: Mapping[tuple[int, int], RateFacts],
        marks: Mapping[tuple[int, int], tuple[int, int]],
    ) -> None:
        self._names = names
        self._rates = rates
        self._marks = dict(marks)
        self._last: _Settlement | None = None
        self._contiguous = Checker(
            "contiguous",
            "each device is settled from its first instant to its watermark, once",
            "settlements",
        )
        self._metered = Checker(
            "metered", "each settlement costs what its rate says for its time", "settlements"
        )
        self._parts = Checker(
            "parts", "each settlement is the sum of its parts in time, units and mJ", "settlements"
        )

    def see(self, row: _Settlement, parts: list[_Part]) -> None:
        self._contiguous.examine(self._gap(row))
        self._metered.examine(self._wrong_units(row))
        self._parts.examine(self._wrong_sum(row, parts))
        self._last = row

    def orphan(self, part: _Part) -> None:
        self._parts.examine(
            self._finding(part, part.start_ns, "settlement of a part", "one", "none")
        )

    def done(self) -> list[Check]:
        self._close()
        for (agent_id, device), (since_ns, settled_ns) in sorted(self._marks.items()):
            if since_ns < settled_ns:
                row = _Settlement(agent_id, device, since_ns, settled_ns, None, None, None)
                self._contiguous.examine(
                    self._finding(row, settled_ns, "settlements", "from start to end", "none")
                )
        return [self._contiguous.done(), self._metered.done(), self._parts.done()]

    def _gap(self, row: _Settlement) -> Finding | None:
        if self._last is None or self._last[:2] != row[:2]:
            self._close()
            mark = self._marks.get((row.agent_id, row.device))
            if mark is None:
                return self._finding(row, row.end_ns, "watermark", "one for the device", "none")
            wanted_ns = mark[0]
        else:
            wanted_ns = self._last.end_ns
        if row.start_ns != wanted_ns:
            return self._finding(row, row.end_ns, "start", wanted_ns, row.start_ns)
        if row.end_ns < row.start_ns or row.end_ns > _hour(row.start_ns) + NS_PER_HOUR:
            return self._finding(row, row.end_ns, "end", "in the hour of its start", row.end_ns)
        return None

    def _close(self) -> None:
        """The last settlement of a device reaches its watermark."""
        if self._last is None:
            return
        mark = self._marks.pop((self._last.agent_id, self._last.device), None)
        if mark is not None and mark[1] != self._last.end_ns:
            self._contiguous.examine(
                self._finding(
                    self._last, self._last.end_ns, "watermark", self._last.end_ns, mark[1]
                )
            )
        self._last = None

    def _wrong_units(self, row: _Settlement) -> Finding | None:
        if not row.rate:
            if row.units is None:
                return None
            return self._finding(row, row.end_ns, "units without a rate", "NULL", row.units)
        known = self._rates.get((row.agent_id, row.rate))
        if known is None:
            return self._finding(row, row.end_ns, f"rate {row.rate}", "a row of rate", "none")
        origin_ns = known.origin_ns(row.start_ns)
        if row.start_ns < origin_ns:
            return self._finding(
                row, row.end_ns, f"start of rate {row.rate}", f"<= {row.start_ns}", origin_ns
            )
        units = known.units(row.start_ns, row.end_ns)
        if units != row.units:
            return self._finding(row, row.end_ns, "units", units, row.units)
        return None

    def _wrong_sum(self, row: _Settlement, parts: list[_Part]) -> Finding | None:
        for part in parts:
            if part.category not in _CATEGORIES:
                allowed = f"1 to {max(_CATEGORIES)}"
                return self._finding(row, row.end_ns, "category", allowed, part.category)
        time_ns = sum(part.device_ns for part in parts)
        if time_ns != row.end_ns - row.start_ns:
            return self._finding(
                row, row.end_ns, "device_ns of its parts", row.end_ns - row.start_ns, time_ns
            )
        for name, whole, pieces in (
            ("units", row.units, [part.units for part in parts]),
            ("energy_mj", row.energy_mj, [part.energy_mj for part in parts]),
        ):
            known = [piece for piece in pieces if piece is not None]
            found = sum(known) if known else None
            if (whole or 0) != (found or 0) or (whole is None and known):
                return self._finding(row, row.end_ns, f"{name} of its parts", whole, found)
        if row.units is not None and any(part.units is None for part in parts):
            return self._finding(row, row.end_ns, "units of each part", "a number", "NULL")
        return None

    def _finding(
        self,
        row: _Settlement | _Part,
        end_ns: int,
        quantity: str,
        expected: object,
        found: object,
    ) -> Finding:
        subject = self._names.device(row.agent_id, row.device)
        node = self._names.node(row.agent_id)
        return Finding(
            node, subject, row.start_ns, end_ns, quantity, _shown(expected), _shown(found)
        )


_CATEGORIES: Final = frozenset(int(category) for category in SETTLED)


def _shown(figure: object) -> str:
    return "NULL" if figure is None else str(figure)


def _hour(time_ns: int) -> int:
    return time_ns - time_ns % NS_PER_HOUR


def _marks(connection: Connection) -> dict[tuple[int, int], tuple[int, int]]:
    query = select(
        watermark.c.agent_id,
        watermark.c.device_key,
        watermark.c.since_ns,
        watermark.c.settled_ns,
    )
    begun = Deleted(connection).settled_until(connection)
    marks: dict[tuple[int, int], tuple[int, int]] = {}
    for agent_id, device, since_ns, settled_ns in rows(connection, query):
        marks[agent_id, device] = begun.get((agent_id, device), int(since_ns)), settled_ns
    return marks


def _settlements(connection: Connection) -> Iterator[tuple[_Settlement | None, list[_Part]]]:
    """Settlements in order, each with its parts; parts without a settlement come with None."""
    whole = settlement.c
    part = settlement_part.c
    wholes = stream(
        connection,
        select(
            whole.agent_id,
            whole.device_key,
            whole.start_ns,
            whole.end_ns,
            whole.rate_key,
            whole.units,
            whole.energy_mj,
        ).order_by(whole.agent_id, whole.device_key, whole.start_ns),
    )
    pieces = stream(
        connection,
        select(
            part.agent_id,
            part.device_key,
            part.start_ns,
            part.category,
            part.device_ns,
            part.units,
            part.energy_mj,
        ).order_by(part.agent_id, part.device_key, part.start_ns),
    )
    following = next(pieces, None)
    for values in wholes:
        row = _Settlement(*values)
        while following is not None and following[:3] < row[:3]:
            yield None, [_Part(*following)]
            following = next(pieces, None)
        parts: list[_Part] = []
        while following is not None and following[:3] == row[:3]:
            parts.append(_Part(*following))
            following = next(pieces, None)
        yield row, parts
    while following is not None:
        yield None, [_Part(*following)]
        following = next(pieces, None)

"""Rows of rollup tables: how they are added up, from hours to days to weeks, and written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, bindparam, delete, insert, select

from apportion.core.units import NS_PER_HOUR
from apportion.cost.ledger.rows import rows
from apportion.cost.quantity import plus
from apportion.cost.rollups.sources import GRAINS, key_names
from apportion.cost.sums import joined, split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sqlalchemy import ColumnElement, Connection, Table

Key = tuple[Any, ...]
"""The columns of a rollup's key but for its length: agent_id, start_ns, ..."""
Values = tuple[Any, ...]
"""Its other columns, two halves as one integer."""
Rolled = dict[Key, Values]


class Grains:
    """One rollup table at all its lengths."""

    def __init__(self, table: Table) -> None:
        self.table: Final = table
        self._keys = key_names(table)
        columns = [column.name for column in table.c]
        self._values = [name for name in columns if name not in {"hours", *self._keys}]
        self.names: Final = [
            name.removesuffix("_high") for name in self._values if not name.endswith("_low")
        ]
        """The columns of `Values`."""
        self._rules: list[Callable[[Any, Any], Any]] = [
            {"first_ns": min, "last_ns": max}.get(name, plus) for name in self.names
        ]

    def read(self, connection: Connection, hours: int, *terms: ColumnElement[bool]) -> Rolled:
        """Rows of one length for which `terms` hold."""
        columns = [self.table.c[name] for name in (*self._keys, *self._values)]
        query = select(*columns).where(self.table.c.hours == hours, *terms)
        width = len(self._keys)
        return {row[:width]: self._whole(row[width:]) for row in rows(connection, query)}

    def within(
        self, connection: Connection, hours: int, agent_id: int, start_ns: int, end_ns: int
    ) -> Rolled:
        """An agent's rows of one length that start in [start_ns, end_ns)."""
        start = self.table.c.start_ns
        mine = self.table.c.agent_id == agent_id
        return self.read(connection, hours, mine, start >= start_ns, start < end_ns)

    def together(self, one: Values, other: Values) -> Values:
        """The values of two rows as one row's."""
        pairs = zip(self._rules, one, other, strict=True)
        return tuple(rule(left, right) for rule, left, right in pairs)

    def folded(self, found: Mapping[Key, Values], hours: int) -> Rolled:
        """Rows added up to a greater length."""
        length_ns = hours * NS_PER_HOUR
        whole: Rolled = {}
        for key, values in found.items():
            agent_id, start_ns, *others = key
            place = (agent_id, start_ns - start_ns % length_ns, *others)
            known = whole.get(place)
            whole[place] = values if known is None else self.together(known, values)
        return whole

    def add(self, connection: Connection, found: Mapping[Key, Values]) -> None:
        """Add rows of hours to those that are there, at every length."""
        for hours in GRAINS:
            added = self.folded(found, hours)
            known: Rolled = {}
            for agent_id, start_ns in {key[:2] for key in added}:
                known |= self.within(connection, hours, agent_id, start_ns, start_ns + 1)
            changed = {key: known[key] for key in added if key in known}
            self._remove(connection, hours, changed)
            self._insert(
                connection,
                hours,
                {
                    key: self.together(known[key], values) if key in known else values
                    for key, values in added.items()
                },
            )

    def replace(
        self, connection: Connection, agent_id: int, hour_ns: int, found: Mapping[Key, Values]
    ) -> None:
        """Write one hour's rows over those that are there, and add up what it is a part of."""
        for hours, finer in zip(GRAINS, (0, *GRAINS), strict=False):
            length_ns = hours * NS_PER_HOUR
            start_ns = hour_ns - hour_ns % length_ns
            if finer:
                inside = self.within(connection, finer, agent_id, start_ns, start_ns + length_ns)
                found = self.folded(inside, hours)
            table = self.table.c
            place = (table.hours == hours, table.agent_id == agent_id, table.start_ns == start_ns)
            connection.execute(delete(self.table).where(*place))
            self._insert(connection, hours, found)

    def _remove(self, connection: Connection, hours: int, keys: Iterable[Key]) -> None:
        gone = [dict(zip((f"k_{n}" for n in self._keys), key, strict=True)) for key in keys]
        if gone:
            same = [self.table.c[name] == bindparam(f"k_{name}") for name in self._keys]
            connection.execute(
                delete(self.table).where(and_(self.table.c.hours == hours, *same)), gone
            )

    def _insert(self, connection: Connection, hours: int, found: Mapping[Key, Values]) -> None:
        if not found:
            return
        names = ("hours", *self._keys, *self._values)
        new = [
            dict(zip(names, (hours, *key, *self._halved(values)), strict=True))
            for key, values in found.items()
        ]
        connection.execute(insert(self.table), new)

    def _whole(self, row: Values) -> Values:
        values = dict(zip(self._values, row, strict=True))
        return tuple(
            values[name]
            if name in values
            else joined(values[f"{name}_high"], values[f"{name}_low"])
            for name in self.names
        )

    def _halved(self, values: Values) -> list[Any]:
        halved: list[Any] = []
        for name, value in zip(self.names, values, strict=True):
            halved += [value] if name in self._values else split(value)
        return halved

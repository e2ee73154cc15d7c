"""What a report can be grouped by, and the names of it for the keys that rows carry.

A database groups by whole numbers, much faster than by names; names are looked up afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import select

from apportion.core.category import Category, Phase
from apportion.core.errors import LedgerError
from apportion.core.units import NS_PER_SECOND
from apportion.cost.ledger.rows import rows
from apportion.cost.ledger.schema import agent, device, device_group, entity, method, rate
from apportion.cost.report_tags import PREFIX, Tags
from apportion.cost.rollups.sources import GRAINS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection

    from apportion.cost.period import WallTime
    from apportion.cost.report_rows import Key

_COLUMN_OF: Final = {
    "cluster": "agent_id",
    "node": "agent_id",
    "workload": "entity_key",
    "run": "entity_key",
    "attempt": "entity_key",
    "tenant": "entity_key",
    "model": "entity_key",
    "base_model": "entity_key",
    "day": "start_ns",
    "hour": "start_ns",
    "category": "category",
    "phase": "phase",
    "device": "group_key",
    "rate": "rate_key",
    "method": "method_key",
}
"""By dimension the column of a rollup that decides it, beside the agent."""
NAMES: Final = (*_COLUMN_OF, f"{PREFIX}NAME")
_OF_SPANS: Final = frozenset({"agent_id", "entity_key", "start_ns"})
OF_TIME: Final = frozenset({"day", "hour"})
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Entity(NamedTuple):
    """Who a row is about. Cost of an unknown process goes under its owner's name."""

    workload: str | None = None
    run: str | None = None
    attempt: str | None = None
    tenant: str | None = None
    model: str | None = None


class Dimensions:
    """Those that one report is grouped by."""

    def __init__(self, by: Sequence[str], names: Names) -> None:
        """`by` in the order of the report's columns.

        Raises:
            LedgerError: there is no such dimension.
        """
        for name in by:
            if name not in _COLUMN_OF and not _is_tag(name):
                message = f"cannot report by {name!r}: choose from {', '.join(NAMES)}"
                raise LedgerError(message)
        self.by: Final = tuple(by)
        self._names = names
        decided_by = {name: _COLUMN_OF.get(name, "entity_key") for name in by}
        wanted = dict.fromkeys(decided_by.values())
        self.columns: Final = tuple(dict.fromkeys(("agent_id", *_ordered(wanted))))
        """The columns to group by, `agent_id` first."""
        self._lookups = [(self.columns.index(decided_by[name]), names.of(name)) for name in by]

    @property
    def of_spans(self) -> bool:
        """Can requests, steps and tokens be grouped so? A span has no one category or rate."""
        return _OF_SPANS.issuperset(self.columns)

    @property
    def grains(self) -> tuple[int, ...]:
        """The lengths of rollups that can be grouped so."""
        if "hour" in self.by:
            return GRAINS[:1]
        if "day" in self.by:
            return GRAINS[:2] if self._names.has_whole_days else GRAINS[:1]
        return GRAINS

    def timeless(self, *left_out: str) -> Dimensions:
        """The same without days and hours, and without some more."""
        gone = OF_TIME.union(left_out)
        return Dimensions([name for name in self.by if name not in gone], self._names)

    def key(self, row: Sequence[Any]) -> Key:
        """The names for a row that begins with `columns`."""
        agent_id = row[0]
        return tuple([known[agent_id, row[place]] for place, known in self._lookups])


class _Known(dict[tuple[int, int], "str | None"]):
    """Names by agent and key, each looked up once."""

    def __init__(self, look: Callable[[int, int], str | None]) -> None:
        super().__init__()
        self._look = look

    def __missing__(self, place: tuple[int, int]) -> str | None:
        found = self[place] = self._look(*place)
        return found


class Names:
    """What keys of a ledger's rows stand for."""

    def __init__(self, connection: Connection, wall: WallTime) -> None:
        self._wall, self._connection = wall, connection
        self.hints: Final[list[str]] = []
        """What to say of names that were asked for and are nobody's."""
        self._agents = {row[0]: row[1:] for row in _all(connection, agent, "cluster", "node")}
        columns = ("entity_key", *Entity._fields, "owner", "base_model")
        found = _all(connection, entity, *columns)
        self.entities: Final = {
            (row[0], row[1]): Entity(row[2] or row[7], *row[3:7]) for row in found
        }
        self._bases = {(row[0], row[1]): row[8] for row in found if row[8] is not None}
        devices = {
            (row[0], row[1]): row[2] for row in _all(connection, device, "device_key", "device")
        }
        self._groups = {
            (row[0], row[1]): "+".join(
                devices.get((row[0], int(key)), f"key {key}") for key in row[2].split(",")
            )
            for row in _all(connection, device_group, "group_key", "device_keys")
        }
        facts = ("rate_key", "device_name", "per_hour", "currency", "basis", "as_of")
        self._rates = {
            (row[0], row[1]): f"{row[2]}: {row[3]} {row[4]} per hour, {row[5]}, as of {row[6]}"
            for row in _all(connection, rate, *facts)
        }
        self._methods = dict(rows(connection, select(method.c.method_key, method.c.name)))

    @property
    def has_whole_days(self) -> bool:
        """Are every agent's days those of the wall clock?"""
        return all(self._wall.same_hours(agent_id) for agent_id in self._agents)

    def of(self, name: str) -> Mapping[tuple[int, int], str | None]:
        """The names of one dimension, by agent and by the value of the column that decides it."""
        if name == "base_model":  # a model is its own
            return _Known(
                lambda agent_id, key: (
                    self._bases.get((agent_id, key)) or self.entity(agent_id, key).model
                )
            )
        if name in Entity._fields:
            return _Known(lambda agent_id, key: getattr(self.entity(agent_id, key), name))
        if _is_tag(name):
            tags = Tags(self._connection, name.removeprefix(PREFIX))
            if tags.hint is not None and tags.hint not in self.hints:
                self.hints.append(tags.hint)
            return _Known(lambda agent_id, key: tags.of(agent_id, self.entity(agent_id, key)))
        if name in {"cluster", "node"}:
            field = ("cluster", "node").index(name)
            return _Known(lambda agent_id, _: self._agents[agent_id][field])
        if name in OF_TIME:
            form = "%Y-%m-%d" if name == "day" else "%Y-%m-%dT%H:00Z"
            return _Known(lambda agent_id, hour_ns: self._instant(agent_id, hour_ns, form))
        if name == "category":
            return _Known(lambda _, category: Category(category).label)
        if name == "phase":
            return _Known(lambda _, phase: Phase(phase).label or None)
        if name == "method":
            return _Known(lambda _, key: self._methods.get(key))
        known = self._groups if name == "device" else self._rates
        return _Known(lambda agent_id, key: known.get((agent_id, key)))

    def entity(self, agent_id: int, key: int) -> Entity:
        """Who an entity is; 0 is nobody."""
        return self.entities.get((agent_id, key), Entity())

    def _instant(self, agent_id: int, hour_ns: int, form: str) -> str:
        seconds = self._wall.hour(agent_id, hour_ns) // NS_PER_SECOND
        return (_EPOCH + timedelta(seconds=seconds)).strftime(form)


def _is_tag(name: str) -> bool:
    return name.startswith(PREFIX) and name != PREFIX


def _ordered(columns: Mapping[str, None]) -> list[str]:
    """In the order of the rollups' key, so that rows need not be sorted to be grouped."""
    order = ("start_ns", "entity_key", "category", "phase", "group_key", "rate_key", "method_key")
    return [name for name in order if name in columns]


def _all(connection: Connection, table: Any, *names: str) -> list[tuple[Any, ...]]:
    return rows(connection, select(table.c.agent_id, *(table.c[name] for name in names)))

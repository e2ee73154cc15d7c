"""What an export consists of: each dataset's columns, its rows, and the names for their keys.

lines   what was posted, line by line: cost by whom, for what, by which method
spans   requests, steps and their phases, with what they counted
meter   settlements: each device's time, and what it cost
hours   lines added up by hour, also of the time before rows are kept
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import select

from apportion.core.category import Category, Phase, SpanKind, SpanStatus
from apportion.core.units import NS_PER_HOUR
from apportion.cost.export.parquet import Column
from apportion.cost.ledger.batch import ChargeKind
from apportion.cost.ledger.rollup_tables import rollup_cost
from apportion.cost.ledger.rows import rows
from apportion.cost.ledger.schema import charge, device, device_group, rate, settlement, span
from apportion.cost.quantity import Lacks
from apportion.cost.report_dimensions import Names
from apportion.cost.rollups.reach import within
from apportion.cost.sums import joined

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection, Executable

    from apportion.cost.period import WallTime
    from apportion.cost.rollups.cover import Stretch

Row = tuple[Any, ...]
_NS_PER_US: Final = 1_000
_NO_RATE: Final = (None, None)


class Rows:
    """Turns rows of the ledger into rows of datasets."""

    def __init__(self, connection: Connection, wall: WallTime) -> None:
        self._wall, self._names = wall, Names(connection, wall)
        self._cluster, self._node = self._names.of("cluster"), self._names.of("node")
        self._groups, self._methods = self._names.of("device"), self._names.of("method")
        columns = (rate.c.agent_id, rate.c.rate_key, rate.c.per_hour, rate.c.currency)
        self._rates = {row[:2]: row[2:] for row in rows(connection, select(*columns))}
        places = (device.c.agent_id, device.c.device_key, device.c.device, device.c.simulated)
        self._devices = {row[:2]: row[2:] for row in rows(connection, select(*places))}
        groups = (device_group.c.agent_id, device_group.c.group_key, device_group.c.device_keys)
        self._simulated = {
            (agent_id, group): any(
                self._devices.get((agent_id, int(key)), ("", 0))[1] for key in keys.split(",")
            )
            for agent_id, group, keys in rows(connection, select(*groups))
        }

    def node(self, agent_id: int) -> str:
        """The agent's node."""
        return self._node[agent_id, 0] or ""

    def line(self, row: Row) -> tuple[int, Row]:
        """Of `charge`."""
        line = charge.c.keys()
        said = dict(zip(line, row, strict=True))
        agent_id, start_ns = said["agent_id"], said["start_ns"]
        return start_ns - start_ns % NS_PER_HOUR, (
            agent_id,
            said["charge_key"],
            *self._place(agent_id, said["group_key"]),
            ChargeKind(said["kind"]).name.lower(),
            Category(said["category"]).label,
            Phase(said["phase"] or 0).label or None,
            *self._names.entity(agent_id, said["entity_key"] or 0),
            said["ring_key"],
            said["number"],
            *(self._time(agent_id, said[name]) for name in ("start_ns", "end_ns", "posted_ns")),
            said["device_ns"],
            said["energy_mj"],
            said["units"],
            *self._price(agent_id, said["rate_key"]),
            self._price(agent_id, said["from_rate_key"])[1],
            self._methods[agent_id, said["method_key"]],
            said["reason"],
            bool(said["incomplete"]),
        )

    def span(self, row: Row) -> tuple[int, Row]:
        """Of `span`."""
        said = dict(zip(span.c.keys(), row, strict=True))
        agent_id, end_ns = said["agent_id"], said["end_ns"]
        return end_ns - end_ns % NS_PER_HOUR, (
            agent_id,
            said["ring_key"],
            said["number"],
            said["parent"] or None,
            self._cluster[agent_id, 0],
            self._node[agent_id, 0],
            SpanKind(said["kind"]).label,
            SpanStatus(said["status"]).label,
            Phase(said["phase"]).label or None,
            *self._names.entity(agent_id, said["entity_key"] or 0),
            said["request_id"],
            said["trace_id"],
            said["step"],
            *(self._time(agent_id, said[f"{name}_ns"]) for name in _SPAN_TIMES),
            *(said[name] for name in _SPAN_COUNTS),
        )

    def meter(self, row: Row) -> tuple[int, Row]:
        """Of `settlement`."""
        agent_id, key, start_ns, end_ns, rate_key, units, energy_mj, source, idle_mw = row
        name, simulated = self._devices.get((agent_id, key), (f"key {key}", 0))
        return start_ns - start_ns % NS_PER_HOUR, (
            agent_id,
            self._cluster[agent_id, 0],
            self._node[agent_id, 0],
            name,
            bool(simulated),
            self._time(agent_id, start_ns),
            self._time(agent_id, end_ns),
            end_ns - start_ns,
            energy_mj,
            source,
            idle_mw,
            units,
            *self._price(agent_id, rate_key),
        )

    def hour(self, row: Row) -> tuple[int, Row]:
        """Of `rollup_cost`."""
        said = dict(zip(rollup_cost.c.keys(), row, strict=True))
        agent_id = said["agent_id"]
        return said["start_ns"], (
            agent_id,
            *self._place(agent_id, said["group_key"]),
            self._time(agent_id, said["start_ns"]),
            ChargeKind(said["kind"]).name.lower(),
            Category(said["category"]).label,
            Phase(said["phase"]).label or None,
            *self._names.entity(agent_id, said["entity_key"]),
            said["lines"],
            said["device_ns"],
            said["unpriced_ns"],
            said["energy_mj"],
            joined(said["units_high"], said["units_low"]),
            *self._price(agent_id, said["rate_key"]),
            self._methods[agent_id, said["method_key"]],
            bool(said["lacks"] & Lacks.RECORDS),
        )

    def _place(self, agent_id: int, group: int) -> Row:
        return (
            self._cluster[agent_id, 0],
            self._node[agent_id, 0],
            self._groups[agent_id, group],
            self._simulated.get((agent_id, group), False),
        )

    def _price(self, agent_id: int, key: int | None) -> Row:
        per_hour, currency = self._rates.get((agent_id, key or 0), _NO_RATE)
        return currency, per_hour

    def _time(self, agent_id: int, node_ns: int | None) -> int | None:
        return None if node_ns is None else self._wall.unix(agent_id, node_ns) // _NS_PER_US


class Definition(NamedTuple):
    """One dataset. `of_rows`: of rows that retention deletes."""

    name: str
    columns: Sequence[Column]
    query: Callable[[int, Stretch], Executable]
    build: Callable[[Rows, Row], tuple[int, Row]]
    of_rows: bool = True


def _texts(*names: str) -> list[Column]:
    return [Column(name, "text") for name in names]


def _integers(*names: str) -> list[Column]:
    return [Column(name, "integer") for name in names]


def _times(*names: str) -> list[Column]:
    return [Column(f"{name}_time", "time") for name in names]


_SPAN_TIMES: Final = ("arrival", "start", "scheduled", "first_token", "end", "posted")
_SPAN_COUNTS: Final = (
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "tokens",
    "samples",
    "micro_batches",
    "preemptions",
)
_PLACE: Final = [*_texts("cluster", "node", "devices"), Column("simulated", "flag")]
_WHAT: Final = _texts("kind", "category", "phase")
_WHO: Final = _texts("workload", "run", "attempt", "tenant", "model")
_MONEY: Final = [Column("cost", "money"), *_texts("currency", "price_per_hour")]
_INCOMPLETE: Final = Column("incomplete", "flag")


def _of_agent(table: Any, instant: str) -> Callable[[int, Stretch], Executable]:
    return lambda agent_id, asked: select(table).where(
        table.c.agent_id == agent_id, within(asked, table.c[instant])
    )


def _hours(agent_id: int, asked: Stretch) -> Executable:
    row = rollup_cost.c
    mine = (row.hours == 1, row.agent_id == agent_id, within(asked, row.start_ns))
    return select(rollup_cost).where(*mine)


DATASETS: Final = (
    Definition(
        "lines",
        [
            *_integers("agent_id", "charge_key"),
            *_PLACE,
            *_WHAT,
            *_WHO,
            *_integers("ring_key", "span_number"),
            *_times("start", "end", "posted"),
            *_integers("device_ns", "energy_mj"),
            *_MONEY,
            *_texts("price_per_hour_before", "method", "reason"),
            _INCOMPLETE,
        ],
        _of_agent(charge, "start_ns"),
        Rows.line,
    ),
    Definition(
        "spans",
        [
            *_integers("agent_id", "ring_key", "number", "parent"),
            *_texts("cluster", "node", "kind", "status", "phase"),
            *_WHO,
            *_texts("request_id", "trace_id"),
            *_integers("step"),
            *_times(*_SPAN_TIMES),
            *_integers(*_SPAN_COUNTS),
        ],
        _of_agent(span, "end_ns"),
        Rows.span,
    ),
    Definition(
        "meter",
        [
            *_integers("agent_id"),
            *_texts("cluster", "node", "device"),
            Column("simulated", "flag"),
            *_times("start", "end"),
            *_integers("device_ns", "energy_mj"),
            *_texts("energy_source"),
            *_integers("idle_mw"),
            *_MONEY,
        ],
        _of_agent(settlement, "start_ns"),
        Rows.meter,
    ),
    Definition(
        "hours",
        [
            *_integers("agent_id"),
            *_PLACE,
            *_times("hour"),
            *_WHAT,
            *_WHO,
            *_integers("lines", "device_ns", "unpriced_ns", "energy_mj"),
            *_MONEY,
            *_texts("method"),
            _INCOMPLETE,
        ],
        _hours,
        Rows.hour,
        of_rows=False,
    ),
)

"""The tables of the rollups: sums of the ledger's rows by hour, day and week.

Derived data: everything in them can be made again from the rows they are sums of, as long as
those are kept. `hours` is how long a row's time is; it starts at `start_ns`, node time. Amounts
are in two halves, units = units_high * 2^32 + units_low: a day in a small currency does not fit
64 bits, and halves can be summed by any database. `lacks` is a set of `quantity.Lacks`.

    rollup_mark        how far an agent's rows are rolled up, and from when on they are kept
    rollup_meter_mark  ... and each device's settlements
    rollup_hour        what is in one hour's rollup
    rollup_cost        lines, by who caused them
    rollup_meter       settlements
    rollup_part        parts of settlements
    rollup_span        root spans that ended in that time, with what their whole life cost
    rollup_step        numbers of the steps among them: ranks of one step are one step
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, Integer, PrimaryKeyConstraint, SmallInteger, Table, Text

from apportion.cost.ledger.schema import metadata


def _place() -> list[Column[Any]]:
    return [
        Column("hours", SmallInteger, nullable=False, comment="1, 24 or 168"),
        Column("agent_id", BigInteger, nullable=False),
        Column("start_ns", BigInteger, nullable=False),
    ]


def _amounts() -> list[Column[Any]]:
    return [
        Column("device_ns", BigInteger, nullable=False),
        Column("unpriced_ns", BigInteger, nullable=False, comment="what of it has no price"),
        Column("units_high", BigInteger, comment="NULL: no rate"),
        Column("units_low", BigInteger),
        Column("energy_mj", BigInteger, comment="NULL: no energy source"),
    ]


rollup_mark = Table(
    "rollup_mark",
    metadata,
    Column("agent_id", BigInteger, nullable=False),
    Column("pieces", BigInteger, nullable=False, comment="written so far: whoever read less waits"),
    Column("first_key", BigInteger, nullable=False, comment="least charge_key that is included"),
    Column("last_key", BigInteger, nullable=False, comment="greatest; 0 and 0: none is"),
    Column("spans_until_ns", BigInteger, comment="end of the last hour of spans; NULL: none"),
    Column("seen_ns", BigInteger, comment="when the newest late span was posted that is in them"),
    Column("kept_from_ns", BigInteger, comment="rows before it were deleted; NULL: all are there"),
    Column("rolled_from_ns", BigInteger, comment="and rollups before it; NULL: all are there"),
    PrimaryKeyConstraint("agent_id"),
)

rollup_meter_mark = Table(
    "rollup_meter_mark",
    metadata,
    Column("agent_id", BigInteger, nullable=False),
    Column("device_key", Integer, nullable=False),
    Column("rolled_ns", BigInteger, nullable=False, comment="settlements that start before it"),
    PrimaryKeyConstraint("agent_id", "device_key"),
)

rollup_hour = Table(
    "rollup_hour",
    metadata,
    Column("agent_id", BigInteger, nullable=False),
    Column("start_ns", BigInteger, nullable=False),
    Column("first_key", BigInteger, nullable=False, comment="its least charge_key below 0, or 0"),
    Column("last_key", BigInteger, nullable=False, comment="its greatest above 0, or 0"),
    Column("posted_ns", BigInteger, comment="when the newest of its lines was posted"),
    Column("spans_posted_ns", BigInteger, comment="... of its spans and of their lines"),
    Column("stale", SmallInteger, nullable=False, comment="1: its spans are to be summed again"),
    PrimaryKeyConstraint("agent_id", "start_ns"),
)

rollup_cost = Table(
    "rollup_cost",
    metadata,
    *_place(),
    Column("entity_key", Integer, nullable=False, comment="0: nobody"),
    Column("category", SmallInteger, nullable=False),
    Column("lacks", SmallInteger, nullable=False),
    Column("phase", SmallInteger, nullable=False, comment="0: the rest of a span, or no span"),
    Column("kind", SmallInteger, nullable=False, comment="ChargeKind"),
    Column("group_key", Integer, nullable=False),
    Column("rate_key", Integer, nullable=False, comment="0: no rate"),
    Column("method_key", SmallInteger, nullable=False),
    Column("lines", BigInteger, nullable=False),
    *_amounts(),
    PrimaryKeyConstraint(
        "hours",
        "agent_id",
        "start_ns",
        "entity_key",
        "category",
        "lacks",
        "phase",
        "kind",
        "group_key",
        "rate_key",
        "method_key",
    ),
    sqlite_with_rowid=False,
)

rollup_meter = Table(
    "rollup_meter",
    metadata,
    *_place(),
    Column("device_key", Integer, nullable=False),
    Column("rate_key", Integer, nullable=False, comment="0: no rate"),
    Column("energy_source", Text, nullable=False, comment="empty: none"),
    Column("lacks", SmallInteger, nullable=False),
    Column("first_ns", BigInteger, nullable=False, comment="start of its first settlement"),
    Column("last_ns", BigInteger, nullable=False, comment="end of its last"),
    *_amounts(),
    PrimaryKeyConstraint(
        "hours", "agent_id", "start_ns", "device_key", "rate_key", "energy_source", "lacks"
    ),
    sqlite_with_rowid=False,
)

rollup_part = Table(
    "rollup_part",
    metadata,
    *_place(),
    Column("device_key", Integer, nullable=False),
    Column("category", SmallInteger, nullable=False),
    Column("lacks", SmallInteger, nullable=False),
    Column("group_key", Integer, nullable=False),
    *_amounts(),
    PrimaryKeyConstraint(
        "hours", "agent_id", "start_ns", "device_key", "category", "lacks", "group_key"
    ),
    sqlite_with_rowid=False,
)

rollup_span = Table(
    "rollup_span",
    metadata,
    *_place(),
    Column("entity_key", Integer, nullable=False, comment="0: nobody"),
    Column("kind", SmallInteger, nullable=False, comment="SpanKind"),
    Column("spans", BigInteger, nullable=False, comment="lost steps left out"),
    Column("uncharged", BigInteger, nullable=False, comment="took settled time, have no line"),
    Column("unnumbered", BigInteger, nullable=False, comment="steps without a number"),
    Column("unnumbered_charged", BigInteger, nullable=False),
    Column("tokens", BigInteger, comment="of steps; NULL here and below: nobody said"),
    Column("input_tokens", BigInteger),
    Column("cached_input_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("divided_input_tokens", BigInteger, comment="of requests whose cost is divided"),
    Column("divided_cached_input_tokens", BigInteger),
    Column("divided_output_tokens", BigInteger),
    Column("duration_ns", BigInteger, comment="of steps, over all ranks"),
    Column("input_units_high", BigInteger),
    Column("input_units_low", BigInteger),
    Column("units_high", BigInteger, comment="all else of requests; direct cost of steps"),
    Column("units_low", BigInteger),
    Column("unpriced_ns", BigInteger, comment="device time that the amounts leave out"),
    PrimaryKeyConstraint("hours", "agent_id", "start_ns", "entity_key", "kind"),
    sqlite_with_rowid=False,
)

rollup_step = Table(
    "rollup_step",
    metadata,
    *_place(),
    Column("entity_key", Integer, nullable=False, comment="0: nobody"),
    Column("charged", SmallInteger, nullable=False, comment="1: cost is posted to the end"),
    Column("first_step", BigInteger, nullable=False),
    Column("last_step", BigInteger, nullable=False, comment="all steps between them are there"),
    PrimaryKeyConstraint("hours", "agent_id", "start_ns", "entity_key", "charged", "first_step"),
    sqlite_with_rowid=False,
)

ROLLUP_TABLES = (
    rollup_mark,
    rollup_meter_mark,
    rollup_hour,
    rollup_cost,
    rollup_meter,
    rollup_part,
    rollup_span,
    rollup_step,
)
"""All of them."""

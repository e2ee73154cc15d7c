"""The tables of the ledger. Times are node time in nanoseconds, money 10^-12 of a currency.

Each row knows its agent, and each key is unique without coordination: an agent's id is random,
everything else counts within it. An agent numbers its lines and rates from 1 up, commands that
write beside it from -1 down, so that neither has to know of the other. Nothing that was posted is
updated in place; `accrual`, `watermark`, `ring_position`, `evidence` and `idle_power` are state,
replaced as settlement goes on.

    charge            what was posted: one line per span, device group, phase and rate,
                      or per device, category, entity and minute without a span
    settlement        one device from watermark to watermark: the meter's side of the book
    settlement_part   ... and where it went: sums of `charge` and `accrual` must equal these
    accrual           running sums of what is not posted yet
    idle_power        what each device draws at rest, as far as it was seen at rest
    span              every record read from a ring, once
    lost_work         what a restart made vain of a ring's work, posted as `lost` already

Tables of prices are in `price_tables`, those by which a ledger is shipped in `shipping_tables`.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    text,
)

from apportion.core.units import NS_PER_MINUTE

metadata = MetaData()

agent = Table(
    "agent",
    metadata,
    Column("agent_id", BigInteger, nullable=False, comment="random, 63 bits"),
    Column("cluster", Text),
    Column("node", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("created_unix_ns", BigInteger, nullable=False),
    Column("currency", Text),
    PrimaryKeyConstraint("agent_id"),
)

boot = Table(
    "boot",
    metadata,
    Column("agent_id", BigInteger, nullable=False),
    Column("boot_id", Text, nullable=False),
    Column("anchor_ns", BigInteger, nullable=False, comment="node time - monotonic"),
    Column("first_seen_ns", BigInteger, nullable=False),
    PrimaryKeyConstraint("agent_id", "boot_id"),
)

wall_offset = Table(
    "wall_offset",
    metadata,
    Column("agent_id", BigInteger, nullable=False),
    Column("since_ns", BigInteger, nullable=False, comment="node time"),
    Column("offset_ns", BigInteger, nullable=False, comment="CLOCK_REALTIME - node time"),
    PrimaryKeyConstraint("agent_id", "since_ns"),
)

device = Table(
    "device",
    metadata,
    Column("agent_id", BigInteger, nullable=False),
    Column("device_key", Integer, nullable=False),
    Column("device", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("simulated", SmallInteger, nullable=False),
    PrimaryKeyConstraint("agent_id", "device_key"),
)

device_group = Table(
    "device_group",
    metadata,
    Column("agent_id", BigInteger, nullable=False),
    Column("group_key", Integer, nullable=False),
    Column("device_keys", Text, nullable=False, comment="ordered, joined by commas"),
    PrimaryKeyConstraint("agent_id", "group_key"),
)

rate = Table(
    "rate",
    metadata,
    Column("agent_id", BigInteger, nullable=False),
    Column("rate_key", Integer, nullable=False),
    Column("device_name", Text, nullable=False),
    Column("per_hour", Text, nullable=False, comment="decimal string, money per device-hour"),
    Column("numerator", Text, nullable=False, comment="units per hour, exact fraction"),
    Column("denominator", Text, nullable=False),
    Column("currency", Text, nullable=False),
    Column("covers", Text, nullable=False),
    Column("basis", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("as_of", Text, nullable=False),
    Column("valid_from_ns", BigInteger, comment="node time; NULL: always was"),
    Column("valid_to_ns", BigInteger, comment="node time; NULL: still is"),
    PrimaryKeyConstraint("agent_id", "rate_key"),
)

entity = Table(
    "entity",
    metadata,
    Column("agent_id", BigInteger, nullable=False),
    Column("entity_key", Integer, nullable=False),
    Column("workload", Text),
    Column("run", Text),
    Column("attempt", Text),
    Column("tenant", Text),
    Column("model", Text),
    Column("owner", Text, comment="pod or process owner where no workload is known"),
    Column("base_model", Text, comment="of an adapter, which is the model; else NULL"),
    PrimaryKeyConstraint("agent_id", "entity_key"),
)

method = Table(
    "method",
    metadata,
    Column("method_key", SmallInteger, nullable=False),
    Column("name", Text, nullable=False, comment="allocation_method, e.g. time-share/1"),
    PrimaryKeyConstraint("method_key"),
)

ring = Table(
    "ring",
    metadata,
    Column("agent_id", BigInteger, nullable=False),
    Column("ring_key", Integer, nullable=False),
    Column("ring", Text, nullable=False, comment="32 hexadecimal digits"),
    Column("boot_id", Text, nullable=False),
    Column("identity", Text, nullable=False, comment="JSON: pid, uid, workload, run, rank, ..."),
    Column("attached_ns", BigInteger, nullable=False),
    Column("process_start_ns", BigInteger, comment="node time"),
    PrimaryKeyConstraint("agent_id", "ring_key"),
)

ring_position = Table(
    "ring_position",
    metadata,
    Column("agent_id", BigInteger, nullable=False),
    Column("ring_key", Integer, nullable=False),
    Column("position", Text, nullable=False, comment="JSON, see apportion.agent.ingest"),
    Column("lost", BigInteger, nullable=False),
    Column("abandoned", BigInteger, nullable=False),
    Column("ended_ns", BigInteger, comment="when its process was seen dead; NULL: lives"),
    Column("first_root_ns", BigInteger, comment="start of its first root span: end of startup"),
    Column("last_step_end_ns", BigInteger, comment="end of its last step so far"),
    Column("admits", SmallInteger, nullable=False, comment="1: its requests say scheduled()"),
    Column("closed", SmallInteger, comment="1: its process said that it ended"),
    Column("first_step", BigInteger, comment="lowest number of a step that began"),
    Column("first_step_ns", BigInteger, comment="when its first step began"),
    Column("last_step", BigInteger, comment="highest number of a step that was finished"),
    Column("last_step_ns", BigInteger, comment="when the last finished step ended"),
    Column("step_failed", SmallInteger, comment="1: the last finished step had failed"),
    Column("resumed_step", BigInteger, comment="last step of the checkpoint that was loaded"),
    Column("resumed_ns", BigInteger, comment="when it said so"),
    PrimaryKeyConstraint("agent_id", "ring_key"),
)

binding = Table(
    "binding",
    metadata,
    Column("agent_id", BigInteger, nullable=False),
    Column("ring_key", Integer, nullable=False),
    Column("since_ns", BigInteger, nullable=False),
    Column("group_key", Integer, nullable=False),
    Column("source", Text, nullable=False),
    PrimaryKeyConstraint("agent_id", "ring_key", "since_ns"),
)

lost_work = Table(
    "lost_work",
    metadata,
    Column("agent_id", BigInteger, nullable=False),
    Column("ring_key", Integer, nullable=False),
    Column("reason", Text, nullable=False, comment="rolled_back, hang"),
    Column("first_step", BigInteger, nullable=False, comment="rolled back from here on; else 0"),
    Column("until_ns", BigInteger, nullable=False, comment="what ended by then"),
    Column("posted_ns", BigInteger, nullable=False),
    PrimaryKeyConstraint("agent_id", "ring_key", "reason", "first_step", "until_ns"),
)

span = Table(
    "span",
    metadata,
    Column("agent_id", BigInteger, nullable=False),
    Column("ring_key", Integer, nullable=False),
    Column("sequence", BigInteger, nullable=False, comment="negative number: no record, lost"),
    Column("number", BigInteger, nullable=False),
    Column("parent", BigInteger, nullable=False),
    Column("kind", SmallInteger, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("phase", SmallInteger, nullable=False),
    Column("phase_clock", SmallInteger, nullable=False),
    Column("entity_key", Integer),
    Column("arrival_ns", BigInteger),
    Column("start_ns", BigInteger, nullable=False),
    Column("scheduled_ns", BigInteger),
    Column("first_token_ns", BigInteger),
    Column("end_ns", BigInteger, nullable=False),
    Column("step", BigInteger),
    Column("input_tokens", BigInteger),
    Column("cached_input_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("tokens", BigInteger),
    Column("samples", BigInteger),
    Column("micro_batches", BigInteger),
    Column("preemptions", BigInteger),
    Column("thread_id", BigInteger),
    Column("trace_id", Text),
    Column("request_id", Text),
    Column("late", SmallInteger, nullable=False),
    Column("posted_ns", BigInteger, comment="when it was committed"),
    Column("engine", Integer, comment="index in its server; NULL: not known"),
    PrimaryKeyConstraint("agent_id", "ring_key", "sequence"),
    sqlite_with_rowid=False,
)
Index("span_end", span.c.agent_id, span.c.end_ns)
LATE_NS = 15 * NS_PER_MINUTE
SPAN_IS_LATE = text(f"posted_ns - end_ns > {LATE_NS}")
"""What `span_late` has: spans that came long after they had ended."""
Index(
    "span_late",
    span.c.agent_id,
    span.c.posted_ns,
    sqlite_where=SPAN_IS_LATE,
    postgresql_where=SPAN_IS_LATE,
)

charge = Table(
    "charge",
    metadata,
    Column("agent_id", BigInteger, nullable=False),
    Column("charge_key", BigInteger, nullable=False),
    Column("kind", SmallInteger, nullable=False, comment="ChargeKind"),
    Column("group_key", Integer, nullable=False),
    Column("category", SmallInteger, nullable=False),
    Column("phase", SmallInteger, comment="NULL: the rest of the span, or no span"),
    Column("entity_key", Integer),
    Column("ring_key", Integer, comment="with number: the span; NULL: time without a span"),
    Column("number", BigInteger),
    Column("start_ns", BigInteger, nullable=False, comment="charge period, in one clock hour"),
    Column("end_ns", BigInteger, nullable=False),
    Column("posted_ns", BigInteger, nullable=False),
    Column("device_ns", BigInteger, nullable=False),
    Column("energy_mj", BigInteger, comment="NULL: no energy source"),
    Column("units", BigInteger, comment="NULL: no rate"),
    Column("rate_key", Integer),
    Column("method_key", SmallInteger, nullable=False),
    Column("reason", Text),
    Column("incomplete", SmallInteger, nullable=False),
    Column("from_rate_key", Integer, comment="of an adjustment: the rate before it, NULL: none"),
    Column(
        "priced_ns",
        BigInteger,
        comment="of an adjustment from no rate: device time that has a price by it, signed",
    ),
    PrimaryKeyConstraint("agent_id", "charge_key"),
    sqlite_with_rowid=False,
)

accrual = Table(
    "accrual",
    metadata,
    Column("agent_id", BigInteger, nullable=False),
    Column("group_key", Integer, nullable=False),
    Column("category", SmallInteger, nullable=False),
    Column("entity_key", Integer, nullable=False, comment="0: nobody"),
    Column("ring_key", Integer, nullable=False, comment="0: no span"),
    Column("number", BigInteger, nullable=False, comment="0: no span"),
    Column("bucket_ns", BigInteger, nullable=False, comment="start of the hour, or minute"),
    Column("rate_key", Integer, nullable=False, comment="0: no rate"),
    Column("reason", Text, nullable=False),
    Column("start_ns", BigInteger, nullable=False),
    Column("end_ns", BigInteger, nullable=False),
    Column("device_ns", BigInteger, nullable=False),
    Column("energy_mj", BigInteger),
    Column("units", BigInteger),
    Column("method_key", SmallInteger, nullable=False),
    Column("incomplete", SmallInteger, nullable=False),
    Column("prefill_ns", BigInteger, nullable=False, comment="of device_ns; 0: by time"),
    PrimaryKeyConstraint(
        "agent_id",
        "group_key",
        "category",
        "entity_key",
        "ring_key",
        "number",
        "bucket_ns",
        "rate_key",
        "reason",
    ),
    sqlite_with_rowid=False,
)

settlement = Table(
    "settlement",
    metadata,
    Column("agent_id", BigInteger, nullable=False),
    Column("device_key", Integer, nullable=False),
    Column("start_ns", BigInteger, nullable=False),
    Column("end_ns", BigInteger, nullable=False),
    Column("rate_key", Integer),
    Column("units", BigInteger),
    Column("energy_mj", BigInteger),
    Column("energy_source", Text),
    Column("idle_mw", BigInteger, comment="power at rest; NULL: all energy by weights"),
    PrimaryKeyConstraint("agent_id", "device_key", "start_ns"),
    sqlite_with_rowid=False,
)

settlement_part = Table(
    "settlement_part",
    metadata,
    Column("agent_id", BigInteger, nullable=False),
    Column("device_key", Integer, nullable=False),
    Column("start_ns", BigInteger, nullable=False),
    Column("category", SmallInteger, nullable=False),
    Column("group_key", Integer, nullable=False),
    Column("device_ns", BigInteger, nullable=False),
    Column("units", BigInteger),
    Column("energy_mj", BigInteger),
    PrimaryKeyConstraint("agent_id", "device_key", "start_ns", "category", "group_key"),
    sqlite_with_rowid=False,
)

watermark = Table(
    "watermark",
    metadata,
    Column("agent_id", BigInteger, nullable=False),
    Column("device_key", Integer, nullable=False),
    Column("settled_ns", BigInteger, nullable=False),
    Column("since_ns", BigInteger, nullable=False, comment="start of the first settlement"),
    Column("settled_mj", BigInteger, comment="energy total accounted for; NULL: no source"),
    Column("energy_source", Text),
    PrimaryKeyConstraint("agent_id", "device_key"),
)

idle_power = Table(
    "idle_power",
    metadata,
    Column("agent_id", BigInteger, nullable=False),
    Column("device_key", Integer, nullable=False),
    Column("state", SmallInteger, nullable=False, comment="IdleState"),
    Column("power_mw", BigInteger, comment="NULL: too few samples so far"),
    Column("samples", Text, nullable=False, comment="mW, oldest first, joined by commas"),
    PrimaryKeyConstraint("agent_id", "device_key", "state"),
)

reading = Table(
    "reading",
    metadata,
    Column("agent_id", BigInteger, nullable=False),
    Column("device_key", Integer, nullable=False),
    Column("time_ns", BigInteger, nullable=False),
    Column("values", Text, nullable=False, comment="JSON of the reading; deleted once settled"),
    PrimaryKeyConstraint("agent_id", "device_key", "time_ns"),
)

iteration = Table(
    "iteration",
    metadata,
    Column("agent_id", BigInteger, nullable=False),
    Column("ring_key", Integer, nullable=False),
    Column("sequence", BigInteger, nullable=False, comment="of the first one in its ring"),
    Column("end_ns", BigInteger, nullable=False, comment="when the last of them ended"),
    Column("values", Text, nullable=False, comment="JSON, a list a column; deleted once settled"),
    PrimaryKeyConstraint("agent_id", "ring_key", "sequence"),
)

evidence = Table(
    "evidence",
    metadata,
    Column("agent_id", BigInteger, nullable=False),
    Column("device_key", Integer, nullable=False),
    Column("start_ns", BigInteger, nullable=False),
    Column("end_ns", BigInteger, nullable=False),
    Column("category", SmallInteger, nullable=False, comment="of its time without a span"),
    Column("entity_keys", Text, nullable=False, comment="who it goes to, joined by commas"),
    Column("reason", Text, nullable=False),
    PrimaryKeyConstraint("agent_id", "device_key", "start_ns"),
    sqlite_with_rowid=False,
)

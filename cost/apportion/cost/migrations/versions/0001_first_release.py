"""The ledger as of the first release."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "accrual",
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("group_key", sa.Integer(), nullable=False),
        sa.Column("category", sa.SmallInteger(), nullable=False),
        sa.Column("entity_key", sa.Integer(), nullable=False, comment="0: nobody"),
        sa.Column("ring_key", sa.Integer(), nullable=False, comment="0: no span"),
        sa.Column("number", sa.BigInteger(), nullable=False, comment="0: no span"),
        sa.Column(
            "bucket_ns", sa.BigInteger(), nullable=False, comment="start of the hour, or minute"
        ),
        sa.Column("rate_key", sa.Integer(), nullable=False, comment="0: no rate"),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("start_ns", sa.BigInteger(), nullable=False),
        sa.Column("end_ns", sa.BigInteger(), nullable=False),
        sa.Column("device_ns", sa.BigInteger(), nullable=False),
        sa.Column("energy_mj", sa.BigInteger(), nullable=True),
        sa.Column("units", sa.BigInteger(), nullable=True),
        sa.Column("method_key", sa.SmallInteger(), nullable=False),
        sa.Column("incomplete", sa.SmallInteger(), nullable=False),
        sa.Column(
            "prefill_ns", sa.BigInteger(), nullable=False, comment="of device_ns; 0: by time"
        ),
        sa.PrimaryKeyConstraint(
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
    op.create_table(
        "agent",
        sa.Column("agent_id", sa.BigInteger(), nullable=False, comment="random, 63 bits"),
        sa.Column("cluster", sa.Text(), nullable=True),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("created_unix_ns", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("agent_id"),
    )
    op.create_table(
        "binding",
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("ring_key", sa.Integer(), nullable=False),
        sa.Column("since_ns", sa.BigInteger(), nullable=False),
        sa.Column("group_key", sa.Integer(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("agent_id", "ring_key", "since_ns"),
    )
    op.create_table(
        "boot",
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("boot_id", sa.Text(), nullable=False),
        sa.Column("anchor_ns", sa.BigInteger(), nullable=False, comment="node time - monotonic"),
        sa.Column("first_seen_ns", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("agent_id", "boot_id"),
    )
    op.create_table(
        "charge",
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("charge_key", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.SmallInteger(), nullable=False, comment="ChargeKind"),
        sa.Column("group_key", sa.Integer(), nullable=False),
        sa.Column("category", sa.SmallInteger(), nullable=False),
        sa.Column(
            "phase",
            sa.SmallInteger(),
            nullable=True,
            comment="NULL: the rest of the span, or no span",
        ),
        sa.Column("entity_key", sa.Integer(), nullable=True),
        sa.Column(
            "ring_key",
            sa.Integer(),
            nullable=True,
            comment="with number: the span; NULL: time without a span",
        ),
        sa.Column("number", sa.BigInteger(), nullable=True),
        sa.Column(
            "start_ns", sa.BigInteger(), nullable=False, comment="charge period, in one clock hour"
        ),
        sa.Column("end_ns", sa.BigInteger(), nullable=False),
        sa.Column("posted_ns", sa.BigInteger(), nullable=False),
        sa.Column("device_ns", sa.BigInteger(), nullable=False),
        sa.Column("energy_mj", sa.BigInteger(), nullable=True, comment="NULL: no energy source"),
        sa.Column("units", sa.BigInteger(), nullable=True, comment="NULL: no rate"),
        sa.Column("rate_key", sa.Integer(), nullable=True),
        sa.Column("method_key", sa.SmallInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("incomplete", sa.SmallInteger(), nullable=False),
        sa.PrimaryKeyConstraint("agent_id", "charge_key"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "device",
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("device_key", sa.Integer(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("simulated", sa.SmallInteger(), nullable=False),
        sa.PrimaryKeyConstraint("agent_id", "device_key"),
    )
    op.create_table(
        "device_group",
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("group_key", sa.Integer(), nullable=False),
        sa.Column("device_keys", sa.Text(), nullable=False, comment="ordered, joined by commas"),
        sa.PrimaryKeyConstraint("agent_id", "group_key"),
    )
    op.create_table(
        "entity",
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("entity_key", sa.Integer(), nullable=False),
        sa.Column("workload", sa.Text(), nullable=True),
        sa.Column("run", sa.Text(), nullable=True),
        sa.Column("attempt", sa.Text(), nullable=True),
        sa.Column("tenant", sa.Text(), nullable=True),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column(
            "owner",
            sa.Text(),
            nullable=True,
            comment="pod or process owner where no workload is known",
        ),
        sa.Column(
            "base_model",
            sa.Text(),
            nullable=True,
            comment="of an adapter, which is the model; else NULL",
        ),
        sa.PrimaryKeyConstraint("agent_id", "entity_key"),
    )
    op.create_table(
        "evidence",
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("device_key", sa.Integer(), nullable=False),
        sa.Column("start_ns", sa.BigInteger(), nullable=False),
        sa.Column("end_ns", sa.BigInteger(), nullable=False),
        sa.Column(
            "category", sa.SmallInteger(), nullable=False, comment="of its time without a span"
        ),
        sa.Column(
            "entity_keys", sa.Text(), nullable=False, comment="who it goes to, joined by commas"
        ),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("agent_id", "device_key", "start_ns"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "method",
        sa.Column("method_key", sa.SmallInteger(), nullable=False),
        sa.Column(
            "name", sa.Text(), nullable=False, comment="allocation_method, e.g. time-share/1"
        ),
        sa.PrimaryKeyConstraint("method_key"),
    )
    op.create_table(
        "rate",
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("rate_key", sa.Integer(), nullable=False),
        sa.Column("device_name", sa.Text(), nullable=False),
        sa.Column(
            "per_hour", sa.Text(), nullable=False, comment="decimal string, money per device-hour"
        ),
        sa.Column("numerator", sa.Text(), nullable=False, comment="units per hour, exact fraction"),
        sa.Column("denominator", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("covers", sa.Text(), nullable=False),
        sa.Column("basis", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("as_of", sa.Text(), nullable=False),
        sa.Column(
            "valid_from_ns", sa.BigInteger(), nullable=True, comment="node time; NULL: always was"
        ),
        sa.Column(
            "valid_to_ns", sa.BigInteger(), nullable=True, comment="node time; NULL: still is"
        ),
        sa.PrimaryKeyConstraint("agent_id", "rate_key"),
    )
    op.create_table(
        "reading",
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("device_key", sa.Integer(), nullable=False),
        sa.Column("time_ns", sa.BigInteger(), nullable=False),
        sa.Column(
            "values", sa.Text(), nullable=False, comment="JSON of the reading; deleted once settled"
        ),
        sa.PrimaryKeyConstraint("agent_id", "device_key", "time_ns"),
    )
    op.create_table(
        "ring",
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("ring_key", sa.Integer(), nullable=False),
        sa.Column("ring", sa.Text(), nullable=False, comment="32 hexadecimal digits"),
        sa.Column("boot_id", sa.Text(), nullable=False),
        sa.Column(
            "identity",
            sa.Text(),
            nullable=False,
            comment="JSON: pid, uid, workload, run, rank, ...",
        ),
        sa.Column("attached_ns", sa.BigInteger(), nullable=False),
        sa.Column("process_start_ns", sa.BigInteger(), nullable=True, comment="node time"),
        sa.PrimaryKeyConstraint("agent_id", "ring_key"),
    )
    op.create_table(
        "ring_position",
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("ring_key", sa.Integer(), nullable=False),
        sa.Column(
            "position", sa.Text(), nullable=False, comment="JSON, see apportion.agent.ingest"
        ),
        sa.Column("lost", sa.BigInteger(), nullable=False),
        sa.Column("abandoned", sa.BigInteger(), nullable=False),
        sa.Column(
            "ended_ns",
            sa.BigInteger(),
            nullable=True,
            comment="when its process was seen dead; NULL: lives",
        ),
        sa.Column(
            "first_root_ns",
            sa.BigInteger(),
            nullable=True,
            comment="start of its first root span: end of startup",
        ),
        sa.Column(
            "last_step_end_ns",
            sa.BigInteger(),
            nullable=True,
            comment="end of its last step so far",
        ),
        sa.Column(
            "admits", sa.SmallInteger(), nullable=False, comment="1: its requests say scheduled()"
        ),
        sa.PrimaryKeyConstraint("agent_id", "ring_key"),
    )
    op.create_table(
        "settlement",
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("device_key", sa.Integer(), nullable=False),
        sa.Column("start_ns", sa.BigInteger(), nullable=False),
        sa.Column("end_ns", sa.BigInteger(), nullable=False),
        sa.Column("rate_key", sa.Integer(), nullable=True),
        sa.Column("units", sa.BigInteger(), nullable=True),
        sa.Column("energy_mj", sa.BigInteger(), nullable=True),
        sa.Column("energy_source", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("agent_id", "device_key", "start_ns"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "settlement_part",
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("device_key", sa.Integer(), nullable=False),
        sa.Column("start_ns", sa.BigInteger(), nullable=False),
        sa.Column("category", sa.SmallInteger(), nullable=False),
        sa.Column("group_key", sa.Integer(), nullable=False),
        sa.Column("device_ns", sa.BigInteger(), nullable=False),
        sa.Column("units", sa.BigInteger(), nullable=True),
        sa.Column("energy_mj", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("agent_id", "device_key", "start_ns", "category", "group_key"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "span",
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("ring_key", sa.Integer(), nullable=False),
        sa.Column(
            "sequence", sa.BigInteger(), nullable=False, comment="negative number: no record, lost"
        ),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("parent", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("phase", sa.SmallInteger(), nullable=False),
        sa.Column("phase_clock", sa.SmallInteger(), nullable=False),
        sa.Column("entity_key", sa.Integer(), nullable=True),
        sa.Column("arrival_ns", sa.BigInteger(), nullable=True),
        sa.Column("start_ns", sa.BigInteger(), nullable=False),
        sa.Column("scheduled_ns", sa.BigInteger(), nullable=True),
        sa.Column("first_token_ns", sa.BigInteger(), nullable=True),
        sa.Column("end_ns", sa.BigInteger(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=True),
        sa.Column("input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cached_input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("output_tokens", sa.BigInteger(), nullable=True),
        sa.Column("tokens", sa.BigInteger(), nullable=True),
        sa.Column("samples", sa.BigInteger(), nullable=True),
        sa.Column("micro_batches", sa.BigInteger(), nullable=True),
        sa.Column("preemptions", sa.BigInteger(), nullable=True),
        sa.Column("thread_id", sa.BigInteger(), nullable=True),
        sa.Column("trace_id", sa.Text(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("late", sa.SmallInteger(), nullable=False),
        sa.PrimaryKeyConstraint("agent_id", "ring_key", "sequence"),
        sqlite_with_rowid=False,
    )
    op.create_index("span_end", "span", ["agent_id", "end_ns"], unique=False)
    op.create_table(
        "wall_offset",
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("since_ns", sa.BigInteger(), nullable=False, comment="node time"),
        sa.Column(
            "offset_ns", sa.BigInteger(), nullable=False, comment="CLOCK_REALTIME - node time"
        ),
        sa.PrimaryKeyConstraint("agent_id", "since_ns"),
    )
    op.create_table(
        "watermark",
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("device_key", sa.Integer(), nullable=False),
        sa.Column("settled_ns", sa.BigInteger(), nullable=False),
        sa.Column(
            "since_ns", sa.BigInteger(), nullable=False, comment="start of the first settlement"
        ),
        sa.Column(
            "settled_mj",
            sa.BigInteger(),
            nullable=True,
            comment="energy total accounted for; NULL: no source",
        ),
        sa.Column("energy_source", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("agent_id", "device_key"),
    )


def downgrade() -> None:
    op.drop_table("watermark")
    op.drop_table("wall_offset")
    op.drop_index("span_end", table_name="span")
    op.drop_table("span")
    op.drop_table("settlement_part")
    op.drop_table("settlement")
    op.drop_table("ring_position")
    op.drop_table("ring")
    op.drop_table("reading")
    op.drop_table("rate")
    op.drop_table("method")
    op.drop_table("evidence")
    op.drop_table("entity")
    op.drop_table("device_group")
    op.drop_table("device")
    op.drop_table("charge")
    op.drop_table("boot")
    op.drop_table("binding")
    op.drop_table("agent")
    op.drop_table("accrual")

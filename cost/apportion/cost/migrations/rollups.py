"""The rollups of revision 0002, a part of it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op


def add_rollups() -> None:
    """The tables, and what `span` needs so that they can be kept up."""
    op.add_column(
        "span",
        sa.Column("posted_ns", sa.BigInteger(), nullable=True, comment="when it was committed"),
    )
    op.create_index(
        "span_late",
        "span",
        ["agent_id", "posted_ns"],
        unique=False,
        sqlite_where=sa.text("posted_ns - end_ns > 900000000000"),
        postgresql_where=sa.text("posted_ns - end_ns > 900000000000"),
    )
    op.create_table(
        "rollup_cost",
        sa.Column("hours", sa.SmallInteger(), nullable=False, comment="1, 24 or 168"),
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("start_ns", sa.BigInteger(), nullable=False),
        sa.Column("entity_key", sa.Integer(), nullable=False, comment="0: nobody"),
        sa.Column("category", sa.SmallInteger(), nullable=False),
        sa.Column("lacks", sa.SmallInteger(), nullable=False),
        sa.Column(
            "phase", sa.SmallInteger(), nullable=False, comment="0: the rest of a span, or no span"
        ),
        sa.Column("kind", sa.SmallInteger(), nullable=False, comment="ChargeKind"),
        sa.Column("group_key", sa.Integer(), nullable=False),
        sa.Column("rate_key", sa.Integer(), nullable=False, comment="0: no rate"),
        sa.Column("method_key", sa.SmallInteger(), nullable=False),
        sa.Column("lines", sa.BigInteger(), nullable=False),
        sa.Column("device_ns", sa.BigInteger(), nullable=False),
        sa.Column(
            "unpriced_ns", sa.BigInteger(), nullable=False, comment="what of it has no price"
        ),
        sa.Column("units_high", sa.BigInteger(), nullable=True, comment="NULL: no rate"),
        sa.Column("units_low", sa.BigInteger(), nullable=True),
        sa.Column("energy_mj", sa.BigInteger(), nullable=True, comment="NULL: no energy source"),
        sa.PrimaryKeyConstraint(
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
    op.create_table(
        "rollup_hour",
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("start_ns", sa.BigInteger(), nullable=False),
        sa.Column(
            "first_key",
            sa.BigInteger(),
            nullable=False,
            comment="its least charge_key below 0, or 0",
        ),
        sa.Column(
            "last_key", sa.BigInteger(), nullable=False, comment="its greatest above 0, or 0"
        ),
        sa.Column(
            "posted_ns",
            sa.BigInteger(),
            nullable=True,
            comment="when the newest of its lines was posted",
        ),
        sa.Column(
            "spans_posted_ns",
            sa.BigInteger(),
            nullable=True,
            comment="... of its spans and of their lines",
        ),
        sa.Column(
            "stale",
            sa.SmallInteger(),
            nullable=False,
            comment="1: its spans are to be summed again",
        ),
        sa.PrimaryKeyConstraint("agent_id", "start_ns"),
    )
    op.create_table(
        "rollup_mark",
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "pieces",
            sa.BigInteger(),
            nullable=False,
            comment="written so far: whoever read less waits",
        ),
        sa.Column(
            "first_key",
            sa.BigInteger(),
            nullable=False,
            comment="least charge_key that is included",
        ),
        sa.Column(
            "last_key", sa.BigInteger(), nullable=False, comment="greatest; 0 and 0: none is"
        ),
        sa.Column(
            "spans_until_ns",
            sa.BigInteger(),
            nullable=True,
            comment="end of the last hour of spans; NULL: none",
        ),
        sa.Column(
            "seen_ns",
            sa.BigInteger(),
            nullable=True,
            comment="when the newest late span was posted that is in them",
        ),
        sa.Column(
            "kept_from_ns",
            sa.BigInteger(),
            nullable=True,
            comment="rows before it were deleted; NULL: all are there",
        ),
        sa.Column(
            "rolled_from_ns",
            sa.BigInteger(),
            nullable=True,
            comment="and rollups before it; NULL: all are there",
        ),
        sa.PrimaryKeyConstraint("agent_id"),
    )
    op.create_table(
        "rollup_meter",
        sa.Column("hours", sa.SmallInteger(), nullable=False, comment="1, 24 or 168"),
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("start_ns", sa.BigInteger(), nullable=False),
        sa.Column("device_key", sa.Integer(), nullable=False),
        sa.Column("rate_key", sa.Integer(), nullable=False, comment="0: no rate"),
        sa.Column("energy_source", sa.Text(), nullable=False, comment="empty: none"),
        sa.Column("lacks", sa.SmallInteger(), nullable=False),
        sa.Column(
            "first_ns", sa.BigInteger(), nullable=False, comment="start of its first settlement"
        ),
        sa.Column("last_ns", sa.BigInteger(), nullable=False, comment="end of its last"),
        sa.Column("device_ns", sa.BigInteger(), nullable=False),
        sa.Column(
            "unpriced_ns", sa.BigInteger(), nullable=False, comment="what of it has no price"
        ),
        sa.Column("units_high", sa.BigInteger(), nullable=True, comment="NULL: no rate"),
        sa.Column("units_low", sa.BigInteger(), nullable=True),
        sa.Column("energy_mj", sa.BigInteger(), nullable=True, comment="NULL: no energy source"),
        sa.PrimaryKeyConstraint(
            "hours", "agent_id", "start_ns", "device_key", "rate_key", "energy_source", "lacks"
        ),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "rollup_meter_mark",
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("device_key", sa.Integer(), nullable=False),
        sa.Column(
            "rolled_ns", sa.BigInteger(), nullable=False, comment="settlements that start before it"
        ),
        sa.PrimaryKeyConstraint("agent_id", "device_key"),
    )
    op.create_table(
        "rollup_part",
        sa.Column("hours", sa.SmallInteger(), nullable=False, comment="1, 24 or 168"),
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("start_ns", sa.BigInteger(), nullable=False),
        sa.Column("device_key", sa.Integer(), nullable=False),
        sa.Column("category", sa.SmallInteger(), nullable=False),
        sa.Column("lacks", sa.SmallInteger(), nullable=False),
        sa.Column("group_key", sa.Integer(), nullable=False),
        sa.Column("device_ns", sa.BigInteger(), nullable=False),
        sa.Column(
            "unpriced_ns", sa.BigInteger(), nullable=False, comment="what of it has no price"
        ),
        sa.Column("units_high", sa.BigInteger(), nullable=True, comment="NULL: no rate"),
        sa.Column("units_low", sa.BigInteger(), nullable=True),
        sa.Column("energy_mj", sa.BigInteger(), nullable=True, comment="NULL: no energy source"),
        sa.PrimaryKeyConstraint(
            "hours", "agent_id", "start_ns", "device_key", "category", "lacks", "group_key"
        ),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "rollup_span",
        sa.Column("hours", sa.SmallInteger(), nullable=False, comment="1, 24 or 168"),
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("start_ns", sa.BigInteger(), nullable=False),
        sa.Column("entity_key", sa.Integer(), nullable=False, comment="0: nobody"),
        sa.Column("kind", sa.SmallInteger(), nullable=False, comment="SpanKind"),
        sa.Column("spans", sa.BigInteger(), nullable=False, comment="lost steps left out"),
        sa.Column(
            "uncharged", sa.BigInteger(), nullable=False, comment="took settled time, have no line"
        ),
        sa.Column("unnumbered", sa.BigInteger(), nullable=False, comment="steps without a number"),
        sa.Column("unnumbered_charged", sa.BigInteger(), nullable=False),
        sa.Column(
            "tokens",
            sa.BigInteger(),
            nullable=True,
            comment="of steps; NULL here and below: nobody said",
        ),
        sa.Column("input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cached_input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("output_tokens", sa.BigInteger(), nullable=True),
        sa.Column(
            "divided_input_tokens",
            sa.BigInteger(),
            nullable=True,
            comment="of requests whose cost is divided",
        ),
        sa.Column("divided_cached_input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("divided_output_tokens", sa.BigInteger(), nullable=True),
        sa.Column(
            "duration_ns", sa.BigInteger(), nullable=True, comment="of steps, over all ranks"
        ),
        sa.Column("input_units_high", sa.BigInteger(), nullable=True),
        sa.Column("input_units_low", sa.BigInteger(), nullable=True),
        sa.Column(
            "units_high",
            sa.BigInteger(),
            nullable=True,
            comment="all else of requests; direct cost of steps",
        ),
        sa.Column("units_low", sa.BigInteger(), nullable=True),
        sa.Column(
            "unpriced_ns",
            sa.BigInteger(),
            nullable=True,
            comment="device time that the amounts leave out",
        ),
        sa.PrimaryKeyConstraint("hours", "agent_id", "start_ns", "entity_key", "kind"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "rollup_step",
        sa.Column("hours", sa.SmallInteger(), nullable=False, comment="1, 24 or 168"),
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("start_ns", sa.BigInteger(), nullable=False),
        sa.Column("entity_key", sa.Integer(), nullable=False, comment="0: nobody"),
        sa.Column(
            "charged", sa.SmallInteger(), nullable=False, comment="1: cost is posted to the end"
        ),
        sa.Column("first_step", sa.BigInteger(), nullable=False),
        sa.Column(
            "last_step", sa.BigInteger(), nullable=False, comment="all steps between them are there"
        ),
        sa.PrimaryKeyConstraint(
            "hours", "agent_id", "start_ns", "entity_key", "charged", "first_step"
        ),
        sqlite_with_rowid=False,
    )


def remove_rollups() -> None:
    """Remove what `add_rollups` added."""
    op.drop_table("rollup_cost")
    op.drop_table("rollup_hour")
    op.drop_table("rollup_mark")
    op.drop_table("rollup_meter")
    op.drop_table("rollup_meter_mark")
    op.drop_table("rollup_part")
    op.drop_table("rollup_span")
    op.drop_table("rollup_step")
    op.drop_index("span_late", table_name="span")
    op.drop_column("span", "posted_ns")

"""What the whole of money needs: see each table's comment in `apportion.cost.ledger.schema`."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from apportion.cost.ledger.expected_sizes import tell_sizes
from apportion.cost.migrations import rollups

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STEP_PROGRESS = (
    ("closed", sa.SmallInteger(), "1: its process said that it ended"),
    ("first_step", sa.BigInteger(), "lowest number of a step that began"),
    ("first_step_ns", sa.BigInteger(), "when its first step began"),
    ("last_step", sa.BigInteger(), "highest number of a step that was finished"),
    ("last_step_ns", sa.BigInteger(), "when the last finished step ended"),
    ("step_failed", sa.SmallInteger(), "1: the last finished step had failed"),
    ("resumed_step", sa.BigInteger(), "last step of the checkpoint that was loaded"),
    ("resumed_ns", sa.BigInteger(), "when it said so"),
)
"""Of `ring_position`: how far a process came with its steps."""


def upgrade() -> None:
    """Only adds: an agent of the first release goes on beside it."""
    op.add_column(
        "charge",
        sa.Column(
            "from_rate_key",
            sa.Integer(),
            nullable=True,
            comment="of an adjustment: the rate before it, NULL: none",
        ),
    )
    op.add_column(
        "charge",
        sa.Column(
            "priced_ns",
            sa.BigInteger(),
            nullable=True,
            comment="of an adjustment from no rate: device time that has a price by it, signed",
        ),
    )
    op.create_table(
        "iteration",
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("ring_key", sa.Integer(), nullable=False),
        sa.Column(
            "sequence", sa.BigInteger(), nullable=False, comment="of the first one in its ring"
        ),
        sa.Column("end_ns", sa.BigInteger(), nullable=False, comment="when the last of them ended"),
        sa.Column(
            "values",
            sa.Text(),
            nullable=False,
            comment="JSON, a list a column; deleted once settled",
        ),
        sa.PrimaryKeyConstraint("agent_id", "ring_key", "sequence"),
    )
    op.create_table(
        "repricing",
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("device_key", sa.Integer(), nullable=False),
        sa.Column(
            "start_ns", sa.BigInteger(), nullable=False, comment="in one clock hour with end_ns"
        ),
        sa.Column("posted_ns", sa.BigInteger(), nullable=False),
        sa.Column("end_ns", sa.BigInteger(), nullable=False),
        sa.Column(
            "from_rate_key",
            sa.Integer(),
            nullable=True,
            comment="what its time cost before; NULL: no rate",
        ),
        sa.Column("to_rate_key", sa.Integer(), nullable=False),
        sa.Column("units", sa.BigInteger(), nullable=False, comment="what it costs more, or less"),
        sa.PrimaryKeyConstraint("agent_id", "device_key", "start_ns", "posted_ns"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "price_rule",
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "device_key", sa.Integer(), nullable=False, comment="which the amount stands beside"
        ),
        sa.Column(
            "category",
            sa.SmallInteger(),
            nullable=False,
            comment="commitment_unused, billing_rounding",
        ),
        sa.Column(
            "start_ns", sa.BigInteger(), nullable=False, comment="in one clock hour with end_ns"
        ),
        sa.Column("end_ns", sa.BigInteger(), nullable=False),
        sa.Column("rate_key", sa.Integer(), nullable=False),
        sa.Column("posted_ns", sa.BigInteger(), nullable=False),
        sa.Column(
            "devices", sa.Integer(), nullable=False, comment="whose time it is at most, signed"
        ),
        sa.Column("units", sa.BigInteger(), nullable=False, comment="signed"),
        sa.PrimaryKeyConstraint(
            "agent_id", "device_key", "category", "start_ns", "end_ns", "rate_key", "posted_ns"
        ),
    )
    op.create_table(
        "device_share",
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("device_key", sa.Integer(), nullable=False),
        sa.Column("since_ns", sa.BigInteger(), nullable=False),
        sa.Column(
            "share",
            sa.Text(),
            nullable=False,
            comment="of the device's price, exact: 1/2; no row: 1",
        ),
        sa.PrimaryKeyConstraint("agent_id", "device_key", "since_ns"),
    )
    op.add_column(
        "settlement",
        sa.Column(
            "idle_mw",
            sa.BigInteger(),
            nullable=True,
            comment="power at rest; NULL: all energy by weights",
        ),
    )
    op.create_table(
        "idle_power",
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("device_key", sa.Integer(), nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False, comment="IdleState"),
        sa.Column(
            "power_mw", sa.BigInteger(), nullable=True, comment="NULL: too few samples so far"
        ),
        sa.Column(
            "samples", sa.Text(), nullable=False, comment="mW, oldest first, joined by commas"
        ),
        sa.PrimaryKeyConstraint("agent_id", "device_key", "state"),
    )
    _training()
    _shipping()
    rollups.add_rollups()
    op.add_column(
        "span",
        sa.Column(
            "engine", sa.Integer(), nullable=True, comment="index in its server; NULL: not known"
        ),
    )
    tell_sizes(op.get_bind())


def _training() -> None:
    for name, column_type, comment in STEP_PROGRESS:
        op.add_column("ring_position", sa.Column(name, column_type, comment=comment))
    op.create_table(
        "lost_work",
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("ring_key", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False, comment="rolled_back, hang"),
        sa.Column(
            "first_step",
            sa.BigInteger(),
            nullable=False,
            comment="rolled back from here on; else 0",
        ),
        sa.Column("until_ns", sa.BigInteger(), nullable=False, comment="what ended by then"),
        sa.Column("posted_ns", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("agent_id", "ring_key", "reason", "first_step", "until_ns"),
    )


def _shipping() -> None:
    op.create_table(
        "outbox",
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("commit_no", sa.BigInteger(), nullable=False),
        sa.Column("commit_id", sa.BigInteger(), nullable=False, comment="random, 63 bits"),
        sa.Column("committed_unix_ns", sa.BigInteger(), nullable=False),
        sa.Column(
            "since_ns", sa.BigInteger(), nullable=False, comment="start of its earliest posted row"
        ),
        sa.Column("payload", sa.LargeBinary(), nullable=False, comment="see ledger.shipment"),
        sa.PrimaryKeyConstraint("agent_id", "commit_no"),
    )
    op.create_table(
        "shipping",
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "most_bytes", sa.BigInteger(), comment="bound of the outbox; NULL: nothing is shipped"
        ),
        sa.Column(
            "waiting_bytes", sa.BigInteger(), nullable=False, comment="payloads in the outbox"
        ),
        sa.Column("commit_no", sa.BigInteger(), nullable=False, comment="the last commit"),
        sa.Column("commit_id", sa.BigInteger(), nullable=False),
        sa.Column("shipped_no", sa.BigInteger(), comment="the last that is known to have arrived"),
        sa.Column("shipped_id", sa.BigInteger()),
        sa.Column("sending_no", sa.BigInteger(), comment="the last that may have arrived"),
        sa.Column("sending_id", sa.BigInteger()),
        sa.Column(
            "copy_reason",
            sa.Text(),
            comment="why all is copied before the outbox; NULL: it is not",
        ),
        sa.Column(
            "since_ns",
            sa.BigInteger(),
            comment="rows that start earlier have arrived; NULL: none has",
        ),
        sa.PrimaryKeyConstraint("agent_id"),
    )
    op.create_table(
        "lease",
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False, comment="rises with each other holder"),
        sa.Column(
            "expires_unix_ns",
            sa.BigInteger(),
            nullable=False,
            comment="by the shared ledger's clock",
        ),
        sa.PrimaryKeyConstraint("device"),
    )
    op.create_table(
        "disowned",
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("hour_ns", sa.BigInteger(), nullable=False, comment="node time of the agent"),
        sa.Column("device_key", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("agent_id", "hour_ns", "device_key"),
    )
    op.create_table(
        "shipped",
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("commit_no", sa.BigInteger(), nullable=False),
        sa.Column("commit_id", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("agent_id"),
    )


def downgrade() -> None:
    """Remove what was added."""
    op.drop_column("span", "engine")
    rollups.remove_rollups()
    for table in ("shipped", "disowned", "lease", "shipping", "outbox"):
        op.drop_table(table)
    op.drop_table("lost_work")
    for name, _, _ in STEP_PROGRESS:
        op.drop_column("ring_position", name)
    op.drop_table("idle_power")
    op.drop_column("settlement", "idle_mw")
    op.drop_table("device_share")
    op.drop_table("price_rule")
    op.drop_table("repricing")
    op.drop_table("iteration")
    op.drop_column("charge", "priced_ns")
    op.drop_column("charge", "from_rate_key")

"""The tables by which a ledger is priced anew, once time was settled.

repricing         one device's settled time at another price: the meter's side of adjustments
price_rule        ... and what rules of price rows add to the meter, or take back
device_share      which part of its device's price a MIG instance or a replica costs
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, PrimaryKeyConstraint, SmallInteger, Table, Text

from apportion.cost.ledger.schema import metadata

repricing = Table(
    "repricing",
    metadata,
    Column("agent_id", BigInteger, nullable=False),
    Column("device_key", Integer, nullable=False),
    Column("start_ns", BigInteger, nullable=False, comment="in one clock hour with end_ns"),
    Column("posted_ns", BigInteger, nullable=False),
    Column("end_ns", BigInteger, nullable=False),
    Column("from_rate_key", Integer, comment="what its time cost before; NULL: no rate"),
    Column("to_rate_key", Integer, nullable=False),
    Column("units", BigInteger, nullable=False, comment="what it costs more, or less"),
    PrimaryKeyConstraint("agent_id", "device_key", "start_ns", "posted_ns"),
    sqlite_with_rowid=False,
)

price_rule = Table(
    "price_rule",
    metadata,
    Column("agent_id", BigInteger, nullable=False),
    Column("device_key", Integer, nullable=False, comment="which the amount stands beside"),
    Column("category", SmallInteger, nullable=False, comment="commitment_unused, billing_rounding"),
    Column("start_ns", BigInteger, nullable=False, comment="in one clock hour with end_ns"),
    Column("end_ns", BigInteger, nullable=False),
    Column("rate_key", Integer, nullable=False),
    Column("posted_ns", BigInteger, nullable=False),
    Column("devices", Integer, nullable=False, comment="whose time it is at most, signed"),
    Column("units", BigInteger, nullable=False, comment="signed"),
    PrimaryKeyConstraint(
        "agent_id", "device_key", "category", "start_ns", "end_ns", "rate_key", "posted_ns"
    ),
)

device_share = Table(
    "device_share",
    metadata,
    Column("agent_id", BigInteger, nullable=False),
    Column("device_key", Integer, nullable=False),
    Column("since_ns", BigInteger, nullable=False),
    Column("share", Text, nullable=False, comment="of the device's price, exact: 1/2; no row: 1"),
    PrimaryKeyConstraint("agent_id", "device_key", "since_ns"),
)

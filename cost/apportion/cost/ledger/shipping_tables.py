"""The tables by which a node's ledger reaches a shared one. Each is in both, and used in one.

On the node:

    outbox            what each commit changed that the shared ledger does not have yet
    shipping          how far the agent's commits are numbered, and shipped

In the shared ledger:

    shipped           the last commit of each agent that is in it
    disowned          hours in which an agent metered a device that was another one's

In both:

    lease             who meters a device; on the node what its agent was granted
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
)

from apportion.cost.ledger.rollup_tables import ROLLUP_TABLES
from apportion.cost.ledger.schema import metadata

outbox = Table(
    "outbox",
    metadata,
    Column("agent_id", BigInteger, nullable=False),
    Column("commit_no", BigInteger, nullable=False),
    Column("commit_id", BigInteger, nullable=False, comment="random, 63 bits"),
    Column("committed_unix_ns", BigInteger, nullable=False),
    Column("since_ns", BigInteger, nullable=False, comment="start of its earliest posted row"),
    Column("payload", LargeBinary, nullable=False, comment="see ledger.shipment"),
    PrimaryKeyConstraint("agent_id", "commit_no"),
)

shipping = Table(
    "shipping",
    metadata,
    Column("agent_id", BigInteger, nullable=False),
    Column("most_bytes", BigInteger, comment="bound of the outbox; NULL: nothing is shipped"),
    Column("waiting_bytes", BigInteger, nullable=False, comment="payloads in the outbox"),
    Column("commit_no", BigInteger, nullable=False, comment="the last commit"),
    Column("commit_id", BigInteger, nullable=False),
    Column("shipped_no", BigInteger, comment="the last that is known to have arrived"),
    Column("shipped_id", BigInteger),
    Column("sending_no", BigInteger, comment="the last that may have arrived"),
    Column("sending_id", BigInteger),
    Column("copy_reason", Text, comment="why all is copied before the outbox; NULL: it is not"),
    Column("since_ns", BigInteger, comment="rows that start earlier have arrived; NULL: none has"),
    PrimaryKeyConstraint("agent_id"),
)

lease = Table(
    "lease",
    metadata,
    Column("device", Text, nullable=False),
    Column("agent_id", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False, comment="rises with each other holder"),
    Column("expires_unix_ns", BigInteger, nullable=False, comment="by the shared ledger's clock"),
    PrimaryKeyConstraint("device"),
)

shipped = Table(
    "shipped",
    metadata,
    Column("agent_id", BigInteger, nullable=False),
    Column("commit_no", BigInteger, nullable=False),
    Column("commit_id", BigInteger, nullable=False),
    PrimaryKeyConstraint("agent_id"),
)

disowned = Table(
    "disowned",
    metadata,
    Column("agent_id", BigInteger, nullable=False),
    Column("hour_ns", BigInteger, nullable=False, comment="node time of the agent"),
    Column("device_key", Integer, nullable=False),
    PrimaryKeyConstraint("agent_id", "hour_ns", "device_key"),
)

NOT_SHIPPED = frozenset(
    {"reading", "iteration"}
    | {outbox.name, shipping.name, shipped.name, lease.name, disowned.name}
    | {table.name for table in ROLLUP_TABLES}
)
"""Tables that each ledger has for itself. A reading or an iteration is state, and gone once it is
settled; each ledger rolls up what is in it."""

"""What Alembic runs: the revisions, inside the transaction that `migrate` has begun."""

from __future__ import annotations

from alembic import context

from apportion.cost.ledger.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
)
context.run_migrations()

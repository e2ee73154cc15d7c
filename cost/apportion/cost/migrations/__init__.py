"""The ledger's schema, revision by revision. Alembic runs them; see apportion.cost.ledger."""
